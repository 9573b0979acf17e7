"""Whatever a recipe holds, it is a recipe or a `RecipeError`, soon."""

from __future__ import annotations

import random

import pytest
import yaml

from deltatune.errors import RecipeError
from deltatune.recipe import Recipe, parse_recipe
from deltatune.recipe.yaml_text import parse_yaml
from tests.fuzz import mutations

BASE = """task: text-to-text
model: bundled:t5-small
data: {source: rows.jsonl, columns: {input: text, target: title}, split: {validation: 0.2, test: 0.2}}
methods: [lora, {prompt: {n_tokens: 4}, name: p, train: {lr: 1e-3}}]
train: {epochs: 2, batch_size: 8, lr: 0.01}
evaluation: {max_new_tokens: 8, batch_size: 8}
"""
MORE = (
    "",
    "tune: {lr: 4}\n",
    "search: {trials: 4, space: {train.lr: {from: 1e-4, to: 1e-2, scale: log}}}\n",
    "halving: {factor: 3}\ntune: {lr: 4}\n",
    "grid: {train.lr: [0.1, 0.2]}\nsample: 1\n",
    "budget: 0.5%\n",
    "quantization: nf4\n",
)
KEYS = (
    *Recipe.model_fields,
    "name",
    "group",
    "space",
    "revision",
    "source",
    "format",
    "columns",
    "template",
    "limit",
    "seed",
    "epochs",
    "max_steps",
    "lr",
    "precision",
    "evaluate_every",
    "checkpoint_every",
    "metrics",
    "trials",
    "r",
    "targets",
    "from",
    "to",
    "steps",
    "scale",
    "train.lr",
    "data.template",
    "lora",
    "full",
    "untuned",
    "method",
)
PIECES = (
    "&a ",
    "*a",
    "!!int ",
    "!!float ",
    "!!bool ",
    "!!map ",
    "!!seq ",
    "!!timestamp ",
    "!!binary ",
    "<<: ",
    "? ",
    "- ",
    ": ",
    "[",
    "{",
    "]",
    "}",
    "'",
    '"',
    "\n",
    "|",
    ">",
    "%",
    "@",
    "`",
    "0x",
    "1_",
    "2001-01-01",
    "#",
)
pytestmark = pytest.mark.timeout(120)  # the bombs went on for hours


def accepted(text: str) -> bool:
    """Whether the text is a recipe; anything but a `RecipeError` is a finding, and so is one that floods."""
    try:
        recipe = parse_recipe(parse_yaml(text, "recipe.yaml"), root="/nowhere")
    except RecipeError as error:
        message = str(error)
        if len(message) > 20_000:
            raise AssertionError(f"a message of {len(message)} characters") from error
        return False
    assert parse_recipe(recipe.dump()) == recipe
    return True


def changed(seed: int) -> str:
    chance = random.Random(seed)
    base = BASE + chance.choice(MORE)
    if seed % 3 == 0:
        return mutations.text(base, chance, PIECES)
    content = yaml.safe_load(base)
    for _ in range(chance.randint(1, 5)):
        content = mutations.tree(content, chance, KEYS)
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


FOUND = {
    "an impossible date": BASE.replace("name: p", "name: 2024-13-45"),  # accepted since: a plain text
    "an integer of 5,000 digits": BASE.replace("epochs: 2", f"epochs: {'9' * 5000}"),
    "an integer beyond floats": BASE + f"grid: {{train.epochs: {{from: 1, to: {'9' * 400}, steps: 5}}}}",
    "!!int of letters": BASE + "seeds: [!!int abc]",
    "!!int of nothing": BASE + "seeds: [!!int '']",
    "!!bool of maybe": BASE + "seeds: [!!bool maybe]",
    "!!float of letters": BASE + "seeds: [!!float x]",
    "!!map of a list": BASE + "tune: !!map [1, 2]",
    "!!timestamp of letters": BASE + "seeds: [!!timestamp x]",
    "!!python": BASE + "seeds: !!python/object/apply:os.system ['true']",
    "a letter that is none": BASE.replace("name: p", r'name: "\U00110000"'),
    "a bomb": bomb(8) + BASE.replace("text-to-text", "*a7"),
    "a bomb in a grid": bomb(7) + BASE + "grid: {train.lr: *a6}\n",
    "a bomb of merges": "b0: &b0 {k: 1}\n"
    + "".join(f"b{i}: &b{i} {{<<: [{','.join([f'*b{i - 1}'] * 10)}]}}\n" for i in range(1, 8))
    + BASE,
    "a value within itself": BASE + "tune: &x {a: *x}",
    "a method that is a text, in a grid": BASE.replace("{n_tokens: 4}", "text") + MORE[4],
    "a section that is a text, in a grid": BASE.replace("{lr: 1e-3}", "text") + MORE[4],
    "brackets": BASE + "tune: " + "[" * 3000,
    "closed brackets": BASE + "seeds: " + "[" * 320 + "]" * 320,
}
"""What mutations and people found, each of which crashed, hung or flooded the terminal."""


@pytest.mark.parametrize("text", FOUND.values(), ids=FOUND)
def test_what_was_found_is_refused(text: str) -> None:
    assert accepted(text) == ("2024-13-45" in text)


@pytest.mark.parametrize(
    "override",
    [".".join("a" * 2000) + "=1", "seeds=" + "9" * 5000, "methods.0.lora.r=!!int x", "train.lr=&a [*a]"],
)
def test_overrides_are_refused_likewise(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(parse_yaml(BASE, "recipe.yaml"), [override])
    assert len(str(caught.value)) < 20_000


def test_mutated_recipes_are_recipes_or_refused() -> None:
    outcomes = [accepted(changed(seed)) for seed in range(300)]
    assert any(outcomes)
    assert not all(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 21))
@pytest.mark.timeout(3600)
def test_many_mutated_recipes_are_recipes_or_refused(block: int) -> None:
    for seed in range(block * 2_000, (block + 1) * 2_000):
        accepted(changed(seed))
