"""Task files of lm-evaluation-harness, read as data: no code that they name is run, nothing is downloaded.

The harness's own reader imports what `!function` names, loads data sets and metrics from the Hub, and fills
templates without bounds. Here files are read first, held to a list of what they may say, and handed over
whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deltatune.errors import DataError
from deltatune.recipe.yaml_text import Loader

SUFFIXES = (".yaml", ".yml")
BUILDERS = ("json", "csv", "parquet")
"""Values of `dataset_path` that stand for local files."""
KNOWN = frozenset({
    "task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "training_split",
    "validation_split", "test_split", "fewshot_split", "doc_to_text", "doc_to_target", "doc_to_choice",
    "description", "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot", "metric_list",
    "output_type", "generation_kwargs", "repeats", "filter_list", "should_decontaminate", "gen_prefix",
    "metadata",
})  # fmt: skip
OUTPUTS = ("loglikelihood", "loglikelihood_rolling", "multiple_choice", "generate_until")
GREEDY = {"do_sample": (False,), "temperature": (0, 0.0), "until": None, "max_gen_toks": None,
          "max_new_tokens": None, "max_tokens": None}  # fmt: skip
"""What a task may say of how text is generated, and which values; None: any."""


@dataclass(frozen=True)
class TaskFile:
    """A task that can be given to the harness."""

    name: str
    path: Path
    content: dict[str, Any]
    """What the harness is told, without the data."""
    builder: str
    """Kind of the data files."""
    files: dict[str, list[str]]
    """Data files by split, as absolute paths."""
    digest: str
    """SHA-256 of what it says and of its data."""


def read_task_files(names: Sequence[str]) -> list[TaskFile]:
    """Read files, or folders of files, of tasks.

    Args:
        names: Their paths.

    Raises:
        DataError: One cannot be read, runs code, or takes data or metrics from elsewhere.
    """
    found: dict[str, TaskFile] = {}
    for name in names:
        for path in _paths(Path(name)):
            task = _task(path)
            if task.name in found:
                raise _wrong(path, f"is the second task that is called {task.name}", "Give it another name.")
            found[task.name] = task
    return list(found.values())


def _paths(path: Path) -> Iterator[Path]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("_"))
        if not files:
            raise _wrong(path, "holds no task files (.yaml)", "Name a folder of lm-evaluation-harness tasks.")
        yield from files
    elif path.is_file():
        yield path
    else:
        raise _wrong(path, "is neither a file nor a folder", "Name a task file, or a folder of them.")


class _Loader(yaml.SafeLoader):
    """The rules of YAML that the harness reads by, within limits."""

    get_single_data = Loader.get_single_data


def _no_function(loader: Any, node: yaml.Node) -> Any:
    raise _CodeError(str(node.value))


_Loader.add_constructor("!function", _no_function)


class _CodeError(Exception):
    """A file names a function."""


def _read(path: Path, root: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says, with the files that it includes."""
    path = path.resolve()
    if path in above:
        raise _wrong(path, "includes itself", "Take the include out.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except _CodeError as error:
        raise _wrong(
            path,
            f"runs Python code (!function {error})",
            "Task files are read as data: write the field as a template, or put what it makes into the data.",
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(getattr(error, "problem", None) or getattr(error, "strerror", None) or error)
        raise _wrong(path, f"cannot be read as YAML ({reason[:200]})", "Mend it.") from error
    if not isinstance(content, dict):
        raise _wrong(path, "is no mapping of fields", "Name a task file of lm-evaluation-harness.")
    includes = content.pop("include", [])
    merged: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        merged |= _read(_inside(root, path.parent, name, path, "include"), root, (*above, path))
    return merged | content


def _inside(root: Path, folder: Path, name: Any, path: Path, field: str) -> Path:
    """A path that a task file names, which must lie in the file's folder."""
    if not isinstance(name, str) or "://" in name:
        raise _wrong(path, f"has {field}: {name!r}, which is no local file", "Name a file beside it.")
    found = (folder / name).resolve()
    if not found.is_relative_to(root):
        raise _wrong(path, f"has {field}: {name}, which lies outside of its folder", "Copy the file there.")
    if not found.is_file():
        raise _wrong(path, f"has {field}: {name}, which is no file", "Name a file beside it.")
    return found


def _task(path: Path) -> TaskFile:
    root = path.resolve().parent
    content = _read(path, root)
    name = content.get("task")
    if "group" in content or isinstance(name, list):
        raise _wrong(path, "is a group of tasks", "Name the files of its tasks, or their folder.")
    if not isinstance(name, str) or not name:
        raise _wrong(path, "has no name (task)", "Write task: NAME.")
    if unknown := sorted(set(map(str, content)) - KNOWN):
        raise _wrong(
            path,
            f"says {', '.join(unknown)}, which deltatune does not hand to the harness",
            f"A task file may say {', '.join(sorted(KNOWN))}.",
        )
    _require_plain(path, content)
    builder, files = _data(path, root, content)
    digest = hashlib.sha256(repr(sorted(content.items())).encode())
    for file in (file for listed in files.values() for file in listed):
        digest.update(Path(file).read_bytes())
    plain = {key: v for key, v in content.items() if not key.startswith("dataset_")}
    return TaskFile(name, path, plain, builder, files, digest.hexdigest())


def _require_plain(path: Path, content: dict[str, Any]) -> None:
    """Hold a task to what is scored greedily, row by row."""
    output = content.get("output_type", "generate_until")
    if output not in OUTPUTS:
        raise _wrong(path, f"has output_type: {output!r}", f"Write one of {', '.join(OUTPUTS)}.")
    if content.get("repeats", 1) != 1:
        raise _wrong(path, "asks several times (repeats)", "Answers are greedy, so all would be the same.")
    if not isinstance(content.get("test_split") or content.get("validation_split"), str):
        raise _wrong(path, "names no rows to score", "Write test_split: NAME, or validation_split.")
    generation = content.get("generation_kwargs") or {}
    if not isinstance(generation, dict):
        raise _wrong(path, "has generation_kwargs that are no mapping", "Write until and max_gen_toks.")
    for key, value in generation.items():
        if key not in GREEDY or (GREEDY[key] is not None and value not in (GREEDY[key] or ())):
            raise _wrong(
                path,
                f"has generation_kwargs: {key}: {value!r}",
                f"Answers are greedy: leave it out; there are {', '.join(GREEDY)}.",
            )


def _data(path: Path, root: Path, content: dict[str, Any]) -> tuple[str, dict[str, list[str]]]:
    """The kind of its data and the files by split."""
    builder, options = content.get("dataset_path"), content.get("dataset_kwargs") or {}
    if builder not in BUILDERS:
        raise _wrong(
            path,
            f"takes its data from elsewhere (dataset_path: {builder})",
            f"Write dataset_path: {' or '.join(BUILDERS)}, and dataset_kwargs: {{data_files: FILE}}.",
        )
    given = options.get("data_files") if isinstance(options, dict) else None
    if not given or set(options) - {"data_files", "trust_remote_code"} or options.get("trust_remote_code"):
        raise _wrong(
            path, "has other dataset_kwargs than data_files", "Write dataset_kwargs: {data_files: FILE}."
        )
    by_split = given if isinstance(given, dict) else {"train": given}
    files = {
        str(split): [
            str(_inside(root, root, name, path, "data_files"))
            for name in (names if isinstance(names, list) else [names])
        ]
        for split, names in by_split.items()
    }
    return str(builder), files


def _wrong(path: Path, what: str, remedy: str) -> DataError:
    return DataError(f"'{path}' {what}.", field="evaluation.tasks", remedy=remedy)
