"""Fold a run's delta, or what several together make, into its base, and measure what that changes."""

from __future__ import annotations

import re
import warnings as messages
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltatune.checkpoint.folders import atomic_folder, settle
from deltatune.checkpoint.inspection import CERTIFICATE, read_certificate
from deltatune.checkpoint.lock import NAME as LOCK
from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import NAME as MANIFEST
from deltatune.checkpoint.manifest import checksums, read_manifest, vouch
from deltatune.core.devices import to_device
from deltatune.core.fast.labelled_head import decoder_inputs
from deltatune.core.model import AdaptedModel
from deltatune.data.chat import chat_template
from deltatune.data.load import load_data
from deltatune.errors import DataError, DeltatuneError, ModelError, TrainingError
from deltatune.files import make_folder, text_sha256
from deltatune.methods.combine import combine
from deltatune.models.quiet import quiet
from deltatune.recipe.given import Given
from deltatune.recipe.sections import ModelSpec
from deltatune.results import MergedModel
from deltatune.runs.load import attach_run, load_run
from deltatune.runs.loaded import NAME, LoadedRun
from deltatune.runs.sentence_files import write_sentence_files
from deltatune.tasks import TASKS, Task
from deltatune.tasks.values import Scales
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.equal_logits import ROUNDING, Logits, rounding

ROWS = 8
Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LINE = "merged model is the same"
KIND = "merged model"
_OF_0_1 = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|spiece"
    r"|preprocessor_config|processor_config|certificate|model(-\d+-of-\d+)?|chat_template|merges"
    r"|model\.safetensors\.index)\.(json|safetensors|model|txt|jinja)"
)
"""Files of a model that version 0.1 merged, and listed nowhere."""


def merge(
    folder: Path,
    out: Path,
    *,
    others: Sequence[Path] = (),
    rule: Literal["linear", "ties", "dare"] = "linear",
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    dtype: Dtype = "fp32",
    trust_remote_code: bool = False,
    given: Given | None = None,
    device: str = "cpu",
) -> MergedModel:
    """Write base and delta as one plain Transformers model.

    A delta of a quantized base is folded into the weights that were quantized, never into few bits, and how
    far that moves the outputs is measured too. The merged folder is loaded again, and its logits are compared
    with those of base and delta side by side, on the first test rows of the run's data (random tokens or
    pixels, where the data are gone). What is found is a line more in the certificate, which goes along.

    Args:
        folder: The run's folder.
        out: Folder for the model. One that an earlier merge wrote is replaced.
        others: Runs of the same base whose low-rank deltas are combined with that of the first.
        rule: How they are combined, with no loss by a rank: see `deltatune.methods.combine`.
        weights: A factor for each run, the first one's first.
        density: Share of its entries that ties and dare keep of each update.
        dtype: Type of the weights that are written. What it rounds counts in the comparison of logits.
        trust_remote_code: As of `load_run`.
        given: As of `load_run`, of the first.
        device: Where deltas are folded and logits compared. On the host there is most room for a base and
            its merged copy; a quantized base, which is loaded to compare with, goes to a GPU all the same.

    Raises:
        AdapterError: The method cannot be written into weights, the folder holds no finished run, or several
            runs differ in their base or are not low-rank.
        DeltatuneError: `out` is neither new, nor empty, nor a model merged before; or it is the base.
        TrainingError: The merged model computes something else. The folder then holds the certificate alone.
        ModelError: A weight is too large for `dtype`.
    """
    place = out.resolve()  # of a link, the folder that it leads to is the model's
    make_folder(place.parent)
    with Lock(place.parent, messages.warn, name=f"{LOCK}.{text_sha256(place.name)[:8]}"):
        settle(place.parent, place.name)
        require_replaceable(place)
        done = _merge(
            folder,
            place,
            others,
            rule,
            weights,
            density,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            given=given,
            device=device,
        )
    return done.model_copy(update={"folder": str(out)})


def _meanings(loaded: LoadedRun) -> dict[str, float | list[float]]:
    """What the model's outputs mean: nothing else in the folder tells; lists are in their order."""
    if loaded.threshold is not None:
        return {"label_threshold": loaded.threshold}
    scale = loaded.encoder.scale
    if isinstance(scale, Scales):
        scales = {name: scale.targets[name] for name in loaded.encoder.labels or scale.targets}
        means, deviations = ([getattr(each, part) for each in scales.values()] for part in ("mean", "sd"))
        return {"target_mean": means, "target_sd": deviations}
    return {} if scale is None else {"target_mean": scale.mean, "target_sd": scale.sd}


def _merge(  # noqa: PLR0917
    folder: Path,
    out: Path,
    others: Sequence[Path],
    rule: Literal["linear", "ties", "dare"],
    weights: Sequence[float] | None,
    density: float,
    *,
    dtype: Dtype,
    trust_remote_code: bool,
    given: Given | None,
    device: str,
) -> MergedModel:
    """The merge, with the place of `out` locked."""
    loaded = load_run(
        folder, as_trained=False, trust_remote_code=trust_remote_code, given=given, device=device
    )
    _require_apart(out, loaded.recipe.model)
    if others:
        names = [NAME, *(f"other-{index}" for index in range(len(others)))]
        for name, other in zip(names[1:], others, strict=True):
            attach_run(loaded, other, name)
        widest = max(max(weight.shape) for weight in loaded.base.model.parameters() if weight.dim() == 2)
        combine(loaded.model, names, "together", rule=rule, weights=weights, density=density, rank=widest)
    merged = loaded.model.merged()
    assert isinstance(merged, PreTrainedModel)
    _require_fit(merged, dtype)
    merged.config.update(_meanings(loaded))
    nn.Module.to(merged, DTYPES[dtype])
    task, (inputs, compared_on) = TASKS.get(loaded.recipe.task), _batch(loaded)
    batch = to_device(inputs, loaded.model.device)
    with torch.inference_mode():
        side_by_side = task.outputs(loaded.model, batch)
        with loaded.model.using():
            plain = task.outputs(loaded.model, batch)
    share = max(rounding(loaded.model), ROUNDING[DTYPES[dtype]])
    wanted = Logits(side_by_side, plain, compared_on, share)
    certificate = _certificate(loaded, out, [str(path) for path in others])
    try:
        with quiet(), atomic_folder(out) as temporary:
            certificate.path = temporary / CERTIFICATE
            _write(merged, temporary, loaded, width=side_by_side.shape[-1])
            again = type(merged).from_pretrained(temporary, dtype=DTYPES[dtype])
            nn.Module.to(again, loaded.model.device)
            typed = {k: v.to(DTYPES[dtype]) if v.is_floating_point() else v for k, v in batch.items()}
            with torch.inference_mode():
                found = task.outputs(AdaptedModel(again, pooling=loaded.base.pooling), typed)
            remedy = (
                "Keep the delta beside its base; please report it."
                if dtype == "fp32"
                else f"{dtype} loses too much of what the delta does: merge with --dtype fp32."
            )
            certificate.equal_logits(LINE, wanted, found, remedy)
            certificate.write()
            _vouch(temporary)
            require_replaceable(out)  # still: another command may have begun to work there
    except TrainingError:
        with atomic_folder(out) as instead:
            certificate.path = instead / CERTIFICATE
            certificate.write()
            _vouch(instead)
            require_replaceable(out)
        raise
    difference, quantized = wanted.distance(found), None
    if loaded.recipe.methods[0].quantization is not None and not others:
        quantized = _distance_as_trained(folder, inputs, wanted, trust_remote_code=trust_remote_code)
    return MergedModel(
        folder=str(out),
        parameters=sum(p.numel() for p in merged.parameters()),
        dtype=dtype,
        compared_on=compared_on,
        max_abs_logit_difference=difference,
        logit_scale=float(side_by_side.std()),
        max_abs_difference_to_quantized=quantized,
    )


def _distance_as_trained(
    folder: Path, inputs: dict[str, Tensor], wanted: Logits, *, trust_remote_code: bool
) -> float:
    """How far the outputs of a run on its quantized base, wherever that is, are from `wanted`."""
    trained = load_run(folder, trust_remote_code=trust_remote_code)
    with torch.inference_mode():
        batch = to_device(inputs, trained.model.device)
        found = TASKS.get(trained.recipe.task).outputs(trained.model, batch)
    return wanted.distance(found.to(wanted.wanted.device))


def _write(merged: PreTrainedModel, folder: Path, loaded: LoadedRun, *, width: int) -> None:
    """Write the model, what makes its inputs, and of vectors [..., width] how they are pooled."""
    merged.save_pretrained(folder)
    if template := chat_template(loaded.recipe.data.chat_template):
        loaded.base.processor.chat_template = template
    loaded.base.processor.save_pretrained(folder)
    if TASKS.get(loaded.recipe.task).embeds:
        write_sentence_files(folder, loaded.base.pooling, width, loaded.recipe.data)


def _require_apart(out: Path, spec: ModelSpec) -> None:
    """Refuse to put a model in the place of its base.

    Raises:
        DeltatuneError: `out` is the folder that the base was loaded from.
    """
    base = Path(spec.name).expanduser()
    if base.exists() and out in (base.resolve(), base.resolve().parent):  # the latter of a .gguf file
        raise DeltatuneError(
            f"'{out}' is the base of the run, or holds it.", field="--out", remedy="Choose another folder."
        )


def _require_fit(model: nn.Module, dtype: Dtype) -> None:
    """Refuse a type that some weight becomes infinite in.

    Raises:
        ModelError: There is one.
    """
    largest = torch.finfo(DTYPES[dtype]).max
    for name, weight in model.named_parameters():
        found = float(weight.abs().max()) if weight.numel() else 0.0
        if found > largest:
            raise ModelError(
                f"{name} holds {found:.3g}, and {dtype} ends at {largest:.3g}.",
                field="--dtype",
                remedy="Merge into bf16, which has the range of fp32, or into fp32.",
            )


def require_replaceable(out: Path) -> None:
    """Refuse to put a model in the place of anything but a merged model: the whole folder is replaced.

    Raises:
        DeltatuneError: It is a file, or a folder with something that `merge` did not write.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    plain = out.is_dir() and not any(path.is_dir() for path in out.iterdir())
    known = read_manifest(out) if out.is_dir() else None
    if known is not None and known.kind == KIND:
        there = [path for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
        others = {path.relative_to(out).as_posix() for path in there} - {MANIFEST, *known.files}
        if others:
            raise DeltatuneError(
                f"'{out}' holds {', '.join(sorted(others))}, which `merge` did not write.",
                field="--out",
                remedy="Choose another folder, or move that elsewhere.",
            )
        return
    plain = plain and known is None and all(_OF_0_1.fullmatch(path.name) for path in out.iterdir())
    try:
        certificate = read_certificate(out) if plain else None
    except DeltatuneError:
        certificate = None
    merged = certificate is not None and any(line.check == LINE for line in certificate.lines)
    if not merged:
        raise DeltatuneError(
            f"'{out}' is not a model that was merged before.",
            field="--out",
            remedy="Choose another folder, or remove this one yourself.",
        )


def _vouch(folder: Path) -> None:
    """List the files of a merged model, with their checksums."""
    vouch(folder, KIND, checksums(folder, [path.name for path in folder.iterdir()]))


def _certificate(loaded: LoadedRun, out: Path, others: Sequence[str]) -> Proof:
    """The run's own certificate, to go on with; of several runs only what they are."""
    result = loaded.result
    about = {"name": loaded.name, "method": loaded.method, "seed": result.seed if result else None}
    if others:
        return Proof(out / CERTIFICATE, about | {"merged_with": list(others)})
    proof = Proof(out / CERTIFICATE, about)
    proof.take(result.certificate if result else [])
    return proof


def _batch(loaded: LoadedRun) -> tuple[dict[str, Tensor], str]:
    """A batch without labels, with what the decoder reads where there is one."""
    try:
        if not loaded.names_rows:
            raise DataError("there are none.")
        rows = load_data(loaded.recipe.data, loaded.recipe.task).test[:ROWS]
        batch = loaded.encoder.collate(loaded.encoder.encode(rows).features)
        note = f"{len(rows)} test rows"
    except DataError:
        batch, note = (
            _random_batch(loaded.base.model, TASKS.get(loaded.recipe.task)),
            f"random inputs (the data are {'gone' if loaded.names_rows else 'not named'})",
        )
    labels = batch.pop("labels", None)
    if labels is not None and loaded.model.view.is_encoder_decoder:
        batch["decoder_input_ids"] = decoder_inputs(loaded.base.model, labels)
    return batch, note


def _random_batch(model: PreTrainedModel, task: Task) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        return {"pixel_values": torch.randn(ROWS, 3, size, size, generator=generator)}
    ids = torch.randint(3, model.config.vocab_size, (ROWS, 32), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if task.embeds:
        return {name: tensor[:, None] for name, tensor in batch.items()}
    return batch | ({"labels": ids[:, :8]} if model.config.is_encoder_decoder else {})
