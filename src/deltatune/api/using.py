"""What is done with a finished run: evaluated, asked, merged, inspected, loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deltatune.alone import alone

if TYPE_CHECKING:
    from deltatune.recipe.given import Given
    from deltatune.results import CertifiedFolder, Exported, MergedModel, Prediction, SavedDelta
    from deltatune.runs import Failed, LoadedRun
    from deltatune.runs.merge import Dtype


@alone
def evaluate(
    run: str | Path,
    *,
    split: Literal["train", "validation", "test"] = "test",
    predictions: str | Path | None = None,
    given: Given | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> dict[str, float]:
    """Evaluate a finished run again, from its saved delta.

    Args:
        run: The run's folder, or that of an adapter without a run.
        split: The rows to evaluate on.
        predictions: A file to write a line for each row to.
        given: Of an adapter without a run: its base, task, classes and recipe.
        device: Where: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`.
        trust_remote_code: Whether Python code that comes with the base may run.
        quiet: Show no progress.

    Returns:
        The metrics by name.

    Raises:
        DeltatuneError: The folder holds no finished run, or its data have gone.
    """
    from deltatune.cli.progress import watching
    from deltatune.runs import evaluate_run

    with watching(quiet=quiet) as observer:
        return evaluate_run(
            Path(run),
            split=split,
            predictions=None if predictions is None else Path(predictions),
            trust_remote_code=trust_remote_code,
            given=given,
            device=device,
            observer=observer,
        )


@alone
def predict(
    run: str | Path,
    inputs: Any,
    *,
    given: Given | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> list[Prediction | Failed]:
    """Use a trained run.

    Args:
        run: The run's folder, or that of an adapter without a run.
        inputs: Texts, image files, or mappings with a row's columns; a frame of these; one text or mapping;
            or a file or a folder of images, as a `Path`.
        given: Of an adapter without a run: its base, task, classes and template.
        device: Where: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`.
        trust_remote_code: Whether Python code that comes with the base may run.

    Returns:
        One for each input, in order: a prediction, or what is wrong with the input.

    Raises:
        DeltatuneError: The folder holds no finished run, or a file of inputs cannot be read.
    """
    from deltatune.data.memory import as_inputs
    from deltatune.runs import predict as predict_all

    asked = inputs if isinstance(inputs, Path) else as_inputs(inputs)
    found = predict_all(Path(run), asked, trust_remote_code=trust_remote_code, given=given, device=device)
    return list(found)


@alone
def merge(
    run: str | Path,
    out: str | Path,
    *,
    others: Sequence[str | Path] = (),
    rule: Literal["linear", "ties", "dare"] = "linear",
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    dtype: Dtype = "fp32",
    given: Given | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> MergedModel:
    """Fold a run's delta, or several put together, into the base, and write a model that needs no deltatune.

    Args:
        run: The run's folder, or that of an adapter without a run.
        out: The folder of the merged model.
        others: Runs on the same base whose low-rank deltas are put together with it.
        rule: How: a weighted sum, TIES or DARE.
        weights: One for each run. Default: equal ones.
        density: Share of each delta that TIES and DARE keep.
        dtype: Of the merged weights.
        given: Of an adapter without a run: its base, task and classes.
        device: Where deltas are folded; the host has most room.
        trust_remote_code: Whether Python code that comes with the base may run.

    Returns:
        Where the model is, and how far its outputs are from those of base and delta side by side.

    Raises:
        DeltatuneError: The folder holds no finished run, or the delta cannot be folded.
    """
    from deltatune.runs import merge as merge_runs

    return merge_runs(
        Path(run),
        Path(out),
        others=[Path(other) for other in others],
        rule=rule,
        weights=weights,
        density=density,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        given=given,
        device=device,
    )


@alone
def export(
    run: str | Path,
    out: str | Path,
    *,
    target: str,
    rank: int | None = None,
    keep: float | str | None = None,
    dtype: str | None = None,
    rows: int | None = None,
    dry_run: bool = False,
    given: Given | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Exported:
    """Write what a run has learned in a form that other programs read, and measure what that loses.

    Args:
        run: The run's folder, or that of an adapter without a run.
        out: The folder of the export. One that an earlier export wrote is replaced.
        target: `lora`, `peft`, `vllm`, `merged` or another name of `deltatune export --help`.
        rank: Of a LoRA: its largest rank.
        keep: Of a LoRA: the share of each update's energy that its rank holds, such as `"99%"`.
        dtype: Type of the weights that are written, by the target's own names.
        rows: Test rows to measure the run's metric on; 0 for none. Default: all.
        dry_run: Write nothing; say what would be written.
        given: Of an adapter without a run: its base, task, classes and recipe.
        device: Where: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`.
        trust_remote_code: Whether Python code that comes with the base may run.
        quiet: Show no progress.

    Returns:
        What `out/export.json` holds: what was kept, what was lost, and the run's metric before and after.

    Raises:
        DeltatuneError: The run's method has no such form, a setting is wrong, or the folder holds no run.
    """
    from deltatune.cli.progress import watching
    from deltatune.exporting.export import export as export_run
    from deltatune.exporting.export import share
    from deltatune.exporting.target import Settings

    settings = Settings(rank, None if keep is None else share(keep), dtype, rows)
    with watching(quiet=quiet) as observer:
        return export_run(
            Path(run),
            Path(out),
            target=target,
            settings=settings,
            dry_run=dry_run,
            given=given,
            device=device,
            trust_remote_code=trust_remote_code,
            observer=observer,
        )


@alone
def inspect(
    folder: str | Path, *, given: Given | None = None, trust_remote_code: bool = False
) -> SavedDelta | CertifiedFolder:
    """Say what a saved delta is, what its run proved, and what using it would load and run here.

    Args:
        folder: A run, a merged model, or a folder with a saved delta, also peft's.
        given: Of an adapter without a run: a base, which is then loaded to see whether it fits.
        trust_remote_code: Whether Python code that comes with that base may run.

    Raises:
        DeltatuneError: There is neither a delta nor a certificate, a file is damaged, or it does not fit.
    """
    from deltatune.runs import inspect as inspect_folder

    return inspect_folder(Path(folder), given=given, trust_remote_code=trust_remote_code)


@alone
def load(
    run: str | Path, *, given: Given | None = None, device: str = "auto", trust_remote_code: bool = False
) -> LoadedRun:
    """Load a run's base with its delta attached; `.model` is an `AdaptedModel`.

    Args:
        run: The run's folder, or that of an adapter without a run.
        given: Of an adapter without a run: its base, task, classes and template.
        device: Where: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`.
        trust_remote_code: Whether Python code that comes with the base may run.

    Raises:
        DeltatuneError: The folder holds no finished run, or its base cannot be loaded.
    """
    from deltatune.runs import load_run

    return load_run(run, trust_remote_code=trust_remote_code, given=given, device=device)
