"""A merged encoder, or a model of images, as ONNX: torch's own exporter, checked by ONNX Runtime.

Rows, and tokens of a row, may be as many as one likes. What the exporter made is run by ONNX Runtime on other
numbers of both than it was traced with, before it takes any place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltatune.core.pooling import pooled
from deltatune.errors import ModelError
from deltatune.printable import printable

NAME = "model.onnx"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LIMIT = 3 * 2**29
"""Bytes of weights from which on they are a file of their own: a file of ONNX ends at two gibibytes."""
_TEXTS = ("input_ids", "attention_mask", "token_type_ids")
_TOLERANCE = 1e-3
"""Share of the largest output that another order of sums may cost in float32."""
_OTHERS = ((1, 3), (2, 9), (5, 17))
"""Rows and tokens that are tried; the exporter sees three rows of seven."""
_TRACED = (3, 7)


@dataclass(frozen=True)
class Form:
    """What the file takes and gives."""

    inputs: tuple[str, ...]
    output: str
    pooling: str | None = None
    """How vectors of texts are made; None: the model's own logits."""
    image: tuple[int, ...] | None = None
    """Channels, height and width."""


class _Given(nn.Module):
    """A model with the inputs of a form by their order, and one output."""

    def __init__(self, model: PreTrainedModel, form: Form) -> None:
        super().__init__()
        self.model, self.form = model, form

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.form.inputs, inputs, strict=True))
        found = self.model(**named, return_dict=True)
        if self.form.pooling is None:
            logits: Tensor = found.logits
            return logits
        vectors = _pooled(found.last_hidden_state, named["attention_mask"], self.form.pooling)
        return F.normalize(vectors, dim=-1)

    def wanted(self, *inputs: Tensor) -> Tensor:
        """What the run itself makes of the inputs."""
        if self.form.pooling is None:
            return self(*inputs)
        named = dict(zip(self.form.inputs, inputs, strict=True))
        states = self.model(**named, return_dict=True).last_hidden_state
        return F.normalize(pooled(states, named["attention_mask"], self.form.pooling), dim=-1)


def _pooled(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """As `deltatune.core.pooling.pooled`, by operations that ONNX has."""
    if how == "mean":
        return pooled(states, mask, how)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    chosen = mask * places if how == "last" else mask * (mask.shape[1] - places)
    at = chosen.amax(dim=1) if how == "last" else mask.shape[1] - chosen.amax(dim=1)
    return states.gather(1, at[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)


def require_packages() -> None:
    """Refuse where the exporter cannot run.

    Raises:
        ModelError: A package is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"writing ONNX needs {' and '.join(missing)}, which is not installed.",
            field="--as",
            remedy="Install it with: pip install 'deltatune[onnx]'",
        )


def form_of(config: Any, *, image: tuple[int, ...] | None, writes: bool, pooling: str | None) -> Form:
    """What the file of a model takes and gives.

    Args:
        config: The model's configuration.
        image: Channels, height and width of what it reads; None of texts.
        writes: Whether it writes texts.
        pooling: How vectors of texts are made, where the task asks for these.

    Raises:
        ModelError: It writes texts, which takes more than one file computes.
    """
    if writes:
        raise ModelError(
            "the run writes texts, and ONNX is written of models that answer in one step.",
            field="--as",
            remedy="Export a decoder as GGUF (--as gguf), or merge the run into a Transformers folder.",
        )
    if image is not None:
        return Form(("pixel_values",), "logits", image=image)
    typed = pooling is None and int(getattr(config, "type_vocab_size", 0) or 0) > 1
    inputs = _TEXTS if typed else _TEXTS[:2]
    return Form(inputs, "logits" if pooling is None else "sentence_embedding", pooling)


def write_onnx(model: PreTrainedModel, form: Form, folder: Path) -> float:
    """Write a model's file into a folder, and run it.

    Args:
        model: With its delta folded in, in float32 on the host.
        form: What the file takes and gives.
        folder: Where `model.onnx` goes, of a large model `model.onnx.data` too; others put it in its place.

    Returns:
        The largest difference between the model's outputs and those of the file, on random inputs.

    Raises:
        ModelError: The exporter cannot trace the model, or the file computes something else.
    """
    require_packages()
    given = _Given(model.eval(), form)
    sample = _inputs(model.config, form, *_TRACED, seed=0)
    free = dict.fromkeys(range(1 if form.image else 2), torch.export.Dim.DYNAMIC)
    shapes = tuple(free for _ in form.inputs)
    large = sum(p.numel() * p.element_size() for p in model.parameters()) > _LIMIT
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                given,
                tuple(sample.values()),
                folder / NAME,
                dynamo=True,
                input_names=list(form.inputs),
                output_names=[form.output],
                dynamic_shapes=(shapes,),
                external_data=large,
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        text = printable(" ".join(str(cause).split()))
        raise ModelError(
            f"torch's exporter cannot write {type(model).__name__} ({type(cause).__name__}: {text[:300]}).",
            field="--as",
            remedy="Merge the run into a Transformers folder instead (--as merged).",
        ) from error
    return _checked(given, folder / NAME)


def _checked(given: _Given, path: Path) -> float:
    """Run the file beside the model, on rows and lengths that the exporter did not see, padded ones too."""
    session = session_of(path)
    largest = 0.0
    for seed, (rows, length) in enumerate((_TRACED, *_OTHERS), start=1):
        batch = _inputs(given.model.config, given.form, rows, length, seed=seed)
        with torch.no_grad():
            wanted = given.wanted(*batch.values()).float().numpy()
        try:
            [found] = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime cannot run the file on {rows} rows ({' '.join(str(error).split())[:300]}).",
                field="--as",
                remedy="Merge the run into a Transformers folder instead; please report it.",
            ) from error
        difference = float(np.abs(wanted - found).max())
        if not difference <= _TOLERANCE * float(np.abs(wanted).max()):
            raise ModelError(
                f"the file computes something else: on {rows} rows it differs by up to {difference:.3g}, "
                f"of outputs up to {float(np.abs(wanted).max()):.3g}.",
                field="--as",
                remedy="Merge the run into a Transformers folder instead; please report it.",
            )
        largest = max(largest, difference)
    return largest


def session_of(path: Path) -> Any:
    """A session of ONNX Runtime on the host, which says nothing but errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def outputs_of(session: Any, form: Form, batch: Mapping[str, Tensor]) -> Tensor:
    """What a file gives of a batch of the run's own; several texts of a row count as rows."""
    rows = {name: tensor.flatten(0, -2) if form.image is None else tensor for name, tensor in batch.items()}
    if "token_type_ids" in form.inputs:
        rows.setdefault("token_type_ids", torch.zeros_like(rows["input_ids"]))
    [found] = session.run(None, {name: rows[name].numpy() for name in form.inputs})
    return torch.from_numpy(found)


def _inputs(config: Any, form: Form, rows: int, length: int, *, seed: int) -> dict[str, Tensor]:
    """Random inputs; rows of texts are of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    if form.image is not None:
        return {"pixel_values": torch.randn(rows, *form.image, generator=generator)}
    ids = torch.randint(1, config.vocab_size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, length - row % length :] = 0
    pad = config.pad_token_id if isinstance(config.pad_token_id, int) else 0
    ids = torch.where(mask == 1, ids.where(ids != pad, (pad + 1) % config.vocab_size), pad)
    batch = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in form.inputs:
        batch["token_type_ids"] = (torch.arange(length) > length // 2).long() * mask
    return batch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints of its progress, and its warnings of what it works around."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
