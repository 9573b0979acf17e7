"""What a training step of LoRA asks of a GPU, by arithmetic: operations, bytes, launches; nothing is timed.

    python benchmarks/arithmetic.py                                            print the tables
    python benchmarks/arithmetic.py --page docs/measured/gpu-arithmetic.md     write them into the page

A step is run on fake tensors, which have shapes and no values, as `deltatune plan` does. Of every operation
are counted: floating-point operations; the bytes of what it reads and writes; and whether a GPU has to launch
a kernel for it (not for a view, nor to allocate). Layers are alike, so bases of two and three layers tell
about all.

A time is a bound from below: each kernel takes what its operations take at the published rate of products,
or what its bytes take at the published bandwidth, whichever is longer. The host needs a while for each
launch; the step cannot be faster than all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig

from deltatune.core.adapter import Adapter
from deltatune.core.loss import standing_for
from deltatune.core.model import AdaptedModel
from deltatune.memory.account import _flops
from deltatune.memory.base import Unread, fake_mode
from deltatune.memory.predict import Setup, planned_model
from deltatune.memory.step import FakeAccountant, account_step, warm_up
from deltatune.methods import METHODS
from deltatune.models.quiet import quiet
from deltatune.tasks.shapes import BatchShape

BASES = {
    "0.1B": (576, 1536, 30, 9, 3, 49152),
    "1B": (2048, 8192, 16, 32, 8, 128256),
    "3B": (3072, 8192, 28, 24, 8, 128256),
    "8B": (4096, 14336, 32, 32, 8, 128256),
}
"""Hidden size, width of the feed-forward part, layers, heads, heads of keys, vocabulary: SmolLM2-135M and
Llama 3 of these sizes."""
BATCHES = {"small": (4, 128), "large": (8, 1024)}
"""Rows and tokens per row. A quarter of the tokens has labels."""
RATES = {
    "A100": (312e12, 2.039e12),
    "H100": (989e12, 3.35e12),
    "H200": (989e12, 4.8e12),
    "4090": (165e12, 1.008e12),
}
"""Operations per second in bfloat16 without sparsity, and bytes per second, as Nvidia publishes
them: data sheets of the A100 80GB SXM, H100 SXM and H200 SXM; of the RTX 4090 the white paper on the Ada
architecture (products that are summed in float32)."""
HOST = 10e-6
"""Seconds of the host for each launch, assumed: a launch alone takes about 5 microseconds, what Python and
autograd do around it takes as long and more."""
VIEWS = ("empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided", "detach", "lift_fresh",
         "_local_scalar_dense", "device")  # fmt: skip
"""Operations that a GPU launches nothing for, besides those whose result is a part of what they get."""


@dataclass
class Count:
    """What is counted of some operations."""

    launches: float = 0
    flops: float = 0
    moved: float = 0
    """Bytes."""
    seconds: dict[str, float] | None = None
    """By GPU, of all kernels at published rates."""

    def plus(self, other: Count, times: float) -> Count:
        """The sum of this and so many of another."""
        a, b = self.seconds or {}, other.seconds or {}
        return Count(
            self.launches + times * other.launches,
            self.flops + times * other.flops,
            self.moved + times * other.moved,
            {gpu: a.get(gpu, 0.0) + times * b.get(gpu, 0.0) for gpu in RATES},
        )


class Counting(FakeAccountant):
    """Counts what operations on fake tensors would ask of a GPU."""

    def __init__(self, vocabulary: int, shape: BatchShape) -> None:
        super().__init__(vocabulary, shape)
        self.all = Count(seconds=dict.fromkeys(RATES, 0.0))
        self.products = Count(seconds=dict.fromkeys(RATES, 0.0))

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Count it, and let it say what shapes come of it."""
        out = super().call(func, args, kwargs)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if launches(func, given, made):
            flops = _flops(func._overloadpacket, args, kwargs, out)
            moved = sum(map(_bytes, given)) + sum(map(_bytes, made))
            spent = {gpu: max(flops / rate, moved / width) for gpu, (rate, width) in RATES.items()}
            counted = Count(1, flops, moved, spent)
            self.all = self.all.plus(counted, 1)
            if flops:
                self.products = self.products.plus(counted, 1)
        return out


def launches(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether a GPU has to launch a kernel for an operation (one, of whatever it takes)."""
    name = func._schema.name.partition("::")[2]
    if name in VIEWS or not (made or func._schema.is_mutable):
        return False
    storages = {t.untyped_storage()._cdata for t in given}
    is_view = bool(made) and all(t.untyped_storage()._cdata in storages for t in made)
    return func._schema.is_mutable or not is_view


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


@functools.cache
def step(
    base: str,
    batch: str,
    *,
    layers: int | None = None,
    without: str = "",
    dropout: float = 0.0,
    everywhere: bool = False,
    size: tuple[int, ...] | None = None,
) -> tuple[Count, Count]:
    """Count a step of LoRA (r 8, all linear layers): all of it, and its matrix products alone.

    Args:
        base: One of `BASES`.
        batch: One of `BATCHES`.
        layers: Of the base; None: its own, found by two and three.
        without: One of `PARTS` that is left out.
        dropout: LoRA's.
        everywhere: Whether all tokens have labels.
        size: In place of the base's sizes.
    """
    if layers is None:
        depth = BASES[base][2]
        more = {"without": without, "dropout": dropout, "everywhere": everywhere}
        two, three = (step(base, batch, layers=n, **more) for n in (2, 3))  # type: ignore[arg-type]
        pairs = zip(two, three, strict=True)
        whole, products = (a.plus(b.plus(a, -1), depth - 2) for a, b in pairs)
        return whole, products
    hidden, inner, _, heads, kv, vocabulary = size or BASES[base]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=4096,
        tie_word_embeddings=True,
    )  # fmt: skip
    rows, length = BATCHES[batch]
    each = length - 1 if everywhere else length // 4
    shape = BatchShape(rows=rows, length=length, labelled=rows * each, most_labelled=each)
    method = METHODS.get("lora")(r=8, targets=("all-linear",), dropout=dropout)
    setup = Setup(
        config=config, task="causal-lm", method=method, shape=shape, dtype="bfloat16", device="cuda"
    )
    with quiet(), warnings.catch_warnings(), fake_mode(), standing_for("cuda"):
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        model = planned_model(setup)
        with Unread():
            adapter = model.attach("plan", method)
        optimizer = torch.optim.AdamW([p for _, p in adapter.trainable()], fused=True)
        adapter.start(1_000_000)
        warm_up(adapter, optimizer)
        counting = Counting(vocabulary, shape)
        # As on a GPU, where torch clips the gradients of all tensors at once.
        at_once = functools.partial(torch.nn.utils.clip_grad_norm_, foreach=True)
        clipping = mock.patch("torch.nn.utils.clip_grad_norm_", at_once)
        with PARTS[without](model, adapter), clipping, counting:
            account_step(model, adapter, optimizer, shapes=(shape,), task="causal-lm", accounts=counting)
    return counting.all, counting.products


@contextlib.contextmanager
def _as_it_is(model: AdaptedModel, adapter: Adapter) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _not_lean(model: AdaptedModel, adapter: Adapter) -> Iterator[None]:
    model.fast.lean.__dict__["_forwards"] = []
    yield


@contextlib.contextmanager
def _whole_last_layer(model: AdaptedModel, adapter: Adapter) -> Iterator[None]:
    with model.fast.last_layer.whole():
        yield


@contextlib.contextmanager
def _inputs_apart(model: AdaptedModel, adapter: Adapter) -> Iterator[None]:
    adapter.cut(True)
    yield


PARTS: dict[str, Callable[[AdaptedModel, Adapter], contextlib.AbstractContextManager[None]]] = {
    "": _as_it_is,
    "lean norms and products": _not_lean,
    "last layer where it is read": _whole_last_layer,
    "input of several sites read once": _inputs_apart,
}


def milliseconds(count: Count, gpu: str) -> tuple[float, float]:
    """What kernels and what launches take at least."""
    return (count.seconds or {})[gpu] * 1e3, count.launches * HOST * 1e3


def steps_table() -> str:
    """Steps of all bases."""
    head = " | ".join(f"kernels, {gpu} | bound by" for gpu in RATES)
    lines = [
        f"| base, batch | operations | bytes moved | launches | launches, host | {head} |",
        f"|:--|{'--:|' * (4 + 2 * len(RATES))}",
    ]
    for base in BASES:
        for batch, (rows, length) in BATCHES.items():
            count, products = step(base, batch)
            cells = []
            for gpu in RATES:
                kernels, host = milliseconds(count, gpu)
                by = "launches" if host > kernels else _bound(count, products, gpu)
                cells += [f"{kernels:.1f} ms", by]
            cells = [
                f"{base}, {rows} x {length}", f"{count.flops / 1e12:.2f} T", f"{count.moved / 1e9:.1f} GB",
                f"{count.launches:,.0f}", f"{milliseconds(count, 'A100')[1]:.0f} ms", *cells,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _bound(count: Count, products: Count, gpu: str) -> str:
    rate, _ = RATES[gpu]
    return "products" if products.flops / rate > (count.seconds or {})[gpu] / 2 else "memory"


def parts_table() -> str:
    """What each part of ours costs or spares."""
    variants: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "lean norms and products": ({"without": "lean norms and products"}, {}),
        "last layer where it is read": ({"without": "last layer where it is read"}, {}),
        "output at labels only": ({"everywhere": True}, {}),
        "input of several sites read once": ({"without": "input of several sites read once"}, {}),
        "dropout in LoRA": ({"dropout": 0.05}, {}),
    }
    lines = [
        "| without | base, batch | operations | bytes moved | launches | kernels, A100 | H200 | 4090 |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for name, (other, usual) in variants.items():
        for base in ("0.1B", "8B"):
            for batch, (rows, length) in BATCHES.items():
                whole, _ = step(base, batch, **usual)
                left, _ = step(base, batch, **other)
                ratios = [
                    f"{(left.seconds or {})[gpu] / (whole.seconds or {})[gpu]:.2f}"
                    for gpu in ("A100", "H200", "4090")
                ]
                cells = [
                    name, f"{base}, {rows} x {length}", f"{left.flops / whole.flops:.2f}",
                    f"{left.moved / whole.moved:.2f}", f"{left.launches - whole.launches:+,.0f}", *ratios,
                ]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def floors_table() -> str:
    """The matrix products and attention of a step, which no fusing spares."""
    lines = [
        "| base, batch | operations per token, over 4N | launches in products | bytes in products | "
        "kernels over products alone, A100 | H200 | 4090 |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for base, (hidden, inner, layers, heads, kv, vocabulary) in BASES.items():
        width = hidden // heads * kv
        parameters = (
            layers * (2 * hidden * hidden + 2 * hidden * width + 3 * hidden * inner) + vocabulary * hidden
        )
        for batch, (rows, length) in BATCHES.items():
            count, products = step(base, batch)
            over = [
                f"{(count.seconds or {})[gpu] / (products.seconds or {})[gpu]:.2f}"
                for gpu in ("A100", "H200", "4090")
            ]
            cells = [
                f"{base}, {rows} x {length}", f"{count.flops / (4 * parameters * rows * length):.2f}",
                f"{products.launches / count.launches:.0%}", f"{products.moved / count.moved:.0%}", *over,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {"steps": steps_table, "parts": parts_table, "floors": floors_table}


def main() -> None:
    """Print the tables, or fill the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="the page, whose tables are written anew")
    page: Path | None = parser.parse_args().page
    text = "" if page is None else page.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        made = table()
        print(f"{name}\n{made}\n", flush=True)
        filled = f"<!-- arithmetic: {name} -->\n{made}\n<!-- end -->"
        mark = rf"<!-- arithmetic: {name} -->\n.*?<!-- end -->"
        text = re.sub(mark, lambda _, f=filled: f, text, flags=re.DOTALL)
    if page is not None:
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
