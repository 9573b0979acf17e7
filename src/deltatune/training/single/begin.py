"""What happens before the first step of a run: checks, predictions, the trainer."""

from __future__ import annotations

import contextlib

import torch

from deltatune import units
from deltatune.core.offload import offload_of
from deltatune.files import write_text
from deltatune.memory.fit import fits
from deltatune.results import Padding
from deltatune.training.before.expected_memory import ample_memory, predicted_run
from deltatune.training.before.forecast import this_machine
from deltatune.training.before.packing import cannot_pack, padding_of
from deltatune.training.given.class_names import weights_of
from deltatune.training.given.course import course_of
from deltatune.training.given.folder import CHECKPOINTS
from deltatune.training.loop.checkpoints import Checkpoints
from deltatune.training.loop.micro_batches import code_explained
from deltatune.training.loop.optimizer import Rates
from deltatune.training.loop.steps import Progress
from deltatune.training.loop.trainer import Pause, Trainer
from deltatune.training.loop.validation import Validation
from deltatune.training.proof.kernels import check_kernels
from deltatune.training.proof.own_code import check_own_code
from deltatune.training.proof.packing import try_packing
from deltatune.training.proof.padding import check_padding
from deltatune.training.single.lost import documents_of
from deltatune.training.single.parts import Begun, Run
from deltatune.training.single.result import rows_used
from deltatune.training.single.seeing import see

NO_WAYS = {"lr", "head_lr", "weight_decay", "warmup", "schedule", "epochs", "max_steps"}
"""Settings of training that have no part in how logits are computed."""


def begin(run: Run, pause: Pause | None = None) -> Begun:
    """Check what must hold before the first step, and make the trainer.

    Args:
        run: The run.
        pause: As of `training.run`.
    """
    name = f"{run.entry.name} (seed {run.seed})"
    run.context.hold(name, run.about_base, rows_used(run), run.base.fingerprint, run.origin)
    documents_of(run)  # what cannot be read is told before hours of training
    torch.manual_seed(run.seed)
    trains, seen = run.config.trains, see(run)
    step = _predicted(run) if trains else None
    run.model.eval()
    if trains:
        run.certificate.targets(run.model, run.name)
        run.certificate.supervised(run.data.supervised)
        _prove_base(run)
        with code_explained(run.model, None):
            check_kernels(run.certificate, run.model, run.name, run.shortest_rows(), run.recipe.task)
    rows, at_once = run.data.encoded("train"), _rows_at_once(run)
    # Neighbours that are equally near change places by rounding: what is compared is what they are told by.
    alone = run.model.using() if run.adapter.reads_states else contextlib.nullcontext()
    with alone, code_explained(run.model, run.entry.method if trains else None):
        check_padding(run.certificate, run.model, run.encoder, rows, at_once)
    if (offload := offload_of(run.base.loaded.model)) is not None:
        offload.forget_all()
    run.memory.start()
    if not trains:
        write_text(run.out / "metrics.jsonl", "")
        return Begun(run, None, step, seen=seen)
    padding = _padding(run)
    trainer = Trainer(
        model=run.model,
        name=run.name,
        encoder=run.encoder,
        train=run.data.encoded("train"),
        spec=run.entry.train,
        evaluated_at_once=run.recipe.evaluation.batch_size,
        rates=Rates.of(run.entry.train, run.config, course_of(run.context, run.entry)),
        seed=run.seed,
        out=run.out,
        observer=run.observer,
        certificate=run.certificate,
        inputs=run.inputs,
        checkpoints=Checkpoints(run.out / CHECKPOINTS, run.entry.train.keep_checkpoints, run.write_delta),
        validation=_validation(run),
        pause=pause,
        continues=run.origin is not None,
        class_weights=weights_of(run.entry.train, run.data.dataset, run.encoder.labels),
        progress=Progress(packs=padding is not None and padding.packed),
    )
    return Begun(run, trainer, step, padding)


def _prove_base(run: Run) -> None:
    """That training computes the base's logits: once for runs on a base that read and compute alike."""
    ways = run.entry.train.model_dump_json(exclude=NO_WAYS)
    known, of = run.base.proved, (run.data.reading, run.recipe.evaluation.batch_size, ways)
    if of in known:
        run.certificate.take([known[of]])
        return
    with code_explained(run.model, None):
        line = check_own_code(run.certificate, run.model, run.shortest_rows(), run.recipe.task)
    if line is not None:
        known[of] = line


def _padding(run: Run) -> Padding | None:
    """What padding comes to, and whether the rows of micro-batches are packed, tried on some of them.

    Raises:
        TargetError: The recipe asks for it, and this base cannot do it.
    """
    rows = run.data.encoded("train")
    padding = padding_of(
        run.recipe.task, run.recipe.data, run.entry.train,
        lengths=rows.lengths, view=lambda: run.model.view, seed=run.seed,
    )  # fmt: skip
    if padding is None or not padding.packed:
        return padding
    why = try_packing(run.certificate, run.model, run.encoder, rows)
    if why is not None and run.recipe.data.packing is True:
        raise cannot_pack(why)
    if why is not None:
        padding = padding.model_copy(update={"packed": False})
    reason = "" if why is None else f"; rows are not packed, since {why}"
    run.observer.log(f"{run.entry.name}: padding {padding.text}{reason}.")
    return padding


def _validation(run: Run) -> Validation | None:
    """What measures the run's adapter on its validation rows, if there are any."""
    rows = run.data.dataset.validation
    if not rows:
        return None
    return Validation(
        run.model,
        run.adapter,
        run.encoder,
        rows,
        run.data.encoded("validation"),
        run.recipe.evaluation,
        run.entry.train.early_stopping,
        run.observer,
    )


def _predicted(run: Run) -> dict[str, int] | None:
    """Bytes by part of the step that will be measured; None where nothing hangs on it: memory is ample."""
    if ample_memory(run.context, run.entry, run.base, run.seed):
        return None
    with run.model.using():  # full fine-tuning has its own parameters in the base, which is looked at
        step = predicted_run(run.context, run.entry, run.config, run.base, run.seed)
    limit = this_machine(run.base.device).memory_bytes
    if step is not None and not fits(step["total"], limit):
        run.observer.warn(
            f"{run.entry.name}: a training step takes {units.size(step['total'])}, and only "
            f"{units.size(limit)} are free; `deltatune plan` says what to change."
        )
    return step


def _rows_at_once(run: Run) -> int:
    """The largest number of rows in a batch."""
    spec, evaluated = run.entry.train, run.recipe.evaluation.batch_size
    return max(evaluated, spec.micro_batch_size or spec.batch_size) if run.config.trains else evaluated
