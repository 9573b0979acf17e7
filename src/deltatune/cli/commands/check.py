"""`check`: what a recipe's data look like to the model, and what is wrong with them."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from deltatune import units
from deltatune.cli import output
from deltatune.cli.options import Json, Overrides, Quiet, RecipeFile
from deltatune.cli.progress import watching
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.results import DataPreview, Reading, ShownRow, TokenCounts

LEARNED, READ = "bold green", "dim"
SHOWN_CLASSES = 12


def check(
    recipe: RecipeFile,
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=0, help="Training rows to show token by token.")
    ] = 5,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what the model will read and what it will learn, and warn of what is wrong with the data.

    It shows every token of some training rows: the model only reads dim ones, and
    learns green ones (supervised). The end token must be green, or the model never
    learns to stop. A bar | stands between tokens.

    It looks for equal and nearly equal rows in training, validation and test,
    unbalanced classes, classes that are spread unlike over the parts, contradictory
    labels, rows without a label, and texts that are cut off. It says how accurate
    the most frequent class is as an answer, whether methods find their targets, and
    whether the model has positions for the longest rows. It loads the tokenizer of
    each model, not the weights. Where entries have templates or limits of their
    own, it shows the rows in each way.

    [bold]Examples[/bold]
      $ deltatune check recipe.yaml
      $ deltatune check recipe.yaml --samples 20 --set data.max_input_tokens=256
      $ deltatune check recipe.yaml --json | jq .warnings

    Writes nothing. Exit code: 0 also if there are warnings, 2 if the recipe or the data
    cannot be used. [bold]train[/bold] and [bold]compare[/bold] give the same warnings and keep them.
    """
    from deltatune.recipe.data_sets import load_sets

    sets = load_sets(recipe, overrides or [])
    from deltatune.training.before.preview import preview

    previews = {}
    for name, loaded in sets.items():
        with watching(quiet=quiet) as observer:
            previews[name] = preview(loaded, samples, observer)
        if as_json:
            continue
        if len(sets) > 1:
            output.line(f"Data set {name}\n", "bold cyan")
        _show(previews[name])
    if as_json:
        told = {name: each.as_dict() for name, each in previews.items()}
        output.emit_json({"sets": told} if len(sets) > 1 else told[""])


def _show(found: DataPreview) -> None:
    """Print rows token by token, counts and warnings."""
    for model in found.models:
        if len(found.models) > 1:
            output.line(f"{_named(model)}\n", "bold cyan")
        for sample in model.samples:
            _show_sample(sample)
    _show_numbers(found)
    console = output.stdout()
    console.print()
    for warning in found.warnings:
        text = Text.assemble(("Warning: ", "bold yellow"), output.text(warning, "yellow"))
        console.print(text, soft_wrap=not console.is_terminal)
    if not found.warnings:
        console.print(Text("No warnings.", style="green"))


def _named(model: Reading) -> str:
    """The model, and how rows are read where entries differ in that."""
    return model.model + (f", {model.reading}" if model.reading else "")


def _show_sample(sample: ShownRow) -> None:
    """Print the tokens of a row: a block for those that are read, one for those that are learned."""
    console = output.stdout()
    counts = f"{sample.length:,} tokens, {sample.supervised:,} learned"
    title = Text.assemble(output.text(f"Row {sample.id}", "bold"), f"  {counts}")
    console.print(title, soft_wrap=True)
    for learned, tokens in groupby(sample.tokens, key=lambda token: token.supervised):
        style = LEARNED if learned else READ
        line = Text("  learned  " if learned else "  read     ", style="cyan")
        line.append("|".join(_visible(token.text) for token in tokens), style=style)
        console.print(line, soft_wrap=True)
    console.print()


def _visible(text: str) -> str:
    """A token in one line, without control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _show_numbers(found: DataPreview) -> None:
    rows = ", ".join(f"{part} {count:,}" for part, count in found.rows.items())
    described: dict[str, Any] = {
        "model": [_named(model) for model in found.models],
        "task": found.task,
        "rows": rows,
    }
    described |= _of_rows(found) | _tags(found)
    parts = [part for part in found.rows if part in found.tokens]
    for part in parts:
        counts = [_tokens(model.tokens[part], found.rows[part]) for model in found.models]
        described[f"{part} tokens"] = counts
    sets = found.label_sets
    if sets:
        described["labels"] = (
            f"{sets.written or 'none'}; {sets.mean:.3g} to a training row on average, {sets.most:,} at most"
        )
        bare = [f"{part} {count:,}" for part in found.rows if (count := sets.without[part])]
        described["without labels"] = ", ".join(bare) or "no row"
    if padding := [model.padding.text for model in found.models if model.padding]:
        described["padding"] = padding
    for part, classes in (found.classes or {}).items():
        if classes and sets:
            described[f"{part} labels"] = _balance(classes, found.rows[part])
        elif classes:
            described[f"{part} classes"] = _balance(classes, sum(classes.values()))
    for part, spread in (found.numbers or {}).items():
        described[f"{part} numbers"] = (
            f"{units.number(float(spread.least))} to {units.number(float(spread.most))}; mean "
            f"{units.number(float(spread.mean))}, median {units.number(float(spread.median))}"
        )
    if majority := found.majority:
        described["baseline"] = (
            f"always answering {majority.label!r} reaches an accuracy of {majority.accuracy:.1%}"
        )
    described["duplicates"] = [
        f"{leak.part} and {leak.other}: {leak.exact:,} equal, {leak.near:,} nearly equal"
        for leak in found.duplicates
    ] or "none between the parts"
    if found.repeated_training_rows:
        described["repeated"] = f"{found.repeated_training_rows:,} training rows"
    output.fields("Data", described)
    for leak in found.duplicates:
        for pair in leak.examples:
            one = f"  {pair.similarity:.0%} alike: {leak.part} row {pair.row} {pair.excerpt!r}"
            other = f"{leak.other} row {pair.other} {pair.other_excerpt!r}"
            output.line(f"{one}, {other}", "dim")


def _of_rows(found: DataPreview) -> dict[str, str]:
    """What rows consist of, where it is more than a text and a target."""
    described = {}
    if talks := found.conversations:
        described["conversations"] = (
            f"{', '.join(talks.forms)}; {talks.median_messages:g} messages (median), "
            f"{talks.most_messages:,} at most; {talks.learned_answers:,} answers may be learned"
            f"{f'; {n:,} with tools' if (n := talks.with_tools) else ''}"
        )
    if found.pair:
        described["pairs"] = f"{found.pair[0]!r} and {found.pair[1]!r} of each row, " + (
            "each with a vector" if TASKS.get(found.task).embeds else "as the tokenizer writes pairs"
        )
    if found.references:
        counts = [
            f"{part} {n:,} for {of:,} inputs"
            for part in found.rows
            for of, n in [found.references[part]]
            if of
        ]
        described["references"] = f"{', '.join(counts)}; each is learned, and an answer is judged by all"
    if found.groups:
        counts = [f"{part} {count:,}" for part, count in found.groups.items() if count]
        described["groups"] = (
            f"{', '.join(counts)}; the rows of each are in one part, and count as one example"
        )
    return described


def _tokens(count: TokenCounts, rows: int) -> str:
    texts = count.truncated_texts
    of_pairs = f"; the first text of {texts[0]:,}, the second of {texts[1]:,}" if texts else ""
    return (
        f"{count.total:,}, {count.supervised:,} learned; a row has {count.median_length:,g} "
        f"(median), {count.longest:,} at most; cut off: {count.truncated_inputs:,} inputs "
        f"({count.truncated_inputs / rows:.1%}{of_pairs}), {count.truncated_targets:,} targets "
        f"({count.truncated_targets / rows:.1%})"
        f"{'' if count.lost_words is None else f'; {count.lost_words:,} words without a token'}"
    )


def _tags(found: DataPreview) -> dict[str, str]:
    """How words are tagged, and the entities of each part; nothing of other data."""
    if found.tags is None:
        return {}
    words = found.tags.words
    return {"tags": f"{', '.join(found.tags.forms)}; scheme {found.tags.scheme}"} | {
        f"{part} entities": _entities(entities, words[part])
        for part, entities in found.tags.entities.items()
        if words[part]
    }


def _entities(classes: dict[str, int], words: int) -> str:
    """Of each class how many there are, in how many words."""
    total = sum(classes.values())
    return f"{total:,} in {words:,} words{': ' if classes else ''}{_balance(classes, total)}"


def _balance(classes: dict[str, int], total: int) -> str:
    shown = [f"{label} {count:,} ({count / total:.1%})" for label, count in classes.items()]
    more = len(shown) - SHOWN_CLASSES
    return ", ".join(shown[:SHOWN_CLASSES]) + (f" and {more} more" if more > 0 else "")
