"""Tasks of lm-evaluation-harness on a model with deltas: the harness asks and scores, the model answers.

What the harness computes of the answers is its own; rows are scored greedily, and each row's scores are kept.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from deltatune.errors import DataError, DeltatuneError
from deltatune.evaluation.continuations import Continuations
from deltatune.evaluation.interfaces import evaluating, longest_first
from deltatune.evaluation.task_files import TaskFile
from deltatune.results.harness import TaskScore

RESAMPLES = 2000
"""Draws of rows for an interval of a difference."""
SEED = 1234
"""Of the examples that are shown before a row, as the harness has it."""


@dataclass(frozen=True)
class Scored:
    """What the harness found on all rows of a task."""

    metrics: dict[str, float]
    """By key: the metric, and its filter behind a comma unless it has none."""
    rows: dict[str, list[Any]]
    """By the same keys, what each row adds, in the order of the rows."""
    aggregation: dict[str, Callable[[list[Any]], float]]
    """By the same keys, how rows are summed up."""
    higher: dict[str, bool | None]
    """By the same keys, whether more is better."""


def require_harness() -> str:
    """The version of the harness.

    Raises:
        DeltatuneError: It is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise DeltatuneError(
            "needs the package lm_eval, which is not installed.",
            field="evaluation.tasks",
            remedy='Run pip install "deltatune[lm-eval]".',
        )
    return metadata.version("lm_eval")


def metrics_of(tasks: Sequence[TaskFile]) -> dict[str, list[str]]:
    """Load tasks, without a model: their metrics by name of the task.

    Raises:
        DeltatuneError: The harness is not installed.
        DataError: A task cannot be loaded, or a metric is not the harness's own.
    """
    require_harness()
    with _quiet(), tempfile.TemporaryDirectory() as cache:
        return {task.name: list(_loaded(task, cache).aggregation()) for task in tasks}


def run_tasks(model: Any, tokens: Any, tasks: Sequence[TaskFile], *, batch_size: int, chat: str | bool,
              room: int) -> dict[str, Scored]:  # fmt: skip
    """Score a model on tasks.

    Args:
        model: `AdaptedModel`, with the deltas that act.
        tokens: Its tokenizer, as `deltatune.data.tokens.TextTokens`.
        tasks: The tasks.
        batch_size: Rows at once.
        chat: Whether what is asked goes through the chat template; a text is the template.
        room: Positions of the model for a row.

    Returns:
        By name of the task.
    """
    from lm_eval.evaluator import evaluate

    found = {}
    with _quiet(), tempfile.TemporaryDirectory() as cache:
        asked = _model_class()(model, tokens, batch_size, chat, room)
        for task in tasks:
            loaded = _loaded(task, cache)
            result = evaluate(
                lm=asked,
                task_dict={"tasks": {task.name: loaded}, "groups": {}, "group_map": {}},
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=bool(chat),
                fewshot_as_multiturn=bool(chat),
            )
            found[task.name] = _scored(loaded, result["results"][task.name], result["samples"][task.name])
    return found


def compared(base: dict[str, Scored], delta: dict[str, Scored]) -> list[TaskScore]:
    """The metrics of both, and the intervals of their differences, by resampling rows in pairs."""
    return [
        TaskScore(
            task=name,
            metric=key,
            higher_is_better=scored.higher[key],
            rows=len(scored.rows[key]),
            base=base[name].metrics[key],
            delta=value,
            difference=value - base[name].metrics[key],
            **_interval(base[name].rows[key], scored.rows[key], scored.aggregation[key]),
        )
        for name, scored in delta.items()
        for key, value in scored.metrics.items()
    ]


def lines(base: dict[str, Scored], delta: dict[str, Scored]) -> list[dict[str, Any]]:
    """What each row adds to each metric, for the base alone and with the delta: a line for each."""
    return [
        {"task": name, "row": row, "metric": key, "base": _plain(one), "delta": _plain(other)}
        for name, scored in delta.items()
        for key, values in scored.rows.items()
        for row, (one, other) in enumerate(zip(base[name].rows[key], values, strict=True))
    ]


def _plain(value: Any) -> Any:
    """A row's share of a metric as JSON: a number, or numbers and texts that are summed up together."""
    return json.loads(json.dumps(value, default=lambda other: np.asarray(other).tolist()))


def _interval(base: list[Any], delta: list[Any], aggregate: Callable[[list[Any]], float]) -> dict[str, Any]:
    rows = len(base)
    if rows < 2:
        return {"low": None, "high": None}
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, rows, size=(RESAMPLES, rows))
    numbers = [np.asarray(values) for values in (base, delta)] if _averages(aggregate, base + delta) else None
    if numbers is not None:
        differences = (numbers[1] - numbers[0]).astype(float)[drawn].mean(axis=1)
    else:
        differences = np.array([
            aggregate([delta[row] for row in places]) - aggregate([base[row] for row in places])
            for places in drawn
        ])  # fmt: skip
    low, high = np.percentile(differences, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def _averages(aggregate: Callable[[list[Any]], float], values: list[Any]) -> bool:
    """Whether rows are numbers, and what sums them up is their mean."""
    return getattr(aggregate, "__name__", "") == "mean" and all(isinstance(v, int | float) for v in values)


def _scored(task: Any, summary: dict[str, Any], samples: list[dict[str, Any]]) -> Scored:
    metrics, rows, aggregation, higher = {}, {}, {}, {}
    for key, value in summary.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        short = name if kind == "none" else key
        metrics[short] = float(value)
        rows[short] = [row[name] for row in samples if row["filter"] == kind]
        aggregation[short] = task.aggregation()[name]
        higher[short] = task.higher_is_better().get(name)
    return Scored(metrics, rows, aggregation, higher)


def _loaded(task: TaskFile, cache: str) -> Any:
    """The harness's own object of a task.

    Raises:
        DataError: The harness does not take it.
    """
    from lm_eval.api.registry import AGGREGATION_REGISTRY, metric_registry
    from lm_eval.api.task import ConfigurableTask

    for entry in task.content.get("metric_list") or ():
        name = entry.get("metric") if isinstance(entry, dict) else entry
        if name not in metric_registry or (isinstance(entry, dict) and entry.get("hf_evaluate")):
            raise _refused(
                task,
                f"has the metric {name}, which is not the harness's own but code from elsewhere",
                f"Take one of {', '.join(sorted(metric_registry))}.",
            )
        if (how := entry.get("aggregation", "mean")) not in AGGREGATION_REGISTRY:
            raise _refused(task, f"sums up by {how}", f"There are {', '.join(sorted(AGGREGATION_REGISTRY))}.")

    def rows(**_: Any) -> Any:
        from datasets import load_dataset

        return load_dataset(task.builder, data_files=task.files, cache_dir=cache)

    try:
        found = ConfigurableTask(config={**json.loads(json.dumps(task.content)), "custom_dataset": rows})
        if found.get_config("num_fewshot") is None:
            found.set_config(key="num_fewshot", value=0)
        found.set_fewshot_seed(seed=SEED)
        found.doc_to_target(found.eval_docs[0])
    except DeltatuneError:
        raise
    except Exception as error:  # the harness raises anything, and data sets do too
        reason = (str(error).splitlines() or [""])[0][:200]
        raise _refused(
            task, f"is not taken by lm-evaluation-harness ({type(error).__name__}: {reason})", "Mend it."
        ) from error
    return found


def _refused(task: TaskFile, what: str, remedy: str) -> DataError:
    return DataError(f"'{task.path}' {what}.", field="evaluation.tasks", remedy=remedy)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block the harness is silent, and templates of task files get at nothing but their row."""
    import datasets
    import jinja2
    import lm_eval.api.metrics  # (it registers them)
    import lm_eval.api.task
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    templates = ImmutableSandboxedEnvironment(
        loader=jinja2.BaseLoader(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    templates.filters["regex_replace"] = lm_eval.utils.regex_replace
    logger = logging.getLogger("lm_eval")
    level, shows = logger.level, datasets.is_progress_bar_enabled()
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        with (
            mock.patch.object(lm_eval.utils, "env", templates),
            mock.patch.object(lm_eval.api.task, "tqdm", lambda rows, **_: rows),
        ):
            yield
    finally:
        logger.setLevel(level)
        if shows:
            datasets.enable_progress_bars()


def _model_class() -> Any:
    """The class that answers the harness; made here, since the harness need not be installed."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class Answering(TemplateLM):
        """Answers by an AdaptedModel; encodes as the harness's own model of Transformers does."""

        def __init__(self, model: Any, tokens: Any, batch_size: int, chat: str | bool, room: int) -> None:
            super().__init__()
            self._model, self._tokens, self._size, self._chat, self._room = (
                model,
                tokens,
                batch_size,
                chat,
                room,
            )
            self.tokenizer = tokens.tokenizer
            self._texts = Continuations(model, tokens.pad_id, batch_size, room)

        @property
        def eot_token_id(self) -> int:
            return int(self._tokens.eos_ids[0])

        @property
        def prefix_token_id(self) -> int:
            first = self.tokenizer.bos_token_id
            return int(self.tokenizer.eos_token_id if first is None else first)

        @property
        def tokenizer_name(self) -> str:
            return str(self.tokenizer.name_or_path)

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            text: str = self.tokenizer.apply_chat_template(
                chat_history,
                chat_template=self._chat if isinstance(self._chat, str) else None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
            return text

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            first = self.tokenizer.decode(self.prefix_token_id)
            if add_special_tokens is None and first and string.startswith(first):
                add_special_tokens = False
            how = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
            return list(self.tokenizer.encode(string, verbose=False, **how))

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return list(self._texts.scores([(before, after) for _, before, after in requests]))

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
            windows, owners = [], []
            for owner, request in enumerate(requests):
                pieces = get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self._room,
                    context_len=1,
                )
                for piece in map(make_disjoint_window, pieces):
                    windows.append(("", *piece))
                    owners.append(owner)
            totals = [0.0] * len(requests)
            for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
                totals[owner] += value
            return totals

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
            end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
            found = [""] * len(requests)
            by_how: dict[str, list[int]] = {}
            for place, request in enumerate(requests):
                by_how.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(place)
            for how, places in by_how.items():
                asked = normalize_gen_kwargs(json.loads(how))
                stops = handle_stop_sequences(asked.get("until"), eos=end)
                texts = [self.tok_encode(requests[place].args[0]) for place in places]
                for batch in longest_first([len(ids) for ids in texts], self._size):
                    written = self._write([texts[i] for i in batch], stops, int(asked["max_gen_toks"]))
                    for i, text in zip(batch, written, strict=True):
                        found[places[i]] = postprocess_generated_text(text, stops, None)
            return found

        def _write(self, prompts: Sequence[list[int]], stops: list[str], new: int) -> list[str]:
            room = max(1, self._room - new)
            kept = [ids[-room:] for ids in prompts]
            length = max(map(len, kept))
            ids = torch.full((len(kept), length), self._tokens.pad_id)
            mask = torch.zeros_like(ids)
            for row, own in enumerate(kept):
                ids[row, length - len(own) :], mask[row, length - len(own) :] = torch.tensor(own), 1
            device, start = self._model.device, -1

            def stopped(so_far: Tensor, *_: Any, **__: Any) -> Tensor:
                """Rows whose text has a stop in it; behind a prompt, ids begin with what is written."""
                nonlocal start
                start = so_far.shape[1] - 1 if start < 0 else start
                texts = self.tokenizer.batch_decode(so_far[:, start:])
                return torch.tensor([any(stop in text for stop in stops) for text in texts], device=device)

            with evaluating(self._model):
                output = self._model.generate(
                    input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=new,
                    do_sample=False, num_beams=1, pad_token_id=self._tokens.pad_id,
                    eos_token_id=self._tokens.eos_ids, stopping_criteria=[stopped],
                )  # fmt: skip
            return [
                self.tokenizer.decode(row, skip_special_tokens=True) for row in output[:, length:].tolist()
            ]

    return Answering
