"""Runs on one tiny base, of which one was trained and the others are copies with other deltas."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import deltatune as dt
from deltatune.checkpoint.store import save_adapter
from deltatune.methods import METHODS
from deltatune.runs.load import load_run
from deltatune.testing.tiny import perturb


def make_runs(
    out: Path, recipe: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], std: float = 0.2
) -> dict[str, Path]:
    """A run of each method, by its name here; what is learned is replaced by noise, so that all answer apart.

    Args:
        out: Where to.
        recipe: A recipe without methods.
        methods: Name here -> {method: settings}.
        std: Of the noise.
    """
    first, folders = next(iter(methods)), {}
    [(kind, settings)] = methods[first].items()
    made = dt.make_recipe(**recipe, methods=[{kind: dict(settings)}])
    dt.train(made, out / first, method=kind, quiet=True)
    loaded = load_run(out / first)
    for number, (name, entry) in enumerate(methods.items()):
        folder = out / name
        [(kind, settings)] = entry.items()
        adapter = loaded.model.attach(f"a{number}", METHODS.get(kind)(**settings))
        perturb(adapter, seed=number, std=std)
        if name != first:
            folder.mkdir()
            for file in ("recipe.yaml", "result.json"):
                shutil.copy(out / first / file, folder / file)
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        save_adapter(loaded.model, f"a{number}", folder / "adapter", base_name=loaded.base.name,
                     fingerprint=loaded.fingerprint)  # fmt: skip
        loaded.model.detach(f"a{number}")
        folders[name] = folder
    return folders


def texts(answers: Sequence[Any]) -> list[str]:
    return [answer.prediction for answer in answers]
