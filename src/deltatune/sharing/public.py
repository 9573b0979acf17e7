"""A finished run as others may see it: which of its files are given away, and what they then say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.checkpoint.manifest import require_unchanged
from deltatune.errors import AdapterError, DataError, DeltatuneError
from deltatune.files import CHECKSUM, as_json, encoded, read_json, sealed, text_sha256
from deltatune.models.bundled import public_name
from deltatune.recipe.load import read_recipe
from deltatune.recipe.written import as_written
from deltatune.results import Certificate, RunResult
from deltatune.sharing.scrub import Scrubber

ADAPTER, TENSORS, CONFIG, OURS = (
    "adapter",
    "adapter_model.safetensors",
    "adapter_config.json",
    "deltatune.json",
)
CERTIFICATE, RECIPE, RESULT, PREDICTIONS = (
    "certificate.json",
    "recipe.yaml",
    "result.json",
    "predictions.jsonl",
)
_PRIVATE = ("git",)
"""What a result tells of the user's own work: the commit of a repository that may be nobody else's."""
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_ROW = "'...'"
"""What stands for a text of the data in a warning."""
_OTHER = "Train it again, or restore the file."


@dataclass(frozen=True)
class PublicRun:
    """What is given away of a run."""

    result: RunResult
    recipe: Mapping[str, Any]
    """As it is given away."""
    certificate: Certificate | None
    peft: Mapping[str, Any]
    """adapter_config.json as it is given away."""
    base: str | None
    """The Hub's id of the base; None where that is not known."""
    base_named: str
    """The base's name for people."""
    loads_in_peft: bool
    texts: Mapping[str, bytes]
    """The files but for the tensors, by their names."""
    tensors: Path
    """The file of the delta's tensors."""
    local_base: Path | None
    """The base's folder, where it is one of this machine."""
    scrubbed: Mapping[str, str]
    """What was local, and what stands in its place."""


def public_run(folder: Path, *, base: str | None = None, predictions: bool = False) -> PublicRun:
    """Read a finished run, check that it is whole, and take out what is local.

    Args:
        folder: The run's.
        base: The Hub's id of its base, where the recipe names a folder.
        predictions: Whether what the model said of each test row is given away too.

    Raises:
        DeltatuneError: It is no finished run, stores nothing, or was changed since it was written.
    """
    from deltatune.checkpoint.saved import read_adapter
    from deltatune.training.given.folder import finished_result

    result = finished_result(folder)
    if result.cost.file_bytes == 0:
        raise DeltatuneError(
            f"the run in '{folder}' is {result.method}, which stores no delta: there is nothing to push.",
            remedy="Name a run of a method that trains something.",
        )
    remedy = "Push what was trained: restore the files, or train it again."
    require_unchanged(folder, remedy=remedy)
    saved = read_adapter(folder / ADAPTER)
    if saved.ours is None:
        raise AdapterError(f"'{folder / ADAPTER}' has no {OURS}.", remedy=_OTHER)
    if saved.config.holds_rows:
        raise DeltatuneError(
            f"the run in '{folder}' is {result.method}, whose file holds training rows, as texts or as "
            "vectors that texts can be told from.",
            remedy="Give away its recipe: it trains nothing, and whoever has the rows can run it.",
        )
    recipe = read_recipe(folder / RECIPE)
    model = result.model.name
    local = Path(model).expanduser() if Path(model).expanduser().is_absolute() else None
    if base is not None and local is None and _public_id(model, None, local) is not None:
        raise DeltatuneError(
            f"the run's base is {model!r}, which has its name already.",
            field="--base",
            remedy="Leave it out; it is for bases that the Hub does not know by their name here.",
        )
    scrubber = Scrubber.of(folder, recipe, base)
    public = _public_id(model, base, local)
    recipe = scrubber.tree(recipe)
    texts = {RECIPE: encoded(as_written(recipe))}
    content = read_json(folder / RESULT, remedy=_OTHER)
    kept = {key: value for key, value in content.items() if key not in _PRIVATE}
    if not predictions:
        kept = _without_rows(kept, recipe)
    texts[RESULT] = encoded(as_json(scrubber.tree(kept)))
    certificate = None
    if (folder / CERTIFICATE).is_file():
        told = scrubber.tree(read_json(folder / CERTIFICATE, remedy=_OTHER))
        certificate = Certificate.of(told, f"'{folder / CERTIFICATE}'", remedy=_OTHER)
        texts[CERTIFICATE] = encoded(as_json(told))
    peft = scrubber.tree(dict(saved.peft)) | {"base_model_name_or_path": public}
    texts[CONFIG] = encoded(as_json(peft))
    texts[OURS] = encoded(
        as_json(_resealed(saved.ours, scrubber, texts[CONFIG], None if local is None else base or ""))
    )
    if predictions:
        texts[PREDICTIONS] = b"".join(public_lines(folder / PREDICTIONS, scrubber, data=True))
    return PublicRun(
        result=RunResult.of(scrubber.tree(kept), f"'{folder / RESULT}'", remedy=_OTHER),
        recipe=recipe,
        certificate=certificate,
        peft=peft,
        base=public,
        base_named=public or (local.name if local else public_name(model)),
        loads_in_peft=bool(saved.ours["peft_compatible"]),
        texts=texts,
        tensors=folder / ADAPTER / TENSORS,
        local_base=local,
        scrubbed=scrubber.replaced,
    )


def _without_rows(result: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The result with no text of a row: warnings quote such. Names of classes and columns stay."""
    data, named = result["data"], recipe.get("data")
    columns = named.get("columns") if isinstance(named, dict) else None
    names = {str(name) for name in data.get("labels") or ()}
    for column in (columns or {}).values() if isinstance(columns, dict) else ():
        names |= set(column) if isinstance(column, list) else {str(column)}

    def quoted(match: re.Match[str]) -> str:
        return match[0] if match[0][1:-1] in names else _ROW

    def said(text: Any) -> Any:
        return _QUOTED.sub(quoted, text) if isinstance(text, str) else text

    told = {**data, "warnings": [said(text) for text in data.get("warnings") or ()]}
    lines = [{**line, "detail": said(line.get("detail"))} for line in result.get("certificate") or ()]
    return {**result, "data": told, "certificate": lines, "one_answer": said(result.get("one_answer"))}


def _public_id(model: str, base: str | None, local: Path | None) -> str | None:
    """The base's id on the Hub, as far as it is known."""
    name = public_name(model)
    return base if local is not None or name.startswith("pypi:") else name


def _resealed(ours: Mapping[str, Any], scrubber: Scrubber, config: bytes, base: str | None) -> dict[str, Any]:
    """Our own file of a delta, with the checksum of the other as it is given away, and its own.

    Args:
        ours: What it holds.
        scrubber: Takes out what is local.
        config: The content of adapter_config.json.
        base: What stands for the name of the base; None leaves it.
    """
    content = {key: value for key, value in ours.items() if key != CHECKSUM}
    named = content["base"] if base is None else {**content["base"], "name": base}
    told: dict[str, Any] = scrubber.tree({**content, "base": named})
    return sealed({**told, "files": {CONFIG: text_sha256(config.decode())}})


def resealed_alone(ours: Mapping[str, Any], scrubber: Scrubber) -> dict[str, Any]:
    """Our own file of a delta whose other files are not given away."""
    content = {key: value for key, value in ours.items() if key != CHECKSUM}
    told: dict[str, Any] = scrubber.tree(content)
    return dict(ours) if told == content else sealed(told)


def public_lines(path: Path, scrubber: Scrubber, *, data: bool) -> Iterator[bytes]:
    """The lines of a JSONL file; one that has nothing local in it stays as it is.

    Args:
        path: The file.
        scrubber: Takes out what is local.
        data: Whether lines hold rows, as of `Scrubber.tree`.

    Raises:
        DataError: There is no such file.
    """
    if not path.is_file():
        raise DataError(
            f"there is no '{path}'.", field="--predictions", remedy="Leave it out, or train the run again."
        )
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # half a line, of a process that was killed
            continue
        told = scrubber.tree(value, data=data)
        yield line if told == value else encoded(json.dumps(told, ensure_ascii=False) + "\n")
