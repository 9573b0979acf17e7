"""Whatever a run or an adapter holds, training goes on from it, it is loaded on a base, or it is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deltatune.checkpoint.manifest import NAME as MANIFEST
from deltatune.checkpoint.saved import CONFIG, OURS, TENSORS
from deltatune.errors import DeltatuneError
from deltatune.files import CHECKSUM, sealed
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.given import Given
from deltatune.runs import load_run
from deltatune.training import run
from deltatune.training.given.extend import extension, open_extension
from tests.fuzz import mutations
from tests.tiny_recipe import make_recipe, rows, t5_folder, unpredicted

__all__ = ["make_recipe", "rows", "t5_folder", "unpredicted"]

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
Make = Callable[..., Recipe]
OF_A_RUN = ("result.json", "recipe.yaml", f"adapter/{CONFIG}", f"adapter/{OURS}", f"adapter/{TENSORS}")


@pytest.fixture
def finished(make_recipe: Make, tmp_path: Path) -> Path:
    """A finished run of one step."""
    recipe = make_recipe("train.max_steps=1")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    return tmp_path / "run"


def changed(path: Path, chance: random.Random) -> None:
    """Change a value in the file, or bytes of it; its own checksum is made to fit, as an attacker would."""
    if path.suffix == ".safetensors" or chance.random() < 0.2:
        path.write_bytes(mutations.raw(path.read_bytes(), chance))
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        content = mutations.tree(yaml.safe_load(text), chance)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return
    content = mutations.tree(json.loads(text), chance)
    if isinstance(content, dict) and CHECKSUM in content and chance.random() < 0.8:
        content = sealed({key: value for key, value in content.items() if key != CHECKSUM})
    path.write_text(json.dumps(content), encoding="utf-8")


def extended(folder: Path) -> bool:
    """Whether training on from the run would begin; what it would cost to begin is cheap here."""
    try:
        recipe = extension(folder)
        open_extension(recipe, recipe.methods[0], 0, Silent())
    except DeltatuneError:
        return False
    return True


def loaded(folder: Path, base: Path) -> bool:
    """Whether the adapter is attached to the base that the user names."""
    try:
        load_run(folder, given=Given(str(base), "text-to-text"))
    except DeltatuneError:
        return False
    return True


def fuzz_runs(finished: Path, folder: Path, seeds: range) -> list[bool]:
    outcomes = []
    for seed in seeds:
        chance = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        if chance.random() < 0.8:  # as version 0.1 left it: nothing vouches for the files
            (folder / MANIFEST).unlink()
        for name in chance.sample(OF_A_RUN, chance.randint(1, 2)):
            changed(folder / name, chance)
        outcomes.append(extended(folder))
    return outcomes


def fuzz_adapters(finished: Path, folder: Path, base: Path, seeds: range) -> list[bool]:
    outcomes = []
    for seed in seeds:
        chance = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished / "adapter", folder)
        names = [CONFIG, TENSORS]
        if chance.random() < 0.6:  # as peft writes it
            (folder / OURS).unlink()
        else:
            names.append(OURS)
        changed(folder / chance.choice(names), chance)
        outcomes.append(loaded(folder, base))
    return outcomes


FOUND: dict[str, tuple[str, dict[str, object]]] = {
    "a checksum of a file that is not there": (f"adapter/{OURS}", {"files": {"x": ""}}),
    "a checksum of a device that has no end": (f"adapter/{OURS}", {"files": {"/dev/zero": ""}}),
    "checksums that are none": (f"adapter/{OURS}", {"files": [5]}),
    "a run of no method": ("result.json", {"method": None}),
    "settings that are none of its method": ("result.json", {"config": {"r": "x", "y": 1}}),
    "settings that are no settings": ("result.json", {"config": 5}),
}


@pytest.mark.parametrize(("name", "change"), FOUND.values(), ids=FOUND)
def test_what_was_found_is_refused(name: str, change: dict[str, object], finished: Path) -> None:
    (finished / MANIFEST).unlink()
    content = json.loads((finished / name).read_text()) | change
    content.pop(CHECKSUM, None)
    (finished / name).write_text(json.dumps(sealed(content) if name != "result.json" else content))
    assert not extended(finished)


def test_mutated_runs_are_extended_or_refused(finished: Path, tmp_path: Path) -> None:
    assert extended(finished)
    outcomes = fuzz_runs(finished, tmp_path / "x", range(60))
    assert any(outcomes)
    assert not all(outcomes)


def test_mutated_adapters_are_loaded_on_a_named_base_or_refused(
    finished: Path, t5_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "adapter", tmp_path / "foreign", ignore=lambda *_: [OURS])
    assert loaded(tmp_path / "foreign", t5_folder)
    outcomes = fuzz_adapters(finished, tmp_path / "x", t5_folder, range(60))
    assert any(outcomes)
    assert not all(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 6))
@pytest.mark.timeout(3600)
def test_many_mutated_runs_and_adapters(finished: Path, t5_folder: Path, tmp_path: Path, block: int) -> None:
    seeds = range(block * 500, (block + 1) * 500)
    fuzz_runs(finished, tmp_path / "x", seeds)
    fuzz_adapters(finished, tmp_path / "y", t5_folder, seeds)
