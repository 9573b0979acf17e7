"""All that a GPU has to tell, in one command whose pieces take less than ten minutes each.

    python benchmarks/gpu.py --out out/gpu               go on with what is not measured yet, for nine minutes
    python benchmarks/gpu.py --out out/gpu memory steps   these sections
    python benchmarks/gpu.py --out out/gpu --dry-run     tiny shapes on the CPU: does the script itself work?

Every finding is a line of JSON in OUT/gpu.jsonl. Sections come in the order in which one would make the next
worthless: first whether the device computes the same as the CPU, then what it waits for, then how fast it is.
If `place` finds anything that is not the same, nothing after it is begun. Called again, finished sections are
left out.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.core import loss as losses
from deltatune.core.devices import (
    computes_bfloat16,
    device_of,
    forget_peak,
    memory_left,
    name_of,
    on_gpu,
    peak_memory,
    release_memory,
    synchronize,
    to_device,
)
from deltatune.core.loss import summed_cross_entropy, summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.training.given.machine import versions
from deltatune.training.loop.clip import clipped

TASKS = {
    "t5": "text-to-text",
    "llama": "causal-lm",
    "bert": "text-classification",
    "vit": "image-classification",
}
SHAPES = {
    "0.1B": (576, 1536, 30, 9, 3, 49152),
    "1B": (2048, 8192, 16, 32, 8, 128256),
    "3B": (3072, 8192, 28, 24, 8, 128256),
    "8B": (4096, 14336, 32, 32, 8, 128256),
}
"""Hidden size, width of the feed-forward part, layers, heads, heads of keys, vocabulary: Llama's."""
LORA = {"r": 8, "targets": ("all-linear",)}


@dataclass
class Bench:
    """Where findings go, and what they are measured on."""

    device: torch.device
    out: Path
    dry: bool
    section: str = ""

    def say(self, **found: Any) -> None:
        """Write a finding down."""
        line = json.dumps({"section": self.section, **found}, default=str)
        print(line, flush=True)
        with (self.out / "gpu.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def shapes(self, *names: str) -> Iterator[str]:
        """Those that fit into the device's memory in bfloat16, with room for a step."""
        for name in names[:1] if self.dry else names:
            h, f, n, _, _, v = SHAPES[name]
            weights = 2 * (n * (3 * h * f + 3 * h * h) + v * h)
            if on_gpu(self.device) and 1.5 * weights > memory_left(self.device):
                self.say(of=name, left_out="it does not fit")
                continue
            yield name

    def base(self, name: str, dtype: torch.dtype = torch.bfloat16) -> Any:
        """A Llama of this shape with random weights, on the device."""
        h, f, n, heads, kv, v = SHAPES[name] if not self.dry else (32, 64, 2, 4, 2, 300)
        config = LlamaConfig(
            vocab_size=v, hidden_size=h, intermediate_size=f, num_hidden_layers=n, num_attention_heads=heads,
            num_key_value_heads=kv, max_position_embeddings=4096, tie_word_embeddings=True,
        )  # fmt: skip
        with torch.device(self.device):
            return LlamaForCausalLM._from_config(config, dtype=dtype)

    def adapted(self, name: str, method: str = "lora", **config: Any) -> tuple[AdaptedModel, Any]:
        """The same with an adapter, in training."""
        model = AdaptedModel(self.base(name))
        adapter = model.attach("a", METHODS.get(method)(**(config or LORA)))
        return model.train(), adapter

    def rows(self, n: int, length: int, labelled: int, *, ragged: bool = False) -> dict[str, Tensor]:
        """A batch on the host; the end of each row has labels."""
        n, length, labelled = (
            (min(n, 4), min(length, 24), min(labelled, 6)) if self.dry else (n, length, labelled)
        )
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, 250, (n, length), generator=generator)
        mask, labels = torch.ones_like(ids), ids.clone()
        labels[:, :-labelled] = -100
        if ragged:
            mask[::2, -length // 4 :] = 0
            labels[:, length // 2] = ids[:, length // 2]
            labels[mask == 0] = -100
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def timed(self, step: Callable[[], Any], times: int = 8) -> float:
        """Milliseconds of the median call, after three that warm up."""
        for _ in range(1 if self.dry else 3):
            step()
        seconds = []
        for _ in range(1 if self.dry else times):
            synchronize(self.device)
            started = time.perf_counter()
            step()
            synchronize(self.device)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds) * 1e3

    def stepping(self, model: AdaptedModel, adapter: Any, batch: dict[str, Tensor]) -> Callable[[], Any]:
        """A step as the trainer makes it."""
        parameters = [p for _, p in adapter.trainable()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

        def step() -> None:
            loss = summed_loss(model, to_device(batch, self.device), "causal-lm") / 100
            loss.backward()
            clipped([loss.detach()], parameters, 1.0, step=1, lr=1e-4)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step


def env(bench: Bench) -> None:
    """What the machine is."""
    device = bench.device
    found: dict[str, Any] = {
        "name": name_of(device),
        "bfloat16": computes_bfloat16(device),
        **versions(device),
    }
    if on_gpu(device):
        found["memory"] = memory_left(device)
    bench.say(**found)


def place(bench: Bench) -> None:
    """Loss and gradients on the device are those of the CPU, in float32, for methods and kinds of models."""
    torch.backends.cuda.matmul.allow_tf32 = False
    wrong = []
    for name, task in TASKS.items():
        for method in METHODS.names() if not bench.dry else ("lora", "prefix"):
            try:
                here, there = (
                    _gradients(name, task, method, device) for device in (torch.device("cpu"), bench.device)
                )
            except Exception as error:
                bench.say(of=name, method=method, left_out=f"{type(error).__name__}: {error}"[:200])
                continue
            apart = max((_apart(there[key], here[key]) for key in here), default=0.0)
            bench.say(of=name, method=method, apart=apart, same=apart < 1e-3)
            wrong += [f"{method} on {name}"] if apart >= 1e-3 else []
    if wrong:
        raise SystemExit(f"not the same as on the CPU: {', '.join(wrong)}. Nothing else is measured.")


def _gradients(name: str, task: str, method: str, device: torch.device) -> dict[str, Tensor]:
    """The loss of a batch and the gradients of the adapter, on the host; what is no identity acts already."""
    model = AdaptedModel(tiny.model(name).to(device), tiny.heads(name), eager_up_to=0)
    adapter = model.attach("a", METHODS.get(method)(), seed=1)
    tiny.perturb(adapter, seed=1)
    loss = summed_loss(model, to_device(tiny.batch(name), device), task)
    if loss.requires_grad:
        loss.backward()
    found = {n: p.grad.cpu() for n, p in adapter.named_parameters() if p.grad is not None}
    return {"loss": loss.detach().cpu(), **found}


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def waits(bench: Bench) -> None:
    """Where the host waits in a step, by torch's own count: once, for the loss and the norm."""
    model, adapter = bench.adapted("0.1B")
    step = bench.stepping(model, adapter, bench.rows(8, 256, 64, ragged=True))
    step()
    if bench.device.type != "cuda":
        bench.say(left_out=f"torch does not count them on {bench.device.type}")
        return
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        step()
    torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename.rpartition('site-packages/')[2]}:{w.lineno}" for w in seen]
    bench.say(count=len(places), places=places, as_meant=len(places) <= 1)


def resume(bench: Bench) -> None:
    """An interrupted run goes on; are its numbers those of the run without interruption, to the bit?"""
    from deltatune.recipe import parse_recipe
    from deltatune.testing.folders import save_tiny
    from deltatune.training import run

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [
            json.dumps({"input": f"{n} of the goals " * (n % 4 + 1), "target": f"{n} goals"})
            for n in range(48)
        ]
        (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
        recipe = parse_recipe({
            "task": "text-to-text", "model": str(save_tiny("t5", folder / "t5")), "device": bench.device.type,
            "data": {"source": str(folder / "rows.jsonl"), "split": {"validation": 0.2, "test": 0.2}},
            "methods": ["lora"], "train": {"max_steps": 6, "evaluate_every": 3, "batch_size": 8},
            "evaluation": {"max_new_tokens": 4},
        })  # fmt: skip
        [entry] = recipe.methods
        run(recipe, entry, 0, folder / "a", pause=lambda progress, total: True)
        again, whole = (run(recipe, entry, 0, folder / name, resume=name == "a") for name in ("a", "b"))
        both = [result.metrics.test["loss"] for result in (again, whole)]  # type: ignore[union-attr]
        bench.say(losses=both, to_the_bit=both[0] == both[1])


def rate(bench: Bench) -> None:
    """Products of large matrices in bfloat16: what the share of a step is taken of."""
    n = 64 if bench.dry else 8192
    a = torch.randn(n, n, device=bench.device, dtype=torch.bfloat16)
    ms = bench.timed(lambda: a @ a)
    bench.say(tflops=2 * n**3 / ms / 1e9)


def steps(bench: Bench) -> None:
    """A step of LoRA on all linear layers; without what spares work on CPUs; beside peft."""
    for name in bench.shapes("0.1B", "1B", "3B", "8B"):
        for n, length in ((2, 128), (8, 512)):
            batch = bench.rows(n, length, 64, ragged=True)
            model, adapter = bench.adapted(name)
            found = {"ours": bench.timed(bench.stepping(model, adapter, batch))}
            with _without_lean(model):
                found["without lean parts"] = bench.timed(bench.stepping(model, adapter, batch))
            with model.fast.last_layer.whole():
                found["with the whole last layer"] = bench.timed(bench.stepping(model, adapter, batch))
            numbers = sum(p.numel() for p in model.base.parameters())
            tokens = batch["input_ids"].numel()
            bench.say(of=name, rows=n, length=length, ms=found, flops=4 * numbers * tokens, tokens=tokens)
            del model, adapter
            _clear(bench)
            found = _peft(bench, name, batch)
            bench.say(of=name, rows=n, length=length, peft=found)
            _clear(bench)


@contextlib.contextmanager
def _without_lean(model: AdaptedModel) -> Iterator[None]:
    kept = model.fast.lean.__dict__.get("_forwards")
    model.fast.lean.__dict__["_forwards"] = []
    try:
        yield
    finally:
        del model.fast.lean.__dict__["_forwards"]
        if kept is not None:
            model.fast.lean.__dict__["_forwards"] = kept


def _peft(bench: Bench, name: str, batch: dict[str, Tensor]) -> Any:
    """Milliseconds of peft's step on the same base and rows, as it comes and at its best."""
    if importlib.util.find_spec("peft") is None:
        return "not installed"
    import peft

    found = {}
    for way, dtype in (("usual", torch.float32), ("best", torch.bfloat16)):
        try:
            config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
            model = peft.get_peft_model(bench.base(name, dtype), config).train()
            parameters = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(parameters, fused=way == "best")

            def step(model: Any = model, parameters: Any = parameters, optimizer: Any = optimizer) -> None:
                loss = model(**{key: tensor.to(bench.device) for key, tensor in batch.items()}).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                float(loss.detach())

            found[way] = bench.timed(step)
        except torch.OutOfMemoryError:
            found[way] = float("nan")
        _clear(bench)
    return found


def loss_rows(bench: Bench) -> None:
    """How many logits to have in float32 at a time."""
    rows, vocabulary = (64, 1000) if bench.dry else (2048, 128256)
    logits = torch.randn(rows, vocabulary, device=bench.device, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,)).to(bench.device)
    before = losses._AT_ONCE_ELSEWHERE, dict(losses._AT_ONCE)
    for power in (19, 21, 23, 25, 27):
        losses._AT_ONCE_ELSEWHERE = losses._AT_ONCE["cpu"] = 2**power
        forget_peak(bench.device)
        ms = bench.timed(lambda: summed_cross_entropy(logits, targets).backward())
        bench.say(power=power, ms=ms, peak=peak_memory(bench.device))
    losses._AT_ONCE_ELSEWHERE = before[0]
    losses._AT_ONCE.update(before[1])


def dropout(bench: Bench) -> None:
    """What masks of dropout cost."""
    for p in (0.0, 0.1):
        model, adapter = bench.adapted("0.1B", dropout=p, **LORA)
        bench.say(p=p, ms=bench.timed(bench.stepping(model, adapter, bench.rows(16, 256, 64))))


def memory(bench: Bench) -> None:
    """Bytes of a step: predicted, and the allocator's peak; within 5 % is the aim."""
    from deltatune.memory.predict import Setup
    from deltatune.memory.scale import predict_scaled
    from deltatune.tasks.shapes import BatchShape

    for name in bench.shapes("0.1B", "1B", "3B", "8B"):
        for checkpointing in (False, True):
            model, adapter = bench.adapted(name)
            model.gradient_checkpointing(checkpointing)
            batch = bench.rows(4, 512, 64)
            step = bench.stepping(model, adapter, batch)
            step()
            forget_peak(bench.device)
            step()
            n, length = batch["input_ids"].shape
            labelled = int((batch["labels"][:, 1:] != -100).sum())
            setup = Setup(
                model.base.config, "causal-lm", model.configs["a"], BatchShape(n, length, 0, labelled),
                dtype="bfloat16", checkpointing=checkpointing, device=bench.device.type,
            )  # fmt: skip
            predicted = predict_scaled(setup).memory
            measured = peak_memory(bench.device)
            share = None if measured is None else predicted.total / measured
            bench.say(
                of=name,
                checkpointing=checkpointing,
                predicted=predicted.as_dict(),
                measured=measured,
                share=share,
            )
            del model, adapter, step
            _clear(bench)


def multi_run(bench: Bench) -> None:
    """Runs at once: how many times as fast as one after another."""
    for tokens in (128, 512, 2048):
        n = 4
        batch = bench.rows(n, tokens // n, 8)
        model = AdaptedModel(bench.base("0.1B"))
        for index in range(8):
            model.attach(f"r{index}", METHODS.get("lora")(**LORA))
        model.train()
        rows = len(batch["input_ids"])

        def alone(model: Any = model, batch: Any = batch) -> None:
            model.use("r0")
            summed_loss(model, to_device(batch, bench.device), "causal-lm").backward()

        found, single = {}, bench.timed(alone)
        for k in (2, 4, 8):
            joint = {key: tensor.repeat(k, 1) for key, tensor in batch.items()}

            def together(model: Any = model, joint: Any = joint, k: int = k, rows: int = rows) -> None:
                with model.routing({f"r{i}": slice(i * rows, (i + 1) * rows) for i in range(k)}, k * rows):
                    summed_loss(model, to_device(joint, bench.device), "causal-lm").backward()

            found[k] = k * single / bench.timed(together)
        bench.say(tokens=tokens, alone_ms=single, times_as_fast=found)
        del model
        _clear(bench)


def frozen_layers(bench: Bench) -> None:
    """Bringing kept hidden states to the device, beside the layers that this spares."""
    n, length, width = (2, 16, 32) if bench.dry else (32, 512, 2048)
    kept = torch.zeros(n, length, width, dtype=torch.bfloat16)
    batch = bench.rows(n, length, 8)
    for name in bench.shapes("1B"):
        model = AdaptedModel(bench.base(name)).eval()
        ids = batch["input_ids"].to(bench.device)
        with torch.no_grad():
            spared = bench.timed(lambda model=model, ids=ids: model.base.get_decoder()(ids, use_cache=False))
        copied = bench.timed(lambda: kept.to(bench.device))
        from_pinned = bench.timed(lambda: to_device({"hidden": kept}, bench.device))
        bench.say(of=name, spared_ms=spared, copied_ms=copied, from_pinned_ms=from_pinned)


def generation(bench: Bench) -> None:
    """A generated token, by the number of rows."""
    for name in bench.shapes("0.1B", "1B"):
        model = AdaptedModel(bench.base(name)).eval()
        for n in (8, 32, 128):
            batch = to_device({k: v for k, v in bench.rows(n, 64, 8).items() if k != "labels"}, bench.device)
            new = 4 if bench.dry else 32

            def write(model: Any = model, batch: Any = batch, new: int = new) -> None:
                model.generate(**batch, max_new_tokens=new, min_new_tokens=new, do_sample=False)

            bench.say(of=name, rows=n, ms_a_token=bench.timed(write, 3) / new)
        del model
        _clear(bench)


def quantized(bench: Bench) -> None:
    """A step over a base in 4 bits, beside one in bfloat16."""
    if importlib.util.find_spec("bitsandbytes") is None:
        bench.say(left_out="bitsandbytes is not installed")
        return
    from deltatune.quant.inplace import quantize_
    from deltatune.recipe.base_sections import QuantizationSpec

    for name in bench.shapes("1B", "8B"):
        found = {}
        for bits in (None, QuantizationSpec(format="nf4")):
            base = bench.base(name)
            if bits is not None and bench.dry:
                continue  # its layers are too narrow for 4 bits on a CPU
            if bits is not None:
                quantize_(base, ["lm_head"], bits, bench.device)
            model = AdaptedModel(base)
            adapter = model.attach("a", METHODS.get("lora")(**LORA))
            model.train()
            found["bf16" if bits is None else "nf4"] = bench.timed(
                bench.stepping(model, adapter, bench.rows(4, 512, 64))
            )
            del model, adapter, base
            _clear(bench)
        bench.say(of=name, ms=found)


def _clear(bench: Bench) -> None:
    gc.collect()
    release_memory(bench.device)


_IN_ORDER = (
    env, place, waits, resume, rate, steps, memory, loss_rows, dropout, multi_run, frozen_layers, generation,
    quantized,
)  # fmt: skip
SECTIONS: dict[str, Callable[[Bench], None]] = {section.__name__: section for section in _IN_ORDER}


def main(arguments: list[str] | None = None) -> None:
    """Measure; see above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", choices=[[], *SECTIONS], help=f"default: all: {', '.join(SECTIONS)}"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=9.0, help="no section is begun after so many")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(device_of("cpu" if given.dry_run else given.device), given.out, given.dry_run)
    finished = _finished(given.out / "gpu.jsonl")
    begun = time.monotonic()
    for name in given.sections or [name for name in SECTIONS if name not in finished]:
        if time.monotonic() - begun > 60 * given.minutes:
            print(f"{name} and what follows is for the next call.")
            return
        bench.section, started = name, time.monotonic()
        try:
            SECTIONS[name](bench)
            bench.say(finished=True, seconds=round(time.monotonic() - started, 1))
        except Exception as error:  # one section that fails must not end the session
            at = traceback.format_exc().splitlines()[-3:]
            bench.say(error=f"{type(error).__name__}: {error}"[:400], at=at)
        _clear(bench)


def _finished(path: Path) -> set[str]:
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["section"] for line in lines if line.get("finished")}


if __name__ == "__main__":
    main()
