"""The model card of a run: README.md with the Hub's metadata, and what a reader must know of the delta."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune import units
from deltatune.printable import printable
from deltatune.report import display
from deltatune.sharing.card_text import plain
from deltatune.sharing.public import PREDICTIONS, PublicRun
from deltatune.sharing.usage import uses
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

NO_LICENCE = "not stated. Ask who published it before you use it."
_SHOWN_METRICS = 12


@dataclass(frozen=True)
class Said:
    """What only the user can say of a run."""

    repo: str
    """`user/name`."""
    licence: str | None = None
    """Of the delta, as the Hub writes it: `apache-2.0`."""
    data_licence: str | None = None
    base_licence: str | None = None
    """As the base's own card says it."""
    languages: tuple[str, ...] = ()
    """Codes such as `en`."""


@dataclass(frozen=True)
class Rows:
    """The data set of a recipe, by the names that the Hub's metadata have."""

    name: str
    kind: str
    """The Hub's id, or a short name."""
    hub: str | None = None
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Score:
    """A line of the card's table."""

    label: str
    value: str
    interval: str = ""


@dataclass(frozen=True)
class _Judged:
    """The metric that decides, on the test rows."""

    key: str
    value: float
    interval: tuple[float, float] | None
    rows: int
    others: dict[str, float] = field(default_factory=dict)


def model_card(run: PublicRun, said: Said, interval: tuple[float, float] | None, primary: str) -> str:
    """The text of README.md.

    Args:
        run: What is given away.
        said: What the user says of it.
        interval: 95 % interval of the metric that decides, on the test rows.
        primary: That metric's key.
    """
    from huggingface_hub import ModelCard, ModelCardData

    result, task = run.result, TASKS.get(str(run.result.task))
    metrics = dict(result.metrics.test)
    judged = _Judged(primary, metrics[primary], interval, result.data.test or 0, metrics)
    rows = rows_of(run)
    peft_type = str(run.peft.get("peft_type")).lower().replace("_", "-")
    data = ModelCardData(
        base_model=run.base,
        base_model_relation="adapter" if run.base else None,
        datasets=[rows.hub] if rows.hub else None,
        eval_results=[_eval_result(task.pipeline, rows, judged)],
        language=list(said.languages) or None,
        library_name="peft" if run.loads_in_peft else "deltatune",
        license=said.licence,
        metrics=[primary],
        model_name=said.repo.rpartition("/")[2],
        pipeline_tag=task.pipeline,
        tags=["deltatune", *([peft_type] if run.loads_in_peft else []), _slug(result.method)],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("card.md.j2")),
        **_words(run, said, judged, rows),
    )
    return printable(str(card)).rstrip("\n") + "\n"


def _eval_result(pipeline: str | None, rows: Rows, judged: _Judged) -> EvalResult:
    from huggingface_hub import EvalResult

    shown = display.style(judged.key)
    words = f"{shown.label}, {judged.rows:,} test rows"
    if judged.interval:
        words += f", 95 % interval {judged.interval[0]:.6g} to {judged.interval[1]:.6g}"
    return EvalResult(
        task_type=pipeline or "other",
        dataset_type=rows.kind,
        dataset_name=rows.name,
        dataset_config=rows.config,
        dataset_revision=rows.revision,
        dataset_split="test",
        metric_type=judged.key,
        metric_value=judged.value,
        metric_name=words,
    )


def _words(run: PublicRun, said: Said, judged: _Judged, rows: Rows) -> dict[str, Any]:
    """What the template puts in its places; texts of others have no markup left."""
    result, task = run.result, TASKS.get(str(run.result.task))
    cost = result.cost
    trained = units.share(cost.trained_parameters, cost.total_parameters)
    base = f"[{run.base}](https://huggingface.co/{run.base})" if run.base else f"`{plain(run.base_named)}`"
    saved = "a full copy of what was trained" if result.method == "full" else "a delta"
    lines = run.certificate.lines if run.certificate else result.certificate
    return {
        "title": plain(said.repo.rpartition("/")[2]),
        "what": f"This is {saved} for {base}, trained with **{plain(result.method)}** by deltatune. "
        f"{task.title} It has {cost.trained_parameters:,} trained parameters, {trained} of the base's "
        f"{cost.total_parameters:,}. The base is not in this repository.",
        "scores": _scores(judged),
        "judged": f"Measured on {judged.rows:,} test rows that neither trained nor selected the model. "
        + (
            "The interval is a bootstrap over these rows; it does not count other seeds."
            * bool(judged.interval)
        ),
        "uses": uses(run, said.repo),
        "limits": _limits(run, judged),
        "trained": f"{(result.data.train or 0):,} training rows and {(result.data.validation or 0):,} "
        f"validation rows of {_data_link(rows)}. Validation rows chose the kept step"
        + (f", {result.selected.step:,} of {cost.steps:,}." if result.selected.step is not None else "."),
        "settings": [(plain(name), plain(value)) for name, value in _settings(run)],
        "costs": _costs(run),
        "checked": f"{sum(line.passed for line in lines)} of {len(lines)} checks passed; certificate.json "
        "has the numbers.",
        "checks": [f"{plain(line.check)}: {plain(line.detail)}" for line in lines],
        "licences": [
            f"This delta: {plain(said.licence or NO_LICENCE)}",
            f"Base: {plain(said.base_licence or NO_LICENCE)}",
            f"Data: {plain(said.data_licence or NO_LICENCE)}",
        ],
        "files": _files(run),
        "version": plain(result.versions.get("deltatune", "")),
    }


def _scores(judged: _Judged) -> list[Score]:
    first = Score(
        f"**{display.style(judged.key).label}**",
        display.metric(judged.key, judged.value),
        display.interval(judged.key, list(judged.interval)) if judged.interval else "",
    )
    others = [key for key in judged.others if key not in (judged.key, "tokens")][:_SHOWN_METRICS]
    return [
        first,
        *(Score(plain(display.style(key).label), display.metric(key, judged.others[key])) for key in others),
    ]


def _limits(run: PublicRun, judged: _Judged) -> list[str]:
    result = run.result
    told = [
        f"One run with seed {result.seed}: another seed gives other numbers.",
        f"The numbers hold for rows like the {judged.rows:,} test rows, and for no others.",
        "What the base does wrong, such as its biases, this delta does not mend.",
    ]
    cut = [
        f"{count:,} training {what} were longer than the limit and were cut."
        for what, count in (
            ("inputs", result.data.truncated_inputs),
            ("targets", result.data.truncated_targets),
        )
        if count
    ]
    if result.one_answer:
        told.append(plain(result.one_answer))
    return [*told, *cut, *(plain(text) for text in result.data.warnings)]


def _settings(run: PublicRun) -> list[tuple[str, str]]:
    result, train = run.result, run.recipe.get("train") or {}
    rates = result.rates
    entry = next((each for each in run.recipe.get("methods") or [] if isinstance(each, dict)), {})
    changes = entry.get("train") or {}
    kept = {**train, **changes} if isinstance(train, dict) else changes
    named = [
        (f"{result.method}.{name}", _said(value)) for name, value in result.config.items() if value != {}
    ]
    if rates:
        named += [("learning rate", f"{rates.lr:g}")] if rates.lr is not None else []
        named += (
            [("learning rate of the head", f"{rates.head_lr:g}")]
            if rates.head_lr is not None and result.new_heads
            else []
        )
    named += [(name, _said(kept[name])) for name in ("schedule", "batch_size", "optimizer") if name in kept]
    return [
        *named,
        ("epochs", f"{result.cost.epochs:.3g}"),
        ("steps", f"{result.cost.steps:,}"),
        ("seed", str(result.seed)),
        ("precision of the base", str(result.model.quantization or result.model.dtype)),
    ]


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)


def _costs(run: PublicRun) -> list[tuple[str, str]]:
    cost, memory = run.result.cost, run.result.memory
    where = run.result.versions.get("gpu") or "CPU"
    return [
        ("training", f"{units.duration(cost.train_seconds)} ({plain(where)})"),
        ("memory of a step", units.size(memory.known if memory and memory.known else None)),
        ("file", units.size(cost.file_bytes)),
    ]


def _files(run: PublicRun) -> str:
    kept = ["`adapter_model.safetensors` and `adapter_config.json` are the delta"]
    kept += ["`deltatune.json` holds its settings and checksums", "`recipe.yaml` is the recipe of the run"]
    kept += ["`result.json` has every number of it"]
    if PREDICTIONS in run.texts:
        kept.append(f"`{PREDICTIONS}` has the test rows with what the model said")
    return "; ".join(kept) + "."


def rows_of(run: PublicRun) -> Rows:
    """The data set of a run's recipe."""
    from deltatune.data.remote import HUB_ID

    data = run.recipe.get("data") or {}
    source = str(data.get("source") or data.get("train") or "") if isinstance(data, dict) else str(data)
    if source.startswith("hub:") or (isinstance(data, dict) and data.get("format") == "hub"):
        named = HUB_ID.fullmatch(source)
        if named is not None:
            name = named["id"]
            return Rows(name, name, name, named["config"], named["revision"])
    name = source.rstrip("/").rpartition("/")[2] or "data"
    return Rows(name, _slug(name), None)


def _data_link(rows: Rows) -> str:
    return (
        f"[{rows.hub}](https://huggingface.co/datasets/{rows.hub})" if rows.hub else f"`{plain(rows.name)}`"
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "data"
