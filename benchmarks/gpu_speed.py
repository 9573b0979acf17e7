"""Sections of gpu.py about speed and memory."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from gpu_bench import LORA, Bench, clear
from torch import Tensor

from deltatune.core import loss as losses
from deltatune.core.devices import forget_peak, peak_memory, to_device
from deltatune.core.loss import summed_cross_entropy, summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS


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
            clear(bench)
            found = _peft(bench, name, batch)
            bench.say(of=name, rows=n, length=length, peft=found)
            clear(bench)


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
        clear(bench)
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
            clear(bench)


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
        clear(bench)


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
        clear(bench)


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
            clear(bench)
        bench.say(of=name, ms=found)
