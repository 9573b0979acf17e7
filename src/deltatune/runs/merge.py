"""Fold a run's delta, or what several together make, into its base, and measure what that changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltatune.checkpoint.folders import atomic_folder
from deltatune.checkpoint.inspection import CERTIFICATE, read_certificate
from deltatune.core.devices import to_device
from deltatune.core.model import AdaptedModel
from deltatune.data.chat import chat_template
from deltatune.errors import DeltatuneError, ModelError, TrainingError
from deltatune.methods.combine import combine
from deltatune.models.quiet import quiet
from deltatune.recipe.given import Given
from deltatune.results import MergedModel
from deltatune.runs.load import attach_run, load_run
from deltatune.runs.loaded import NAME, LoadedRun
from deltatune.runs.place import Product, locked_place, require_apart
from deltatune.runs.proof import about, proof_of
from deltatune.runs.sample import sample_batch
from deltatune.runs.sentence_files import write_sentence_files
from deltatune.tasks import TASKS
from deltatune.tasks.values import Scales
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.equal_logits import ROUNDING, Logits, rounding

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LINE = "merged model is the same"
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

    A delta of a quantized base is folded into the weights that were quantized, or, of a base that came so,
    into what its layers compute with: never into few bits. How far that moves the outputs is measured too.
    The merged folder is loaded again, and its logits are compared with those of base and delta side by side,
    on the first test rows of the run's data (random tokens or pixels, where the data are gone). What is found
    is a line more in the certificate, which goes along.

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
    with locked_place(out) as place:
        MERGED.require_replaceable(place)
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


def meanings(loaded: LoadedRun) -> dict[str, float | list[float]]:
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
    require_apart(out, loaded.recipe.model)
    if others:
        names = [NAME, *(f"other-{index}" for index in range(len(others)))]
        for name, other in zip(names[1:], others, strict=True):
            attach_run(loaded, other, name)
        widest = max(max(weight.shape) for weight in loaded.base.model.parameters() if weight.dim() == 2)
        combine(loaded.model, names, "together", rule=rule, weights=weights, density=density, rank=widest)
    merged = loaded.model.merged()
    assert isinstance(merged, PreTrainedModel)
    _require_fit(merged, dtype)
    merged.config.update(meanings(loaded))
    nn.Module.to(merged, DTYPES[dtype])
    task, (inputs, compared_on) = TASKS.get(loaded.recipe.task), sample_batch(loaded)
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
            MERGED.vouch(temporary)
            MERGED.require_replaceable(out)  # still: another command may have begun to work there
    except TrainingError:
        with atomic_folder(out) as instead:
            certificate.path = instead / CERTIFICATE
            certificate.write()
            MERGED.vouch(instead)
            MERGED.require_replaceable(out)
        raise
    difference, quantized = wanted.distance(found), None
    if loaded.had_few_bits and not others:
        quantized = _distance_as_trained(folder, inputs, wanted, trust_remote_code=trust_remote_code)
    return MergedModel(
        folder=str(out),
        parameters=sum(p.numel() for p in merged.parameters()),
        dtype=dtype,
        compared_on=compared_on,
        max_abs_logit_difference=difference,
        max_abs_logit_effect=wanted.distance(plain),
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


class _MergedModel(Product):
    """A merged model; those of version 0.1 have no manifest and are told by their files."""

    def require_replaceable(self, out: Path) -> None:
        """As of every product."""
        if not _is_of_0_1(out):
            super().require_replaceable(out)


def _is_of_0_1(out: Path) -> bool:
    """Whether a folder holds the files of a merged model, a certificate of that, and nothing else."""
    if not out.is_dir() or not all(p.is_file() and _OF_0_1.fullmatch(p.name) for p in out.iterdir()):
        return False
    try:
        certificate = read_certificate(out)
    except DeltatuneError:
        return False
    return certificate is not None and any(line.check == LINE for line in certificate.lines)


MERGED = _MergedModel("merged model", "merge", "is not a model that was merged before")


def _certificate(loaded: LoadedRun, out: Path, others: Sequence[str]) -> Proof:
    """The run's own certificate, to go on with; of several runs only what they are."""
    if others:
        return Proof(out / CERTIFICATE, about(loaded) | {"merged_with": list(others)})
    return proof_of(loaded, out / CERTIFICATE)
