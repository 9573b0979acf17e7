"""`methods` and `schema`: what can be written into a recipe."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from deltatune.cli import output
from deltatune.cli.explain import facts, grid, list_all
from deltatune.cli.options import Json

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig


def _complete(incomplete: str) -> list[str]:
    from deltatune.methods import METHODS

    return [name for name in METHODS.names() if name.startswith(incomplete)]


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Explain this method.", autocompletion=_complete, show_default=False
        ),
    ] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Which method works on which architecture, as the tests found.")
    ] = False,
    as_json: Json = False,
) -> None:
    r"""List the methods of fine-tuning, or explain one: idea, formula, paper, and every setting.

    [bold]Examples[/bold]
      $ deltatune methods
      $ deltatune methods adalora
      $ deltatune methods --matrix

    The settings that are shown go into a recipe under the method's name:

      methods: \[{lora: {r: 16, targets: \[query, value]}}]
    """
    from deltatune.methods import METHODS

    if matrix:
        _matrix(name, as_json)
        return
    if name is None:
        described = [_describe(each, METHODS.get(each)) for each in METHODS.names()]
        output.emit_json(described) if as_json else list_all(
            "methods", {"method": "name", "idea": "title", "paper": "paper"}, described
        )
        return
    described_one = _describe(name, METHODS.get(name, field="NAME"))
    output.emit_json(described_one) if as_json else _explain(described_one)


def _matrix(name: str | None, as_json: bool) -> None:
    """Print the outcome of the contract suite, for one method or for all."""
    from deltatune.methods import METHODS
    from deltatune.methods.matrix import load

    if name is not None:
        METHODS.get(name, field="NAME")
    found = load()
    methods = [method for method in found.cells if name in (None, method)]
    if as_json:
        output.emit_json(
            {method: {a: asdict(cell) for a, cell in found.cells[method].items()} for method in methods}
        )
        return
    console = output.stdout()
    for kind, architectures in found.architectures.items():
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column(kind, style="cyan", no_wrap=True)
        for architecture in architectures:
            table.add_column(architecture, justify="right", no_wrap=True)
        for method in methods:
            table.add_row(method, *(found.text(method, architecture) for architecture in architectures))
        console.print(table)
        console.print()
    console.print("Checks of the contract that passed, over all variants of a method; -: refused. Gaps:")
    for reason, letter in found.reasons().items():
        if any(reason in cell.gaps for method in methods for cell in found.cells[method].values()):
            console.print(Text(f"  {letter}  {reason}"))


def _describe(name: str, config: type[MethodConfig]) -> dict[str, Any]:
    """What a method's config class says about itself."""
    schema = config.model_json_schema()
    return {
        "name": name,
        "title": config.title,
        "formula": config.formula,
        "when": config.when,
        "cost": config.cost,
        "default_lr": config.default_lr if config.trains else None,
        "short_runs": config.short_runs,
        "defaults": config.defaults,
        "paper": config.paper,
        "settings": [
            {
                "name": field,
                "type": _type(schema["properties"][field]),
                "default": None if info.is_required() else info.get_default(call_default_factory=True),
                "required": info.is_required(),
                "description": " ".join((info.description or "").split()),
            }
            for field, info in config.model_fields.items()
        ],
    }


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema as a short phrase: `integer or null`, `"linear" or "cosine"`."""
    if "enum" in schema:
        return " or ".join(repr(value) for value in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _explain(each: dict[str, Any]) -> None:
    facts(
        each["name"],
        {
            "idea": each["title"],
            "formula": each["formula"],
            "when": each["when"],
            "cost": each["cost"],
            "learning rate": _rate(each),
            "defaults": each["defaults"],
            "paper": each["paper"],
        },
    )
    console = output.stdout()
    if not each["settings"]:
        console.print("It has no settings.")
        return
    output.line("\nSettings", "bold")
    table = grid()
    for field in each["settings"]:
        default = "required" if field["required"] else f"= {_yaml(field['default'])}"
        table.add_row(Text(field["name"], style="cyan"), Text(default), Text(field["type"], style="dim"))
        table.add_row("", "", Text(field["description"]))
    console.print(table)


def _rate(each: dict[str, Any]) -> str:
    """The learning rate of a recipe that names none."""
    if each["default_lr"] is None:
        return "none: nothing is trained"
    more = f", up to {each['short_runs']:g} times it in short runs" if each["short_runs"] > 1 else ""
    return f"{each['default_lr']:g}{more}"


def _yaml(value: Any) -> str:
    """A default as it would be written in a recipe."""
    import yaml

    dumped: str = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return dumped.removesuffix("\n...\n").strip()


class Described(StrEnum):
    """What a schema describes."""

    recipe = "recipe"
    result = "result"
    leaderboard = "leaderboard"
    across = "across"
    curve = "curve"
    prediction = "prediction"
    certificate = "certificate"


def schema(
    what: Annotated[
        Described,
        typer.Argument(
            help="[bold]recipe[/bold]; or of what is written: [bold]result[/bold] (result.json), "
            "[bold]leaderboard[/bold] (leaderboard.json), [bold]across[/bold] (across.json), "
            "[bold]curve[/bold] (curve.json), "
            "[bold]prediction[/bold] (a line of predictions.jsonl), "
            "[bold]certificate[/bold] (certificate.json)."
        ),
    ] = Described.recipe,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write it to this file instead of stdout.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of recipes, with which an editor completes and checks them, or of results.

    [bold]Examples[/bold]
      $ deltatune schema --out recipe.schema.json
      $ deltatune schema | jq '.properties | keys'
      $ deltatune schema result --out result.schema.json

    An editor with a YAML language server then reads this first line of a recipe:

      # yaml-language-server: $schema=recipe.schema.json

    The schemas of results explain every field, with its unit.
    """
    from deltatune.files import make_folder, meant, write_json

    content = _schema_of(what)
    if out is None:
        output.emit_json(content)
        return
    make_folder(out.parent)
    write_json(meant(out), content)
    output.emit_json({"file": str(out)}) if as_json else output.line(out)


def _schema_of(what: Described) -> dict[str, Any]:
    if what is Described.recipe:
        from deltatune.recipe import json_schema

        return json_schema()
    from deltatune.results.json_schema import results_schema

    return results_schema(what.value)
