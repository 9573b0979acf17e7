"""The target `lora`: any change of weights as plain LoRA, a folder that peft and deltatune read."""

from __future__ import annotations

from pathlib import Path

from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.checkpoint.store import load_adapter, write_adapter
from deltatune.exporting.in_peft import Batch, in_peft, no_peft, version
from deltatune.exporting.low_rank import EXPORTED, LowRank, attach, low_rank
from deltatune.exporting.measure import Outputs, kept_metric
from deltatune.exporting.target import Job, Target, write_result
from deltatune.quant import describe
from deltatune.results import Comparison, Exported, KeptMetric
from deltatune.runs.loaded import LoadedRun
from deltatune.runs.proof import proof_of
from deltatune.training.proof.certificate import Proof

SAME, KEPT, IN_PEFT = "exported LoRA is the same", "kept by the export", "peft computes the same"
REPORT = "The folder does not hold what was made; please report it."


class Lora:
    """Plain LoRA by truncated singular value decomposition."""

    title = "Plain LoRA in peft's format, of any method that changes weights."
    options = frozenset({"rank", "keep", "rows"})

    def export(self, job: Job) -> Exported:
        """Decompose, write, load again and measure."""
        loaded = job.load()
        made = low_rank(loaded.model, loaded.method, job.settings, job.observer)
        if job.dry_run:
            return planned(job, "lora", loaded, made)
        with job.folder() as folder:
            attach(loaded.model, made)
            return write_lora(job, "lora", loaded, made, folder)


TARGET: Target = Lora()


def planned(job: Job, target: str, loaded: LoadedRun, made: LowRank) -> Exported:
    """What an export as LoRA would be, before anything is written or measured."""
    return Exported(
        **job.about(target, loaded.method, loaded.base.name),
        folder=None,
        exact=made.exact,
        sites=made.sites,
        whole=made.changes.whole,
        biases=list(made.changes.biases),
        left_out=made.changes.left_out,
        notes=_notes(loaded, made),
        details=head_labels(loaded),
    )


def head_labels(loaded: LoadedRun) -> dict[str, list[str]]:
    """What the outputs of the run's head are called, in their order, which no file of peft's says."""
    return {"labels": list(loaded.labels)} if loaded.labels else {}


def of_labels(loaded: LoadedRun) -> list[str]:
    """The same as a note."""
    if not loaded.labels:
        return []
    return [
        "No file of peft's names the classes: they are `labels` in export.json, in the order of the head's "
        "outputs. Load the folder with as many (num_labels); deltatune takes their names as --labels."
    ]


def write_lora(job: Job, target: str, loaded: LoadedRun, made: LowRank, folder: Path) -> Exported:
    """Write what is attached as `EXPORTED`, load it again, and measure it.

    Raises:
        TrainingError: What was read back computes something else than what was made, or an exact export
            something else than the run.
    """
    model = loaded.model
    write_adapter(model, EXPORTED, folder, base_name=loaded.base.name, fingerprint=loaded.fingerprint)
    model.detach(EXPORTED)
    load_adapter(model, folder, EXPORTED, fingerprint=loaded.fingerprint)
    job.observer.stage("Comparing outputs")
    outputs, proof = Outputs(loaded), proof_of(loaded, folder / CERTIFICATE)
    compared = [outputs.comparison(outputs.exported(), "deltatune")]
    notes = _notes(loaded, made)
    if made.exact:
        proof.equal_logits(SAME, outputs.beside(outputs.run), outputs.exported(), REPORT)
    unasked, in_theirs = check_in_peft(loaded, folder, EXPORTED, outputs.batch, proof)
    notes, compared = notes + unasked, compared + in_theirs
    metric = kept_metric(loaded, job.settings.rows, job.observer)
    if isinstance(metric, str):
        notes.append(metric)
    plan = planned(job, target, loaded, made)
    done = plan.model_copy(
        update={
            "folder": str(job.out),
            "compared": compared,
            "metric": metric if isinstance(metric, KeptMetric) else None,
            "notes": notes,
        }
    )
    if not made.exact:
        _tell(proof, done)
    proof.write()
    write_result(folder, done)
    return done


def check_in_peft(
    loaded: LoadedRun, folder: Path, name: str, batch: Batch, proof: Proof
) -> tuple[list[str], list[Comparison]]:
    """Check that peft computes the same with a folder as the run's model does with the adapter `name`.

    Returns:
        Why peft was not asked, if it was not; and the comparison, if it was.

    Raises:
        TrainingError: It computes something else.
    """
    reason = no_peft(loaded, name)
    if reason is not None:
        return [reason], []
    wanted, found = in_peft(loaded, folder, name, batch)
    remedy = f"{version()} reads the folder in another way; please report it."
    proof.equal_logits(IN_PEFT, wanted, found, remedy)
    difference, effect = wanted.distance(found), wanted.distance(wanted.plain)
    return [], [Comparison(computed_by=version(), on=wanted.of, largest_difference=difference, effect=effect)]


def _tell(proof: Proof, done: Exported) -> None:
    """Write down what an export that is not exact keeps; that it keeps less than all is no failure."""
    ours, metric = done.compared[0], done.metric
    parts = [
        f"{100 * done.kept:.4g} % of the energy of the updates",
        f"logits differ by up to {ours.largest_difference:.3g}; the delta moves them by {ours.effect:.3g}",
    ]
    if metric is not None:
        parts.append(f"{metric.metric} {metric.before:.4g} -> {metric.after:.4g}")
    values = {"energy": done.kept, "difference": ours.largest_difference, "effect": ours.effect}
    proof.check(KEPT, True, "; ".join(parts), "", values)


def _notes(loaded: LoadedRun, made: LowRank) -> list[str]:
    """What must be known to use a LoRA of this run."""
    notes = of_labels(loaded)
    formats = describe(loaded.model.base)
    if formats:
        notes.append(
            f"The run's base is quantized ({formats}), and updates are those of its weights as they were. So "
            "the LoRA belongs to the base quantized in this way; on the base as it was before it is off by "
            "what quantizing lost."
        )
    kept_as = str(next(loaded.model.base.parameters()).dtype).removeprefix("torch.")
    if not formats and kept_as != "float32" and loaded.method == "full":
        notes.append(
            f"The run had its base's weights in {kept_as}, and the update is that of these. On a base "
            "whose weights are kept in float32 the LoRA is off by what that rounded."
        )
    if made.changes.biases:
        notes.append(
            "Biases are in the file. peft writes them into the base when it loads the file, and does not "
            "take them out again when the adapter is switched off."
        )
    if not made.factors:
        notes.append("No layer has a low-rank update: one holds zeros, since peft's LoRA needs a layer.")
    return notes
