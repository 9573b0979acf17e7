"""What a run's delta costs beside its training: what the base forgets, and the time of an answer."""

from __future__ import annotations

import time
from statistics import median

from deltatune.core.devices import memory_left, on_gpu, out_of_memory
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.evaluation import general, latency
from deltatune.evaluation.general import Documents
from deltatune.evaluation.latency import Variant
from deltatune.evaluation.loss import RowLoss
from deltatune.files import write_lines
from deltatune.models.positions import room_of
from deltatune.results import GeneralLoss, Latency, Lost
from deltatune.timeline import phase
from deltatune.training.given.machine import available_memory
from deltatune.training.single.parts import Run

FILE = "general.jsonl"
"""Of a run: what each document of general text adds."""
NO_ROOM = "a merged copy of the base does not fit into the memory that is left"
COPIES = 1.5
"""Bytes that are left at least, by those of a copy."""


def what_is_lost(run: Run) -> Lost | None:
    """Measure what the recipe asks for; None if it asks for nothing."""
    spec = run.recipe.evaluation
    if spec.general is None and not spec.latency:
        return None
    timed = spec.latency and run.seed == run.context.recipe.seeds[0]  # other seeds take as long
    return Lost(general=_forgetting(run), latency=_latency(run) if timed else None)


def documents_of(run: Run) -> Documents | None:
    """The general text as the run's base reads it; None if it is not asked for, or its loss is not defined.

    Raises:
        DataError: It has nothing to predict.
    """
    text = run.context.general
    if text is None:
        return None
    measure = general.measure_of(run.model.base.config, run.encoder)
    if measure is None:
        run.context.warn(
            f"evaluation.general: {type(run.model.base).__name__} was not trained on plain text in a way "
            "that is rebuilt here (next tokens, or T5's corrupted spans). No loss on general text is given."
        )
        return None
    return general.read(text, measure, run.encoder, _longest(run))


def _longest(run: Run) -> int:
    """Tokens of a document: what the base has room for beside the delta's own."""
    room = room_of(run.model.base, run.adapter)
    table = room.positions.input
    return general.LONGEST if table is None else min(general.LONGEST, table - room.taken)


def _to_write_in(run: Run) -> int | None:
    """Positions beside the delta's own of the stack that writes; None: it has no end."""
    room, own_stack = room_of(run.model.base, run.adapter), run.model.base.config.is_encoder_decoder
    table = room.positions.decoder if own_stack else room.positions.input
    return None if table is None else table - (room.taken_in_decoder if own_stack else room.taken)


@phase("general text")
def _forgetting(run: Run) -> GeneralLoss | None:
    """The loss on general text; that of the base alone is measured once for all runs on it."""
    documents = documents_of(run)
    if documents is None:
        return None
    started = time.perf_counter()
    run.observer.stage(f"Reading general text with {run.entry.name}")
    known, key = run.context.base_on_general, (run.base.fingerprint, _longest(run))
    if key not in known:
        with run.model.using():
            known[key] = _losses(run, documents)
    base = known[key]
    if general.only_guesses(documents, base, run.model.base.config.vocab_size):
        run.context.warn(
            f"evaluation.general: {run.base.spec.name} has unlearned to fill in spans: its own loss is above "
            "that of guessing. No loss on general text is given."
        )
        return None
    delta = _losses(run, documents) if run.config.trains else base
    write_lines(run.out / FILE, general.lines(documents, base, delta))
    run.observer.log(f"{run.entry.name}: general text read in {time.perf_counter() - started:.0f} s")
    assert run.context.general is not None
    return general.compared(run.context.general, documents, base, delta)


def _losses(run: Run, documents: Documents) -> list[RowLoss]:
    rows = run.recipe.evaluation.batch_size
    smaller = "Set evaluation.batch_size to fewer rows (the same result)."
    with out_of_memory(f"reading {rows} documents at once", smaller, "evaluation.batch_size"):
        return general.losses(run.model, documents, run.encoder, rows)


@phase("latency")
def _latency(run: Run) -> Latency | None:
    """The time of an answer by the base, with the delta, and with it folded in; None without a delta."""
    if not run.config.trains:
        return None
    run.observer.stage(f"Timing answers of {run.entry.name}")
    asked = latency.questions(run.data.encoded("test"), run.encoder, run.model.device, _to_write_in(run))
    variants = {"base": Variant(run.model, run.model.using), "delta": Variant(run.model)}
    merged = _merged(run)
    if isinstance(merged, AdaptedModel):
        variants["merged"] = Variant(merged)
    seconds = latency.times(variants, asked, run.encoder)
    folded = seconds.get("merged")
    return Latency(
        rows=len(asked),
        turns=len(seconds["base"]),
        tokens=asked[0].written,
        base_seconds=median(seconds["base"]),
        delta_seconds=median(seconds["delta"]),
        merged_seconds=None if folded is None else median(folded),
        delta=latency.ratio(seconds["delta"], seconds["base"]),
        merged=None if folded is None else latency.ratio(folded, seconds["base"]),
        not_merged=None if isinstance(merged, AdaptedModel) else merged,
    )


def _merged(run: Run) -> AdaptedModel | str:
    """A copy of the base with the delta in its weights, or why there is none."""
    base = run.model.base
    copy = sum(parameter.numel() * parameter.element_size() for parameter in base.parameters())
    left = memory_left(run.base.device) if on_gpu(run.base.device) else available_memory()
    if left < COPIES * copy:
        return NO_ROOM
    try:
        return AdaptedModel(run.model.merged(), pooling=run.model.pooling)
    except AdapterError as error:
        return error.what.removeprefix(f"the adapter {run.name!r} ").rstrip(".")
