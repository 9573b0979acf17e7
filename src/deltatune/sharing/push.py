"""From a finished run to a repository of the Hub, or to the folder that would be sent."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deltatune.errors import DeltatuneError, RecipeError
from deltatune.files import OURS as HALF_WRITTEN
from deltatune.recipe.load import parse_recipe
from deltatune.sharing.card import Said, model_card
from deltatune.sharing.hub import CARD, Hub
from deltatune.sharing.public import PREDICTIONS, TENSORS, PublicRun, public_run

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be."""

    repo: str
    sent: bool
    """Whether it was sent; else a folder was written."""
    where: str
    """The commit's address; or the folder."""
    files: Mapping[str, int]
    """Bytes by name."""
    scrubbed: Mapping[str, str]
    """What was local, and what stands in its place. It is told to nobody else."""
    notes: Sequence[str]
    """What the user should know."""

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What the user wants and says."""

    repo: str
    base: str | None = None
    licence: str | None = None
    data_licence: str | None = None
    languages: tuple[str, ...] = ()
    predictions: bool = False
    private: bool = False
    revision: str | None = None
    message: str | None = None
    overwrite: bool = False
    keep_card: bool = False


def push(run: Path, asked: Asked, *, out: Path | None = None) -> Pushed:
    """Send a run's delta, card, certificate, recipe and result to the Hub in one commit.

    All that can be checked is checked before the first request.

    Args:
        run: The run's folder.
        asked: Where to, and what the user says of it.
        out: Write this folder instead, and send nothing.

    Raises:
        DeltatuneError: It is no finished run, or was changed; a name is none of the Hub's; the Hub refused.
    """
    _require_names(asked)
    _require_run(run, asked)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DeltatuneError(
            f"'{out}' exists and is not an empty folder.", field="--out", remedy="Choose another folder."
        )
    public = public_run(run, base=asked.base, predictions=asked.predictions)
    primary, interval = _judged(run, public)
    hub = None if out is not None else Hub.open(asked.repo)
    base_licence = _licence_beside(public) or (hub.licence_of(public.base) if hub and public.base else None)
    said = Said(asked.repo, asked.licence, asked.data_licence, base_licence, asked.languages)
    card = model_card(public, said, interval, primary)
    notes = _notes(public, said)
    if hub is None:
        from deltatune.checkpoint.folders import atomic_folder

        assert out is not None
        with atomic_folder(out) as folder:
            files = _write(folder, public, card)
        return Pushed(asked.repo, False, str(out), files, public.scrubbed, notes)
    with tempfile.TemporaryDirectory(prefix=HALF_WRITTEN) as temporary:
        files = _write(Path(temporary), public, card)
        address = hub.push(
            Path(temporary),
            private=asked.private,
            revision=asked.revision,
            message=asked.message or f"Push {public.result.method} by deltatune",
            overwrite=asked.overwrite,
            keep_card=asked.keep_card,
        )
    return Pushed(asked.repo, True, address, files, public.scrubbed, notes)


def _write(folder: Path, run: PublicRun, card: str) -> dict[str, int]:
    """Write what is given away into a folder, and return the files' sizes."""
    for name, content in run.texts.items():
        (folder / name).write_bytes(content)
    (folder / CARD).write_text(card, encoding="utf-8")
    shutil.copyfile(run.tensors, folder / TENSORS)
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _require_names(asked: Asked) -> None:
    """Refuse names that the Hub cannot have, before anything is read.

    Raises:
        DeltatuneError: One is none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    for field, name in (("--to", asked.repo), ("--base", asked.base)):
        if name is None:
            continue
        try:
            validate_repo_id(name)
            if "/" not in name and field == "--to":
                raise HFValidationError(f"{name!r} has no user before it")
        except HFValidationError as error:
            raise DeltatuneError(
                f"{name!r} is no name of the Hub ({str(error).rstrip('.')}).",
                field=field,
                remedy="Write user/name: letters, digits, - _ and . are allowed.",
            ) from error
    for field, licence in (("--license", asked.licence), ("--data-license", asked.data_licence)):
        if licence is not None and not _LICENCE.fullmatch(licence):
            raise DeltatuneError(
                f"{licence!r} is no licence as the Hub writes them.",
                field=field,
                remedy="Write its identifier: apache-2.0, mit, cc-by-4.0, llama3.2, other.",
            )
    for language in asked.languages:
        if not _LANGUAGE.fullmatch(language):
            raise DeltatuneError(
                f"{language!r} is no code of a language.", field="--language", remedy="Write en, de or zh."
            )


def _require_run(folder: Path, asked: Asked) -> None:
    """Refuse a comparison: a repository holds one delta. It says which run to push.

    Raises:
        DeltatuneError: It is one.
    """
    if not (folder / "leaderboard.json").is_file():
        return
    from deltatune.report.load import load
    from deltatune.report.run import Run

    comparison = load(folder)
    trained = [method for method in comparison.contest if method.trained and method.runs]
    if not trained:
        raise DeltatuneError(
            f"'{folder}' is a comparison in which no method was trained to its end.",
            remedy="Run `deltatune compare` again, then push one of its runs.",
        )

    def by_validation(run: Run) -> float:
        value = (run.finished.metrics.validation if run.finished else {}).get(comparison.primary)
        sign = 1 if comparison.higher_is_better else -1
        return float("-inf") if value is None else sign * float(value)

    best = max(trained[0].runs, key=by_validation)
    command = f"deltatune push {shlex.quote(str(best.folder))} --to {shlex.quote(asked.repo)}"
    raise DeltatuneError(
        f"'{folder}' is a comparison, and a repository holds one delta.",
        remedy=f"Push a run, such as the best one of {trained[0].name}: {command}",
    )


def _judged(folder: Path, run: PublicRun) -> tuple[str, tuple[float, float] | None]:
    """The metric that decides, and its 95 % interval over the test rows."""
    from deltatune.comparison.scores import read_sample, row_groups, row_ids
    from deltatune.comparison.statistics import bootstrap_interval
    from deltatune.evaluation import primary_metric
    from deltatune.tasks import TASKS
    from deltatune.tasks.classes import positive_last

    task = TASKS.get(str(run.result.task))
    recipe = parse_recipe(dict(run.recipe))
    primary = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)
    if primary not in run.result.metrics.test:
        raise RecipeError(
            f"the run has no {primary} on test rows.", field="evaluation.primary", remedy="Evaluate it again."
        )
    path = folder / PREDICTIONS
    if not path.is_file():
        return primary, None
    labels = run.result.data.labels
    if labels and task.has_classes:
        labels = positive_last(labels, recipe.evaluation.positive)
    ids = row_ids(path)
    sample = read_sample([path], primary, ids, labels, task.scored_as)
    if sample is None:
        return primary, None
    low, high = bootstrap_interval(sample.grouped(row_groups([path], ids)))
    return primary, (low, high)


def _licence_beside(run: PublicRun) -> str | None:
    """The licence that the card in the folder of a local base names."""
    if run.local_base is None or not (run.local_base / CARD).is_file():
        return None
    from huggingface_hub import ModelCard

    try:
        licence = ModelCard.load(run.local_base / CARD, ignore_metadata_errors=True).data.get("license")
    except Exception:  # a card may be anything
        return None
    return licence if isinstance(licence, str) else None


def _notes(run: PublicRun, said: Said) -> list[str]:
    notes = []
    if run.base is None:
        notes.append(
            f"the card names no base: '{run.base_named}' is not known on the Hub. If it is a copy of a "
            "model there, say which with --base user/name."
        )
    if said.licence is None:
        notes.append("the card names no licence of the delta: say it with --license.")
    if said.data_licence is None:
        notes.append("the card names no licence of the data: say it with --data-license.")
    return notes
