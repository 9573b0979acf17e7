"""What this machine can do, what is missing, and how each thing is mended: `deltatune doctor`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from deltatune import cache, units
from deltatune.core.devices import computes_bfloat16, device_of, name_of, on_gpu
from deltatune.results.diagnosis import Advice, Diagnosis, Extra, Speed
from deltatune.training.given import cgroups
from deltatune.training.given.machine import (
    available_memory,
    fast_cpu,
    total_memory,
    versions,
)
from deltatune.training.given.precision import automatic, processor

PACKAGE = "deltatune"
SERVES = {
    "demo": "the demo",
    "bundled": "models and data that come as packages (bundled:NAME)",
    "peft": "the method peft: adapters of its other types",
    "parquet": "Parquet files and data frames",
    "hub": "data from the Hugging Face Hub",
    "kernels": "fused computations on Nvidia's GPUs (train.kernels)",
    "flash": "FlashAttention on Nvidia's GPUs (model.attention)",
    "quant": "bases in 4 and 8 bits (QLoRA)",
    "plots": "charts as PNG and PDF",
    "trackers": "TensorBoard, trackio and Weights & Biases",
    "search": "the section search of a recipe",
    "lm-eval": "tasks of lm-evaluation-harness (evaluation.tasks)",
    "serve": "answers over HTTP (deltatune serve)",
    "ray": "tasks of a Ray cluster (compare --engine ray)",
    "gguf": "exports for llama.cpp and Ollama",
    "onnx": "exports as ONNX",
    "energy": "the energy that Nvidia's GPUs take",
}
"""What each extra is for."""
SIDE, TRIALS = 1024, 3
LITTLE_MEMORY, LITTLE_DISK = 4 * 2**30, 5 * 2**30
"""Below these a small model is hard to train."""
LITTLE_GAIN = 1.2
"""Times one thread's speed, below which several are hardly worth their waiting for each other."""


def diagnose(*, measure: bool = True) -> Diagnosis:
    """Look at the machine.

    Args:
        measure: Whether to time products of matrices, which takes a second.
    """
    with fast_cpu():
        threads = torch.get_num_threads()
        speed = _speed() if measure else None
        gain = threads_gain(threads) if measure and threads > 1 else None
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    device, cores = device_of(), os.cpu_count() or 1
    gpus += [name_of(device)] if on_gpu(device) and not gpus else []  # Intel's or Apple's
    bfloat16, chosen = computes_bfloat16(device), automatic(device)
    found = Diagnosis(
        processor=processor(),
        cores=cores,
        physical=psutil.cpu_count(logical=False),
        granted=cgroups.processors(),
        threads=threads,
        threads_gain=gain,
        bfloat16=bfloat16,
        precision="bf16" if chosen.dtype == "bfloat16" else "fp32",
        why_precision=chosen.why,
        gpus=gpus,
        memory_bytes=total_memory(),
        free_memory_bytes=available_memory(),
        gpu_memory_bytes=int(torch.cuda.mem_get_info()[1]) if device.type == "cuda" else None,
        free_disk_bytes=shutil.disk_usage(Path.cwd()).free,
        cache=str(cache.cache_root()),
        offline=_is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE"),
        versions=versions(device),
        extras=extras(metadata.requires(PACKAGE) or []),
        speed=speed,
        advice=[],
    )
    return found.model_copy(update={"advice": list(_advice(found))})


def extras(requirements: Sequence[str]) -> list[Extra]:
    """What each extra for users lacks.

    Args:
        requirements: Of the package, as its metadata has them: `optuna>=5; extra == "search"`.
    """
    missing: dict[str, list[str]] = {name: [] for name in SERVES}
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or _is_there(requirement):
            continue
        for name, lacks in missing.items():
            if marker.evaluate({"extra": name}):
                lacks.append(f"{requirement.name}{requirement.specifier}")
    return [Extra(name=name, serves=SERVES[name], missing=lacks) for name, lacks in missing.items()]


def _is_there(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _advice(found: Diagnosis) -> Iterator[Advice]:
    """What could be better, the most important first."""
    if not found.gpus and shutil.which("nvidia-smi"):
        yield Advice(
            what="There is an NVIDIA driver, and this build of torch uses no GPU.",
            remedy="pip install --force-reinstall torch, the build for your CUDA (pytorch.org/get-started)",
        )
    asked = os.environ.get("OMP_NUM_THREADS", "")
    useful = min(found.granted, found.physical or found.granted)
    if not found.gpus and asked.isdigit() and int(asked) < useful:
        yield Advice(
            what=f"OMP_NUM_THREADS={asked}: {useful - int(asked)} of {useful} cores are idle.",
            remedy="unset OMP_NUM_THREADS",
        )
    if asked.isdigit() and int(asked) > found.granted:
        yield Advice(
            what=f"OMP_NUM_THREADS={asked}, and {found.granted} cores may be used: training takes no more "
            "threads than cores, but other programs would wait for each other's.",
            remedy=f"export OMP_NUM_THREADS={found.granted}",
        )
    if found.threads_gain is not None and found.threads_gain < LITTLE_GAIN:
        yield Advice(
            what=f"{found.threads} threads are {found.threads_gain:.2g} times as fast as one: other programs "
            "use the cores, or this machine has fewer than it says.",
            remedy="End them; or export OMP_NUM_THREADS=1",
        )
    if found.granted < found.cores:
        yield Advice(
            what=f"{found.granted} of the machine's {found.cores} cores may be used.",
            remedy="Ask for more (docker run --cpus, sbatch --cpus-per-task) if training is slow",
        )
    if found.free_memory_bytes < LITTLE_MEMORY:
        yield Advice(
            what=f"{units.size(found.free_memory_bytes)} of memory are free.",
            remedy="deltatune plan RECIPE says what a recipe takes; end other programs",
        )
    if found.free_disk_bytes < LITTLE_DISK:
        yield Advice(
            what=f"{units.size(found.free_disk_bytes)} of disk are free here.",
            remedy="deltatune cache clear; or write elsewhere with --out",
        )
    if found.offline:
        yield Advice(
            what="The Hugging Face Hub is switched off: only models and data on this machine can be used.",
            remedy="unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE",
        )
    if found.precision == "fp32":
        yield Advice(
            what="bfloat16 is not faster than float32 here, so auto means float32.",
            remedy="Leave train.precision at auto; bf16 pays where memory is short (deltatune plan)",
        )
    for extra in found.extras:
        if extra.missing:
            yield Advice(
                what=f"Missing for {extra.serves}: {', '.join(extra.missing)}.",
                remedy=f'pip install "{PACKAGE}[{extra.name}]"',
            )


def threads_gain(threads: int) -> float:
    """How many times as fast so many threads compute a layer's product and activation as one does."""
    x, weight = torch.ones(1024, 512), torch.ones(1024, 512)
    seconds = {}
    for count in (threads, 1):
        torch.set_num_threads(count)
        seconds[count] = min(_timed(lambda: torch.relu_(x @ weight.mT)) for _ in range(TRIALS + 1))
    torch.set_num_threads(threads)
    return seconds[1] / seconds[threads]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _speed() -> Speed:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = []
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(SIDE, SIDE, generator=generator).to(device, dtype) for _ in range(2))
        seconds = []
        for _ in range(TRIALS + 1):  # the first one warms up
            started = time.perf_counter()
            product = a @ b
            product[0, 0].item()  # waits for a GPU
            seconds.append(time.perf_counter() - started)
        rates.append(2 * SIDE**3 / min(seconds[1:]))
    return Speed(float32=rates[0], bfloat16=rates[1])


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
