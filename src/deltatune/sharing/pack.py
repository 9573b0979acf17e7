"""A comparison, or a run, in one file: all but the weights, and without what is local."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deltatune.checkpoint import manifest
from deltatune.errors import DeltatuneError
from deltatune.files import OURS as HALF_WRITTEN
from deltatune.files import as_json, encoded, make_folder, read_json, sha256
from deltatune.recipe.load import read_recipe
from deltatune.recipe.written import as_written
from deltatune.report.across_words import is_across
from deltatune.results.across import FOLDER
from deltatune.sharing import archive
from deltatune.sharing.public import OURS, PREDICTIONS, RECIPE, RESULT, public_lines, resealed_alone
from deltatune.sharing.scrub import Scrubber

SUFFIX = ".dtz"
_LINES = {"metrics.jsonl": False, PREDICTIONS: True, "tasks.jsonl": True, "general.jsonl": False}
"""JSONL files, and whether their lines hold rows."""
_OF_COMPARISON = ("leaderboard.json", "curve.json", "choosing.json", RECIPE)
_OF_RUN = (RESULT, "certificate.json", *_LINES, RECIPE, f"adapter/{OURS}")
_REMEDY = "Name the folder of a comparison or a finished run."


@dataclass(frozen=True)
class Packed:
    """What was packed."""

    path: str
    kind: str
    """`comparison` or `run`."""
    bytes: int
    files: int
    runs: int
    scrubbed: Mapping[str, str]
    """What was local, and what stands in its place. It is told to nobody else."""
    changed: list[str]
    """Files that are not what was written; the report of the pack says so too."""

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def pack(
    folder: Path, out: Path | None = None, *, predictions: bool = True, overwrite: bool = False
) -> Packed:
    """Pack a comparison or a run, without its weights.

    Args:
        folder: Its folder.
        out: The file. Default: beside the folder, by its name, with the suffix `.dtz`.
        predictions: Whether the test rows are packed, with what the models said of each.
        overwrite: Whether a file may be replaced.

    Raises:
        DeltatuneError: The folder holds neither, or the file is there.
    """
    kind = _kind(folder)
    named = folder if folder.name not in ("", "..") else folder.resolve()
    out = out or named.parent / f"{named.name}{SUFFIX}"
    if out.exists() and not overwrite:
        raise DeltatuneError(
            f"'{out}' exists.", field="OUT", remedy="Name another file, or replace it with --overwrite."
        )
    make_folder(out.parent, field="OUT")
    recipe = read_recipe(folder / RECIPE) if _is_plain(folder / RECIPE, folder) else {}
    scrubber = Scrubber.of(folder, recipe if isinstance(recipe, dict) else {})
    changed: list[str] = []
    with tempfile.TemporaryDirectory(prefix=HALF_WRITTEN) as temporary:
        place = Path(temporary) / folder.resolve().name
        left_out = () if predictions else (PREDICTIONS,)
        runs: list[str] = []
        if kind == "comparison":
            runs = _runs_of(folder)
            changed += _copy(folder, place, _OF_COMPARISON, scrubber)
            for name in runs:
                wanted = [each for each in _OF_RUN if each not in left_out]
                changed += [f"{name}/{each}" for each in _copy(folder / name, place / name, wanted, scrubber)]
            from deltatune.report import write_report

            write_report(place)
        else:
            wanted = [each for each in _OF_RUN if each not in left_out]
            changed += _copy(folder, place, wanted, scrubber)
        count = sum(path.is_file() for path in place.rglob("*"))
        size = archive.write(place, out, kind)
    return Packed(str(out), kind, size, count, len(runs) or 1, scrubber.replaced, changed)


def _kind(folder: Path) -> str:
    if (folder / "leaderboard.json").is_file():
        return "comparison"
    if (folder / RESULT).is_file():
        return "run"
    if is_across(folder):
        raise DeltatuneError(
            f"'{folder}' holds several data sets, and a pack is of one comparison.",
            field="DIR",
            remedy=f"Pack each of its folders {FOLDER}/NAME.",
        )
    raise DeltatuneError(
        f"'{folder}' holds neither a comparison nor a run: it has no leaderboard.json and no {RESULT}.",
        field="DIR",
        remedy=_REMEDY,
    )


def _runs_of(folder: Path) -> list[str]:
    """The folders of a comparison's runs that are there, by their names in it."""
    from deltatune.report.load import load

    runs = [run.folder for method in load(folder).methods for run in method.runs]
    names = dict.fromkeys(path.relative_to(folder).as_posix() for path in runs)
    return sorted(name for name in names if (folder / name).resolve() == folder.resolve() / name)


def _copy(source: Path, place: Path, names: list[str] | tuple[str, ...], scrubber: Scrubber) -> list[str]:
    """Copy files without what is local, and vouch for them as the source does.

    Returns:
        Names of files that are not what was written there.
    """
    place.mkdir(parents=True, exist_ok=True)
    there = [name for name in names if _is_plain(source / name, source)]
    for name in there:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(_content(source / name, name, scrubber))
    known = manifest.read_manifest(source)
    if known is None or not known.files:
        return []
    vouched = {name: digest for name, digest in known.files.items() if name in names}
    changed = manifest.changed_files(source, vouched) or []
    digests = {name: digest if name in changed else sha256(place / name) for name, digest in vouched.items()}
    manifest.vouch(place, known.kind, digests, known.id)
    return changed


def _is_plain(path: Path, folder: Path) -> bool:
    """Whether it is a file of the folder's; a link in a stranger's could bring any file of this machine."""
    inside = folder.resolve() / path.relative_to(folder)
    return path.is_file() and path.resolve() == inside


def _content(path: Path, name: str, scrubber: Scrubber) -> bytes:
    """What a file holds, without what is local; where nothing is, to the byte."""
    if name in _LINES:
        return b"".join(public_lines(path, scrubber, data=_LINES[name]))
    if name == RECIPE:
        recipe = read_recipe(path)
        told = scrubber.tree(recipe)
        return path.read_bytes() if told == recipe else encoded(as_written(told))
    content = read_json(path, remedy=_REMEDY)
    told = resealed_alone(content, scrubber) if path.name == OURS else scrubber.tree(content)
    return path.read_bytes() if told == content else encoded(as_json(told))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[archive.Opened]:
    """The folder of a comparison or a run, or what a pack of one holds, within the block.

    Raises:
        DeltatuneError: It is neither, or may not be unpacked.
    """
    if not archive.is_archive(path):
        yield archive.Opened(path, "run" if (path / RESULT).is_file() else "comparison")
        return
    with archive.unpacked(path) as folder:
        yield folder
