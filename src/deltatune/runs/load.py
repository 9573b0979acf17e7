"""From the folder of a run, or of an adapter without one, back to a model that works."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from deltatune.checkpoint.foreign import CONFIG, TENSORS
from deltatune.checkpoint.manifest import changed_files
from deltatune.checkpoint.saved import OURS
from deltatune.checkpoint.store import load_adapter
from deltatune.core.devices import AUTO, HOST, computes_bfloat16, device_of
from deltatune.core.model import AdaptedModel
from deltatune.core.offload import place_of_rest
from deltatune.core.ranks import ranks
from deltatune.data.encode import Encoder
from deltatune.errors import AdapterError
from deltatune.files import sha256
from deltatune.models.load import load_base
from deltatune.recipe import Recipe
from deltatune.recipe.given import Given
from deltatune.recipe.wanted import FILE, run_recipe
from deltatune.runs.foreign import beside_without_run, is_without_run, load_without_run
from deltatune.runs.loaded import NAME, LoadedRun
from deltatune.tasks import TASKS
from deltatune.training.given.beside import beside_rows
from deltatune.training.given.folder import delta_folder, finished_result
from deltatune.training.given.start import other_head


def load_run(
    folder: str | Path,
    *,
    as_trained: bool = True,
    trust_remote_code: bool = False,
    given: Given | None = None,
    device: str = AUTO,
    shard: bool = False,
) -> LoadedRun:
    """Load the base that a run's recipe names, and attach the run's delta.

    Args:
        folder: The run's folder (with recipe.yaml, result.json and adapter/), or that of an adapter without
            a run, such as peft writes.
        as_trained: Whether the base has the precision of its training, quantized or in bfloat16 (where
            this machine computes in it); else its weights are plain ones in float32.
        trust_remote_code: Whether Python code that comes with the base may run; what the recipe says of it
            counts only as a wish.
        given: What the user says of an adapter without a run: its base, its task, its classes.
        device: Where the model goes, as a recipe's `device`; that of the run's own recipe does not count,
            which may have been another machine's.
        shard: Whether a base that was spread over processes in training is spread over those that have
            joined, which all have to go through the same passes.

    Raises:
        AdapterError: It is no finished run and no adapter, the delta is damaged or belongs to another base,
            or the run wants to run code.
        ModelError: The base cannot be loaded.
    """
    folder, given, place = Path(folder), given or Given(), device_of(device, field="--device")
    if is_without_run(folder):
        return load_without_run(
            folder, given, as_trained=as_trained, trust_remote_code=trust_remote_code, device=place
        )
    result = finished_result(folder)
    given.refuse(folder)
    if changed_files(folder, [FILE]):
        warnings.warn(
            f"'{folder / FILE}' was changed since the run wrote it: what it says now holds.", stacklevel=2
        )
    recipe = run_recipe(folder, trust_remote_code=trust_remote_code)
    if result.data.pair is not None:  # which the recipe may leave to the names of the columns
        recipe = _reading_pairs(recipe, *result.data.pair)
    labels = result.data.labels
    # A delta acts on any precision, but it has learned to make up for the rounding of the base it saw.
    [entry] = recipe.methods
    bits = entry.quantization if as_trained else None
    bfloat16 = as_trained and result.model.dtype == "bfloat16" and computes_bfloat16(place)
    dtype = "bfloat16" if bfloat16 else "float32"
    offload = place_of_rest(entry.train.offload, place) if as_trained else None
    before = "head" not in result.model.model_fields_set  # runs of before compared labels to the letter
    shard = shard and entry.train.shard and ranks().count > 1
    spec = recipe.model if place.type == "cuda" else recipe.model.anywhere
    spec = spec if as_trained else spec.unpacked()
    base = load_base(
        spec, recipe.task, labels, dtype=dtype, quantization=bits, as_spelled=before,
        device=HOST if shard else place, offload=offload,
    )  # fmt: skip
    digest = base.settle(place, shard=shard)
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor, pooling=base.pooling)
    load_adapter(model, delta_folder(folder), NAME, fingerprint=digest)
    model.eval()
    encoder = Encoder(recipe.task, base.processor, recipe.data, labels, base.facts, result.data.scale)
    encoder.beside = beside_rows(model.adapter(NAME), base.model, recipe)
    return LoadedRun(folder, recipe, base, model, encoder, result, result.name, result.method, digest)


def _reading_pairs(recipe: Recipe, first: str, second: str) -> Recipe:
    """The recipe with the columns of the two texts by their names."""
    columns = recipe.data.columns.model_copy(update={"input": first, "pair": second})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"columns": columns})})


def attach_run(loaded: LoadedRun, folder: Path, name: str) -> None:
    """Attach the delta of another run, or an adapter without one, to the base of `loaded`, under `name`.

    Raises:
        AdapterError: It is no finished run, or one of another base or with other labels.
    """
    if is_without_run(folder):
        load_adapter(loaded.model, folder, name, fingerprint=loaded.fingerprint)
        return
    result = finished_result(folder)
    if other := other_head(result, loaded.recipe.task, loaded.labels):
        raise AdapterError(
            f"the run in '{folder}' does not fit that in '{loaded.folder}': it {other}.",
            remedy="Put runs of one task, with the same classes, together.",
        )
    if loaded.result is not None and result.data.scale != loaded.result.data.scale:
        raise AdapterError(
            f"the runs in '{loaded.folder}' and '{folder}' have targets with other means or spreads.",
            remedy="Put runs of the same training rows together.",
        )
    load_adapter(loaded.model, delta_folder(folder), name, fingerprint=loaded.fingerprint)


def load_beside(
    loaded: LoadedRun, folder: Path, adapter: str, *, trust_remote_code: bool = False
) -> LoadedRun:
    """Another run, or an adapter without one, on the base of `loaded`. Its delta is attached by `attach`.

    Args:
        loaded: A run whose base it shares.
        folder: As of `load_run`.
        adapter: What its delta is called in the model.
        trust_remote_code: As of `load_run`.

    Raises:
        AdapterError: It is no finished run, or its head, its vectors or its base are others.
    """
    if is_without_run(folder):
        return beside_without_run(loaded, folder, adapter)
    result = finished_result(folder)
    recipe = run_recipe(folder, trust_remote_code=trust_remote_code)
    if result.data.pair is not None:
        recipe = _reading_pairs(recipe, *result.data.pair)
    apart = other_head(result, loaded.recipe.task, loaded.labels)
    if apart is None and TASKS.get(recipe.task).auto_class != TASKS.get(loaded.recipe.task).auto_class:
        apart = f"is of the task {recipe.task}, and this is {loaded.recipe.task}"
    if apart is None and recipe.model.pooling != loaded.recipe.model.pooling:
        apart = "makes vectors of a text by another pooling"
    if apart is not None:
        raise AdapterError(
            f"the run in '{folder}' does not fit that in '{loaded.folder}': it {apart}.",
            remedy="Put runs of one base together, with the same classes.",
        )
    base, labels = loaded.base, result.data.labels
    encoder = Encoder(recipe.task, base.processor, recipe.data, labels, base.facts, result.data.scale)
    return replace(
        loaded, folder=folder, recipe=recipe, encoder=encoder, result=result, name=result.name,
        method=result.method, adapter=adapter,
    )  # fmt: skip


def attach(run: LoadedRun) -> None:
    """Attach the delta of what `load_beside` gave, which is read from its files.

    Raises:
        AdapterError: It is damaged, or belongs to another base.
    """
    assert run.adapter is not None
    load_adapter(run.model, _delta_of(run), run.adapter, fingerprint=run.fingerprint)
    beside = beside_rows(run.model.adapter(run.adapter), run.base.model, run.recipe)
    if run.encoder.beside is not beside:
        run.encoder = run.encoder.with_beside(beside)  # another run may have the same one


def delta_digest(run: LoadedRun) -> str:
    """What tells the files that `attach` reads from those of another delta; empty if there are none."""
    folder = _delta_of(run)
    names = (OURS,) if (folder / OURS).is_file() else (CONFIG, TENSORS)  # ours has the tensors' checksum
    return " ".join(sha256(folder / name) for name in names if (folder / name).is_file())


def _delta_of(run: LoadedRun) -> Path:
    return run.folder if run.result is None else delta_folder(run.folder)
