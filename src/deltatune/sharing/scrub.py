"""What a file says of the machine that wrote it, and that is nobody else's affair.

Local paths become the names of what they lead to; names of the user and of the host, and addresses of
databases, are taken out. What was replaced is told to the user, and to nobody else.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

from deltatune.recipe.load import PATH_FIELDS, is_remote

USER, HOST = "[user]", "[host]"
_USUAL = {"root", "user", "admin", "ubuntu", "debian", "localhost", "nobody", "runner", "jovyan", "home"}
"""Names of users and hosts that tell nothing, and that may be words of a sentence."""
_SHORTEST = 3
_TO_THE_LETTER = (
    "template", "target_template", "chat_template", "text", "content", "prompt",
    "labels", "input", "target", "pair", "negative", "id", "separator", "positive",
)  # fmt: skip
"""Keys of what a model reads, and of names of classes and columns: these lose known paths alone."""
_UNIX = re.compile(r"(?<![\w/:.~<])(?:file://)?/(?:[^\s/'\"`,;()<>\[\]]+/)+[^\s/'\"`,;()<>\[\]]*")
_WINDOWS = re.compile(r"\b[A-Za-z]:\\(?:[^\s\\'\"`,;()<>]+\\)*[^\s\\'\"`,;()<>]*")
_SECRET = re.compile(r"\b([a-z][a-z0-9+.-]*)://[^\s/'\"@]*@[^\s'\"]+", re.IGNORECASE)
_ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]*)://.*", re.IGNORECASE | re.DOTALL)
_END = r"(?=$|[^\w.~-]|\.(?!\w))"


@dataclass
class Scrubber:
    """Replaces what is local in the texts of a run or a comparison."""

    paths: Mapping[str, str]
    """Absolute paths that are known, and what stands in their place."""
    names: Mapping[str, str]
    """Names of the user and of this host, and what stands in their place."""
    replaced: dict[str, str] = field(default_factory=dict)
    """What was replaced so far, and by what."""

    @classmethod
    def of(cls, folder: Path, recipe: Mapping[str, Any], base: str | None = None) -> Scrubber:
        """What is known of a run's or a comparison's own paths, and of this machine.

        Args:
            folder: Its folder.
            recipe: What its recipe.yaml holds.
            base: The Hub's id of the base, where the recipe names a folder.
        """
        known = {_home(): "~", os.getcwd(): ".", tempfile.gettempdir(): "tmp", str(folder.resolve()): "."}
        known |= {path: name for path, name in _recipe_paths(recipe, base).items() if path not in known}
        return cls({path: name for path, name in known.items() if len(path) > 1}, _names())

    def __post_init__(self) -> None:
        longest = sorted(self.paths, key=len, reverse=True)
        either = "|".join(map(re.escape, longest))
        self._known = re.compile(rf"(?<![\w/.~-])(?:{either}){_END}") if longest else None
        words = "|".join(map(re.escape, self.names))
        self._words = re.compile(rf"(?<![\w])(?:{words})(?![\w])") if words else None

    def tree(self, value: Any, *, key: str = "", data: bool = False) -> Any:
        """The same value without what is local.

        Args:
            value: As JSON or YAML gives it.
            key: The key that it stands under.
            data: Whether its texts are rows, and what a model said: they keep all but known paths.
        """
        if isinstance(value, dict):
            return {
                self.text(name, data=True) if isinstance(name, str) else name: self.tree(
                    item, key=str(name), data=data
                )
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.tree(item, key=key, data=data) for item in value]
        if not isinstance(value, str):
            return value
        if key == "storage" and (address := _ADDRESS.match(value)):
            return self._note(value, f"{address[1]}://...")
        return self.text(value, data=data or key in _TO_THE_LETTER)

    def text(self, text: str, *, data: bool = False) -> str:
        """The same text without what is local; arguments as of `tree`."""
        if self._known is not None:
            text = self._known.sub(lambda match: self._note(match[0], self.paths[match[0]]), text)
        if data:
            return text
        text = _SECRET.sub(lambda match: self._note(match[0], f"{match[1]}://..."), text)
        text = _UNIX.sub(lambda match: self._note(match[0], _last(PurePosixPath(match[0]).name)), text)
        text = _WINDOWS.sub(lambda match: self._note(match[0], _last(PureWindowsPath(match[0]).name)), text)
        if self._words is not None and re.search(r"[\s@]", text):  # a sentence, or an address
            text = self._words.sub(lambda match: self._note(match[0], self.names[match[0]]), text)
        return text

    def _note(self, before: str, after: str) -> str:
        self.replaced[before] = after
        return after


def _last(name: str) -> str:
    return name or "..."


def _recipe_paths(recipe: Mapping[str, Any], base: str | None) -> dict[str, str]:
    """The absolute paths that a recipe names, and what stands in their place."""
    data = recipe.get("data")
    data = data if isinstance(data, dict) else {"source": data}
    evaluation = recipe.get("evaluation")
    tasks = evaluation.get("tasks") if isinstance(evaluation, dict) else None
    entries = [entry for entry in recipe.get("methods") or [] if isinstance(entry, dict)]
    files = [data.get(field) for field in PATH_FIELDS] + list(tasks or [])
    files += [entry.get("from") for entry in entries]
    models = [recipe.get("model"), *(entry.get("model") for entry in entries)]
    models = [model.get("name") if isinstance(model, dict) else model for model in models]
    known = {path: Path(path).name for path in files if _is_local(path)}
    return known | {path: base or f"./{Path(path).name}" for path in models if _is_local(path)}


def _is_local(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and not is_remote(name) and Path(name).expanduser().is_absolute()


def _home() -> str:
    with contextlib.suppress(RuntimeError):  # no user, no home
        return str(Path.home())
    return ""


def _names() -> dict[str, str]:
    """Names of the user and of the host that tell who or where this is."""
    names: dict[str, str] = {}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        names[getpass.getuser()] = USER
    with contextlib.suppress(OSError):
        host = socket.gethostname()
        names |= {host: HOST, host.partition(".")[0]: HOST}
    return {name: mark for name, mark in names.items() if len(name) >= _SHORTEST and name not in _USUAL}
