"""The target `peft`: the run's own delta as the folder that peft reads, loaded there to see that it does."""

from __future__ import annotations

import shutil
from pathlib import Path

from deltatune.checkpoint import foreign
from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.checkpoint.saved import CONFIG, OURS, TENSORS, SavedAdapter, read_adapter
from deltatune.errors import AdapterError
from deltatune.exporting.changes import INSTEAD
from deltatune.exporting.lora import check_in_peft, head_labels, of_labels
from deltatune.exporting.measure import Outputs
from deltatune.exporting.target import Job, Target, write_result
from deltatune.results import Exported
from deltatune.runs.loaded import NAME, LoadedRun
from deltatune.runs.proof import proof_of


class Peft:
    """What the run saved, where peft has the method."""

    title = "The run's own delta in peft's format, where peft has the method; prompts and prefixes too."
    options = frozenset[str]()

    def export(self, job: Job) -> Exported:
        """Copy the delta, and compare its outputs in peft with ours."""
        place = foreign.adapter_folder(job.run / "adapter" if (job.run / "adapter").is_dir() else job.run)
        saved = read_adapter(place)
        _require_in_peft(saved)
        loaded = job.load()
        done = Exported(
            **job.about("peft", loaded.method, loaded.base.name),
            folder=None if job.dry_run else str(job.out),
            exact=True,
            notes=of_labels(loaded),
            details={"peft_type": saved.peft["peft_type"], **head_labels(loaded)},
        )
        if job.dry_run:
            return done
        with job.folder() as folder:
            return _written(done, loaded, place, folder)


TARGET: Target = Peft()


def _require_in_peft(saved: SavedAdapter) -> None:
    """Refuse a delta that peft has no method for.

    Raises:
        AdapterError: It is one.
    """
    if saved.ours is None or saved.ours["peft_compatible"]:
        return
    raise AdapterError(
        f"peft has no method that computes what {saved.method} does on this base.",
        field="--as",
        remedy="If it changes weights, `--as lora` makes plain LoRA of it, which peft reads, and "
        f"`--as merged` a plain model. {INSTEAD}",
    )


def _written(done: Exported, loaded: LoadedRun, place: Path, folder: Path) -> Exported:
    for name in (CONFIG, TENSORS, OURS):
        if (place / name).exists():
            shutil.copyfile(place / name, folder / name)
    outputs, proof = Outputs(loaded), proof_of(loaded, folder / CERTIFICATE)
    notes, compared = check_in_peft(loaded, folder, NAME, outputs.batch, proof)
    done = done.model_copy(update={"notes": [*done.notes, *notes], "compared": compared})
    proof.write()
    write_result(folder, done)
    return done
