"""The target `merged`: a plain Transformers model, as `deltatune merge` writes it."""

from __future__ import annotations

from typing import cast, get_args

from deltatune.checkpoint.saved import SavedAdapter, read_adapter
from deltatune.errors import DeltatuneError
from deltatune.exporting.target import Job, Target
from deltatune.results import Comparison, Exported
from deltatune.runs.merge import Dtype, merge


class Merged:
    """Base and delta as one model."""

    title = "A plain Transformers model: the delta folded into its base."
    options = frozenset({"dtype"})

    def export(self, job: Job) -> Exported:
        """Merge."""
        dtype = job.settings.dtype or "fp32"
        if dtype not in get_args(Dtype):
            raise DeltatuneError(
                f"{dtype!r} is no type of merged weights.",
                field="--dtype",
                remedy=f"Choose {', '.join(get_args(Dtype))}.",
            )
        saved = read_adapter(job.run / "adapter" if (job.run / "adapter").is_dir() else job.run)
        about = job.about("merged", saved.method, _base(saved, job))
        if job.dry_run:
            job.load(as_trained=False).model.merged()
            return Exported(**about, folder=None, exact=True)
        done = merge(
            job.run,
            job.out,
            dtype=cast(Dtype, dtype),
            trust_remote_code=job.trust_remote_code,
            given=job.given,
            device=job.device,
        )
        return Exported(
            **about,
            folder=done.folder,
            exact=True,
            compared=[
                Comparison(
                    computed_by="deltatune",
                    on=done.compared_on,
                    largest_difference=done.max_abs_logit_difference,
                    effect=done.max_abs_logit_effect,
                )
            ],
            details={"dtype": done.dtype, "parameters": done.parameters},
        )


def _base(saved: SavedAdapter, job: Job) -> str:
    """The base's name, as the run has it or the user."""
    return str(saved.ours["base"]["name"] if saved.ours else job.given and job.given.base)


TARGET: Target = Merged()
