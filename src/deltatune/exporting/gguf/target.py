"""The target `gguf`: base and delta as one file for llama.cpp and what is built on it, and a Modelfile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.core.devices import to_device
from deltatune.core.model import AdaptedModel
from deltatune.data.chat import chat_template
from deltatune.errors import DeltatuneError, ModelError
from deltatune.exporting.folded import folded
from deltatune.exporting.gguf.families import family_of
from deltatune.exporting.gguf.model import (
    KINDS,
    About,
    Kind,
    Plan,
    plan,
    read_by_transformers,
    read_model,
    reader,
    write_model,
)
from deltatune.exporting.measure import Outputs
from deltatune.exporting.ollama import Modelfile, modelfile_of
from deltatune.exporting.target import Job, Target, named_for_others, write_result
from deltatune.files import write_text
from deltatune.models.quiet import quiet
from deltatune.results import Exported
from deltatune.runs.loaded import LoadedRun
from deltatune.runs.merge import meanings
from deltatune.runs.proof import proof_of
from deltatune.tasks import TASKS
from deltatune.training.proof.equal_logits import Logits

FILE, MODELFILE = "model.gguf", "Modelfile"
SAME, ROUNDED = "GGUF file is the same", "kept by the GGUF file"
SHARES = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2}
"""How far logits may differ by rounding, as a share of the largest; that of q8_0 is not limited."""


class Gguf:
    """A merged model in llama.cpp's format."""

    title = "One GGUF file for llama.cpp, LM Studio and others, with a Modelfile for Ollama."
    options = frozenset({"dtype"})

    def export(self, job: Job) -> Exported:
        """Fold, write, read again and compare."""
        kind = chosen(job.settings.dtype, KINDS, "f16")
        loaded = job.load(as_trained=False)
        planned = plan_of(loaded)
        merged, notes = folded(loaded)
        modelfile = modelfile_of(loaded, f"./{FILE}")
        done = Exported(
            **job.about("gguf", loaded.method, loaded.base.name),
            folder=None,
            exact=kind == "f32",
            notes=[*notes, *planned.warnings, *_notes(loaded), *modelfile[1]],
            details={"dtype": kind, "architecture": planned.family.architecture},
        )
        if job.dry_run:
            return done
        with job.folder() as folder:
            job.observer.stage(f"Writing {FILE}")
            write_model(merged, planned, folder / FILE, cast(Kind, kind))
            _beside(folder, modelfile[0])
            job.observer.stage("Comparing outputs")
            outputs, proof = Outputs(loaded), proof_of(loaded, folder / CERTIFICATE)
            by, again = _again(folder / FILE, merged, planned)
            found = outputs_of(again, loaded, outputs)
            comparison = outputs.comparison(found, by)
            if kind in SHARES:
                share = max(SHARES[kind], outputs.share)
                wanted = Logits(outputs.run, outputs.base, outputs.on, share)
                remedy = f"{kind} loses too much of what the delta does: export with --dtype f32."
                proof.equal_logits(SAME, wanted, found, remedy)
            else:
                _tell(proof, kind, comparison.largest_difference, comparison.effect)
                if comparison.largest_difference > comparison.effect / 2:
                    done.notes.append(
                        f"{kind} moves outputs by more than half of what the delta does; f16 rounds less."
                    )
            proof.write()
            done = done.model_copy(update={"folder": str(job.out), "compared": [comparison]})
            write_result(folder, done)
        return done


TARGET: Target = Gguf()


def chosen(dtype: str | None, kinds: Sequence[str], default: str) -> str:
    """The type of weights that was asked for.

    Raises:
        DeltatuneError: It is none of them.
    """
    kind = dtype or default
    if kind not in kinds:
        raise DeltatuneError(
            f"{kind!r} is no type of weights in this file.",
            field="--dtype",
            remedy=f"Choose {', '.join(kinds)}.",
        )
    return kind


def plan_of(loaded: LoadedRun) -> Plan:
    """Whether a run's model can be written, without its weights.

    Raises:
        ModelError: llama.cpp cannot compute it, or read its texts.
    """
    base, task = loaded.base.model, TASKS.get(loaded.recipe.task)
    family_of(base.config.model_type, type(base).__name__)  # first: images have no tokenizer
    if loaded.recipe.data.columns.pair is not None:
        raise ModelError(
            "the run reads pairs of texts, and llama.cpp reads one: it does not tell a model which is which.",
            field="--as",
            remedy="Export it as ONNX (--as onnx), or merge it into a Transformers folder.",
        )
    template = chat_template(loaded.recipe.data.chat_template)
    if template is not None:
        loaded.base.processor.chat_template = template
    about = About(
        name=f"{Path(loaded.base.name).name} {loaded.name}",
        base=named_for_others(loaded.base.name),
        pooling=loaded.base.pooling if task.embeds else None,
        labels=loaded.labels or (),
    )
    ends = loaded.encoder.tokens.eos_ids if task.writes_text else ()
    return plan(base.config, type(base).__name__, loaded.base.processor, about, ends)


def outputs_of(model: PreTrainedModel, loaded: LoadedRun, outputs: Outputs) -> Tensor:
    """What another model gives for the rows that outputs are compared on."""
    nn.Module.to(model, loaded.model.device)
    adapted = AdaptedModel(model, pooling=loaded.base.pooling)
    with torch.inference_mode():
        found: Tensor = TASKS.get(loaded.recipe.task).outputs(
            adapted, to_device(outputs.batch, loaded.model.device)
        )
    return found.float().cpu()


def _again(path: Path, merged: PreTrainedModel, planned: Plan) -> tuple[str, PreTrainedModel]:
    """Who read the file, and the model that it holds: by Transformers' own reader where that knows it."""
    if planned.family.reads(merged.config):
        with quiet():
            return reader(), read_by_transformers(path)
    return "deltatune", read_model(path, merged, planned.family)


def _tell(proof: Any, kind: str, difference: float, effect: float) -> None:
    """Write down what rounding to few bits costs; that it costs something is no failure."""
    detail = f"{kind} moves logits by up to {difference:.3g}, where the delta moves them by {effect:.3g}"
    proof.check(ROUNDED, True, detail, "", {"difference": difference, "effect": effect})


def _beside(folder: Path, modelfile: Modelfile | None) -> None:
    if modelfile is not None:
        write_text(folder / MODELFILE, modelfile.text())


def _notes(loaded: LoadedRun) -> list[str]:
    """What must be known to use the file."""
    task, notes = TASKS.get(loaded.recipe.task), []
    if loaded.base.model.config.model_type == "bert":
        notes.append(
            "llama.cpp computes BERT's GELU by its tanh form, and that in float16: its outputs differ from "
            "those compared here by some 1e-4."
        )
    if loaded.labels or task.has_values:
        names = loaded.labels or ["the number"]
        notes.append(
            "llama.cpp gives the outputs of a classifier as an embedding: ask its server's /embedding with "
            f"embd_normalize -1; what counts is the first {len(names)} ({', '.join(names[:8])})."
        )
    for name, value in meanings(loaded).items():
        notes.append(f"{name}: {value}, which the file does not hold.")
    return notes
