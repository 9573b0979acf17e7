"""The reference, made from the command line, the schemas and the lists of the package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

import deltatune
from deltatune.cli.app import app
from deltatune.recipe.json_schema import json_schema
from deltatune.results.json_schema import KINDS, results_schema
from deltatune.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "result": "result.json",
    "certificate": "certificate.json",
    "prediction": "predictions.jsonl",
    "leaderboard": "leaderboard.json",
    "across": "across.json",
    "curve": "curve.json",
}


def commands() -> str:
    """A table of the commands, and a section for each."""
    group: Any = typer.main.get_command(app)
    rows = ["| command | what it does |", "|---|---|"]
    sections = []
    for name, command in group.commands.items():
        about = _plain(command.help)
        first = about.partition("\n\n")[0]
        rows.append(f"| [`{name}`](#{name}) | {_cell(first)} |")
        sections.append(_command(name, command, about))
    return "\n".join([*rows, "", *sections])


def _command(name: str, command: Any, about: str) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(["deltatune", name, *(_metavar(argument) for argument in arguments), "[OPTIONS]"])
    parts = [f"## {name}", _paragraphs(about), f"```text\n{usage}\n```"]
    if arguments:
        rows = [f"| `{_metavar(each)}` | {_cell(_plain(each.help or ''))} |" for each in arguments]
        parts.append("\n".join(["| argument | |", "|---|---|", *rows]))
    rows = [f"| {_flags(each)} | {_cell(_plain(each.help or ''))}{_default(each)} |" for each in options]
    parts.append("\n".join(["| option | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _metavar(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper().strip("[]")
    name = f"{name}..." if argument.nargs == -1 else name
    return name if argument.required else f"[{name}]"


def _flags(option: Any) -> str:
    flags = [flag for flag in (*option.opts, *option.secondary_opts) if not flag.startswith("--no-")]
    value = "" if option.is_flag else f" {(option.metavar or option.name).upper()}"
    return ", ".join(f"`{flag}{value if flag.startswith('--') else ''}`" for flag in flags)


def _default(option: Any) -> str:
    value = getattr(option.default, "value", option.default)
    if option.is_flag or value in (None, (), "") or callable(value):
        return ""
    return f" Default: `{value}`."


def recipe() -> str:
    """Every field of a recipe, section by section; then the settings of each method."""
    schema = json_schema()
    named, places = schema["$defs"], _places(schema)
    parts = ["## The whole", _fields(schema, places)]
    for name, place in places.items():
        parts += [f"## {place}", _described(named[name]), _fields(_mapping(named[name]), places)]
    parts.append("## Settings of methods")
    for name, section in named.items():
        if name.startswith("method."):
            method = name.removeprefix("method.")
            parts += [f"### {method}", _described(section), _fields(section, places)]
    return "\n\n".join(part for part in parts if part)


def _places(schema: dict[str, Any]) -> dict[str, str]:
    """Name of a section in a schema -> its place in what is described: `ColumnsSpec` -> data.columns."""
    named, places = schema.get("$defs", {}), {}
    waiting = [("", schema)]
    while waiting:
        at, section = waiting.pop(0)
        for field, content in _mapping(section).get("properties", {}).items():
            for name in re.findall(r"#/\$defs/([\w.]+)", str(content)):
                if name in places or name.startswith("method."):
                    continue
                if "properties" in _mapping(named[name]):
                    places[name] = f"{at}{field}"
                    waiting.append((f"{at}{field}.", named[name]))
    return places


def _mapping(section: dict[str, Any]) -> dict[str, Any]:
    """What a section is as a mapping, where a plain value may stand for it."""
    forms = [form for form in section.get("anyOf", ()) if "properties" in form]
    return forms[0] if len(forms) == 1 else section


def files() -> str:
    """Every field of what a run and a comparison write."""
    parts = []
    for kind in KINDS:
        schema = results_schema(kind)
        named = schema.get("$defs", {})
        places = {name: f"{kind}: {place}" for name, place in _places(schema).items()}
        parts += [f"## {FILES[kind]}", _described(schema), _fields(schema, places)]
        for name, place in places.items():
            parts += [f"### {place}", _described(named[name]), _fields(_mapping(named[name]), places)]
    return "\n\n".join(part for part in parts if part)


def _described(schema: dict[str, Any]) -> str:
    return _plain(schema.get("description", ""))


def _fields(schema: dict[str, Any], places: dict[str, str]) -> str:
    rows = []
    for name, field in schema.get("properties", {}).items():
        about = _cell(_plain(field.get("description", "")))
        rows.append(
            f"| `{name}` | {_cell(_type(field, places))} | {_json_default(name, field, schema)} | {about} |"
        )
    return "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows]) if rows else ""


def _json_default(name: str, field: dict[str, Any], schema: dict[str, Any]) -> str:
    if name in schema.get("required", ()):
        return "required"
    value = field.get("default")
    if isinstance(value, dict):
        return "" if value else "`{}`"
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(schema: dict[str, Any], places: dict[str, str]) -> str:
    """A JSON schema as a short phrase; sections are links."""
    if "$ref" in schema:
        return _link(str(schema["$ref"]).rsplit("/", 1)[-1], places)
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(option, places) for option in schema[key]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], places)}" if schema.get("items") else "list"
    kind = schema.get("type", "any")
    return kind if isinstance(kind, str) else " or ".join(kind)


def _link(name: str, places: dict[str, str]) -> str:
    """A section of a schema, as a link to where the page explains it."""
    if name == "MethodEntry":  # a form for each method; they are explained at the end
        return "[entry](#settings-of-methods)"
    if name not in places:
        return name.lower()
    anchor = re.sub(r"[^a-z0-9_ -]", "", places[name].lower()).replace(" ", "-")
    return f"[{places[name]}](#{anchor})"


def decisions() -> str:
    """A list of the decisions, with their titles."""
    lines = []
    for path in sorted((ROOT / "docs" / "adr").glob("0*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines).replace(". ", " · ")


def tasks() -> str:
    """What each task says of itself."""
    parts = []
    for name in TASKS.names():
        task = TASKS.get(name)
        metrics = ", ".join(f"`{metric}`" for metric in task.metrics)
        parts += [
            f"## {name}",
            task.title,
            f"- When: {task.when}\n- Rows: {task.rows}\n- Metrics: {metrics}; `{task.primary}` decides.",
            f"```yaml\n{task.example.strip()}\n```",
        ]
    return "\n\n".join(parts)


def python() -> str:
    """The public names, for mkdocstrings."""
    homes = {name: module for name, module in deltatune._HOME.items() if name not in ("METHODS", "TASKS")}
    configs = {name for name in homes if name.endswith("Config")}
    functions = {name for name in homes if name[0].islower()}
    groups = {
        "Functions": functions,
        "Models, recipes, rows": homes.keys() - configs - functions,
        "Settings of methods": configs,
    }
    parts = []
    for heading, names in groups.items():
        parts.append(f"## {heading}")
        parts += [f"::: {homes[name]}.{name}\n    options:\n      heading_level: 3" for name in sorted(names)]
    return "\n\n".join(parts)


def _plain(text: str | None) -> str:
    """Help as Markdown: rich's marks become bold, indented examples become blocks."""
    text = (text or "").replace("\b", "").replace("\\[", "[")
    return re.sub(r"\[/?(bold|dim|green|red)\]", "", text).strip()


def _paragraphs(text: str) -> str:
    """Paragraphs as they are, indented lines as blocks of text."""
    out: list[str] = []
    inside = False
    for line in text.splitlines():
        indented = line.startswith("  ") and bool(line.strip())
        if indented != inside and (line.strip() or inside):
            out += ["", "```text"] if indented else ["```", ""]
            inside = indented
        out.append(line[2:] if inside else _escaped(line))
    return "\n".join([*out, "```"] if inside else out)


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")


def _cell(text: str) -> str:
    """Text for a table's cell: one line, and no bar that would end it."""
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _made() -> Iterable[Callable[[], str]]:
    return (commands, recipe, files, tasks, python, decisions)


MADE: dict[str, Callable[[], str]] = {make.__name__: make for make in _made()}
"""The name in a mark -> what makes its text."""
