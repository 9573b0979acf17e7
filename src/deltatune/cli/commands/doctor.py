"""`doctor`: what this machine can do, and what mends what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deltatune import units
from deltatune.cli import output
from deltatune.cli.options import Json

if TYPE_CHECKING:
    from deltatune.results.diagnosis import Diagnosis


def doctor(
    fast: Annotated[bool, typer.Option("--fast", help="Measure no speed.")] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine can do, what is missing for which part, and what mends it.

    Cores, instructions, GPUs, memory, disk, versions, packages of optional parts, and how
    fast matrices are multiplied. Nothing is sent anywhere. What is measured of the processor
    for [bold]train.precision: auto[/bold] is kept in the cache, so that it means the same in every run.

    [bold]Examples[/bold]
      $ deltatune doctor
      $ deltatune doctor --json > machine.json
    """
    from deltatune.training.before.diagnosis import diagnose

    found = diagnose(measure=not fast)
    if as_json:
        output.emit_json(found.as_dict())
        return
    output.fields(None, _facts(found))
    output.line("\nWhat could be better, and what mends it:" if found.advice else "\nNothing is missing.")
    for advice in found.advice:
        output.line(f"- {advice.what}")
        output.line(f"    {advice.remedy}")


def _facts(found: Diagnosis) -> dict[str, str]:
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''} in training"
    threads += "" if found.threads_gain is None else f", {found.threads_gain:.2g} times as fast as one"
    facts = {
        "processor": f"{found.processor}, {_cores(found)}, {threads}",
        "GPU": ", ".join(found.gpus) or "none that torch can use",
        "memory": f"{units.size(found.free_memory_bytes)} free of {units.size(found.memory_bytes)}",
    }
    if found.gpu_memory_bytes is not None:
        facts["memory of the GPU"] = units.size(found.gpu_memory_bytes)
    facts["disk"] = f"{units.size(found.free_disk_bytes)} free here"
    facts["converted models"] = found.cache
    facts["precision"] = f"train.precision: auto means {found.precision}: {found.why_precision}"
    if found.speed is not None:
        float32, bfloat16 = (rate / 1e9 for rate in (found.speed.float32, found.speed.bfloat16))
        facts["speed"] = f"{float32:,.0f} GFLOP/s in float32, {bfloat16:,.0f} in bfloat16"
    facts["Hugging Face Hub"] = "switched off" if found.offline else "not switched off"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in _shown(found.versions))
    facts["optional parts"] = ", ".join(part.name for part in found.extras if not part.missing) or "none"
    return facts


def _cores(found: Diagnosis) -> str:
    twice = found.physical is not None and found.physical < found.cores
    return f"{found.granted} of {found.cores} " + (f"threads of {found.physical} cores" if twice else "cores")


def _shown(versions: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (name, versions[name])
        for name in ("deltatune", "python", "torch", "transformers", "accelerate")
        if name in versions
    ]
