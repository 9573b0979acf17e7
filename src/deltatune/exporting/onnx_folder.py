"""The target `onnx`: an encoder or a model of images as a file, with what its inputs and outputs need."""

from __future__ import annotations

from torch import nn

from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.exporting.folded import folded
from deltatune.exporting.measure import Outputs
from deltatune.exporting.onnx import NAME, Form, form_of, outputs_of, require_packages, session_of, write_onnx
from deltatune.exporting.target import Job, Target, write_result
from deltatune.models.quiet import quiet
from deltatune.results import Exported
from deltatune.runs.loaded import LoadedRun
from deltatune.runs.proof import proof_of
from deltatune.tasks import TASKS
from deltatune.training.proof.equal_logits import Logits

SAME = "ONNX file is the same"


class Onnx:
    """A merged model for ONNX Runtime."""

    title = "An ONNX file of an encoder or a model of images, with its tokenizer or image processor."
    options = frozenset[str]()

    def export(self, job: Job) -> Exported:
        """Fold, trace, run and compare."""
        require_packages()
        loaded = job.load(as_trained=False)
        outputs = Outputs(loaded)
        form = _form(loaded, outputs)
        merged, notes = folded(loaded)
        done = Exported(
            **job.about("onnx", loaded.method, loaded.base.name),
            folder=None,
            exact=True,
            notes=notes,
            details={"inputs": list(form.inputs), "output": form.output},
        )
        if job.dry_run:
            return done
        nn.Module.to(merged, "cpu")
        with job.folder() as folder:
            job.observer.stage(f"Tracing {type(merged).__name__}")
            with quiet():
                write_onnx(merged, form, folder)
            merged.config.save_pretrained(folder)
            loaded.base.processor.save_pretrained(folder)
            job.observer.stage("Comparing outputs")
            found = outputs_of(session_of(folder / NAME), form, outputs.batch)
            comparison = outputs.comparison(found.view_as(outputs.run), _runtime())
            proof = proof_of(loaded, folder / CERTIFICATE)
            wanted = Logits(outputs.run, outputs.base, outputs.on, outputs.share)
            proof.equal_logits(SAME, wanted, found.view_as(outputs.run), "Please report it.")
            proof.write()
            done = done.model_copy(update={"folder": str(job.out), "compared": [comparison]})
            write_result(folder, done)
        return done


TARGET: Target = Onnx()


def _form(loaded: LoadedRun, outputs: Outputs) -> Form:
    """What the file takes and gives."""
    task = TASKS.get(loaded.recipe.task)
    pixels = outputs.batch.get("pixel_values")
    return form_of(
        loaded.base.model.config,
        image=None if pixels is None else tuple(pixels.shape[1:]),
        writes=task.writes_text,
        pooling=loaded.base.pooling if task.embeds else None,
    )


def _runtime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"
