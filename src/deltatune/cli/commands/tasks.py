"""`tasks`: what a model can be trained to do."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from deltatune.cli import output
from deltatune.cli.explain import facts, list_all
from deltatune.cli.options import Json
from deltatune.tasks import TASKS, Task


def _complete(incomplete: str) -> list[str]:
    return [name for name in TASKS.names() if name.startswith(incomplete)]


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Explain this task.", autocompletion=_complete, show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the tasks, or explain one: its rows, its bases, its metrics, and a recipe to begin with.

    [bold]Examples[/bold]
      $ deltatune tasks
      $ deltatune tasks conversation
    """
    if name is None:
        described = [_describe(task) for _, task in TASKS.items()]
        output.emit_json(described) if as_json else list_all(
            "tasks", {"task": "name", "what is learned": "title", "for": "when"}, described
        )
        return
    task = _describe(TASKS.get(name, field="NAME"))
    output.emit_json(task) if as_json else _explain(task)


def _describe(task: Task) -> dict[str, Any]:
    """What a task says about itself."""
    return {
        "name": task.name,
        "title": task.title,
        "when": task.when,
        "rows": task.rows,
        "base": task.auto_class,
        "head": "a new one for the classes, where the base has none for them" if task.new_head else "its own",
        "metrics": list(task.metrics),
        "more_metrics": list(task.more_metrics),
        "primary": task.primary,
        "without_effect": [*task.senseless, *task.without_effect],
        "example": task.example,
    }


def _explain(task: dict[str, Any]) -> None:
    facts(
        task["name"],
        {
            "idea": task["title"],
            "when": task["when"],
            "rows": task["rows"],
            "base": f"loaded by {task['base']} of Transformers",
            "head": task["head"],
            "metrics": f"{', '.join(task['metrics'])}; {task['primary']} decides",
            "on request": ", ".join(task["more_metrics"]) or "none besides",
            "no use for": ", ".join(task["without_effect"]) or "nothing: all fields of a recipe count",
        },
    )
    console = output.stdout()
    output.line("\nA recipe to begin with", "bold")
    for line in task["example"].splitlines():
        console.print(Text(f"  {line}"))
