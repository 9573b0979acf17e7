"""The target `gguf-lora`: a delta as low-rank factors that llama.cpp adds to a GGUF file of the base."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.errors import AdapterError
from deltatune.exporting.gguf.adapter import (
    ADAPTER_KINDS,
    AdapterKind,
    read_adapter,
    stored_factors,
    write_adapter,
)
from deltatune.exporting.gguf.target import MODELFILE, SAME, chosen, plan_of
from deltatune.exporting.lora import KEPT, planned
from deltatune.exporting.low_rank import LowRank, attach, low_rank
from deltatune.exporting.measure import Outputs, kept_metric
from deltatune.exporting.ollama import modelfile_of
from deltatune.exporting.target import Job, Target, named_for_others, write_result
from deltatune.files import write_text
from deltatune.results import Exported, KeptMetric
from deltatune.runs.proof import proof_of
from deltatune.training.proof.equal_logits import Logits

FILE = "adapter.gguf"
_SHARES = {"f32": 1e-4, "f16": 1e-2}


class GgufLora:
    """Factors in llama.cpp's format."""

    title = "The delta alone as LoRA for llama.cpp (--lora) and Ollama, beside a GGUF file of the base."
    options = frozenset({"rank", "keep", "dtype", "rows"})

    def export(self, job: Job) -> Exported:
        """Decompose, write, read again and measure."""
        kind = cast(AdapterKind, chosen(job.settings.dtype, ADAPTER_KINDS, "f32"))
        loaded = job.load(as_trained=False)
        warnings = plan_of(loaded).warnings
        made = low_rank(loaded.model, loaded.method, job.settings, job.observer)
        _require_factors_alone(made)
        config, class_name = loaded.base.model.config, type(loaded.base.model).__name__
        stored_factors(config, class_name, made.factors)
        modelfile, notes = modelfile_of(loaded, "./base.gguf", adapter=f"./{FILE}")
        done = planned(job, "gguf-lora", loaded, made)
        base = named_for_others(loaded.base.name)
        belongs = f"It belongs to a GGUF file of {base}, of any type."
        done.notes.extend([*warnings, *notes, belongs])
        done.details["dtype"] = kind
        if job.dry_run:
            return done
        with job.folder() as folder:
            name = f"{base} {loaded.name}"
            write_adapter(config, class_name, made.factors, folder / FILE, name=name, base=base, kind=kind)
            if modelfile is not None:
                write_text(folder / MODELFILE, modelfile.text())
            factors = read_adapter(config, class_name, made.factors, folder / FILE)
            attach(loaded.model, replace(made, factors=factors))
            job.observer.stage("Comparing outputs")
            outputs, proof = Outputs(loaded), proof_of(loaded, folder / CERTIFICATE)
            comparison = outputs.comparison(outputs.exported(), "deltatune")
            if made.exact:
                share = max(_SHARES[kind], outputs.share)
                wanted = Logits(outputs.run, outputs.base, outputs.on, share)
                remedy = "Export with --dtype f32." if kind != "f32" else "Please report it."
                proof.equal_logits(SAME, wanted, outputs.exported(), remedy)
            else:
                detail = f"{done.kept:.4%} of the energy of the updates"
                proof.check(KEPT, True, detail, "", {"energy": done.kept})
            metric = kept_metric(loaded, job.settings.rows, job.observer)
            done.notes.extend([metric] if isinstance(metric, str) else [])
            found = {
                "folder": str(job.out),
                "compared": [comparison],
                "metric": metric if isinstance(metric, KeptMetric) else None,
            }
            done = done.model_copy(update=found)
            proof.write()
            write_result(folder, done)
        return done


TARGET: Target = GgufLora()


def _require_factors_alone(made: LowRank) -> None:
    """Refuse what llama.cpp's adapters have no place for.

    Raises:
        AdapterError: The delta has more than updates of layers, or none.
    """
    others = [*made.changes.whole, *made.changes.biases, *(part.parameter for part in made.changes.left_out)]
    if others:
        raise AdapterError(
            f"the run changes {', '.join(others[:4])}{' and more' if len(others) > 4 else ''}, and "
            "adapters of llama.cpp hold low-rank updates of layers alone.",
            field="--as",
            remedy="Export the merged model (--as gguf).",
        )
    if not made.factors:
        raise AdapterError(
            "no layer is changed, so there is nothing to write.", field="RUN", remedy="Use the base as it is."
        )
