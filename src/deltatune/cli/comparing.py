"""How the runs of a comparison are trained: in this process, by workers of its own, or by tasks of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deltatune.cli.engines import number_of

if TYPE_CHECKING:
    from deltatune.observer import Observer
    from deltatune.recipe import Recipe
    from deltatune.results import Leaderboard


@dataclass(frozen=True)
class Way:
    """What a user says of it."""

    path: Path
    """The recipe's file."""
    overrides: Sequence[str]
    join: bool = False
    workers: str | None = None
    engine: str | None = None
    address: str | None = None

    def compare(
        self, recipe: Recipe, out: Path, observer: Observer, *, overwrite: bool = False
    ) -> Leaderboard:
        """Compare on one data set.

        Args:
            recipe: Of that data set.
            out: The comparison's folder.
            observer: Is told of the progress.
            overwrite: Start anew.
        """
        if self.engine:
            from deltatune.comparison.on_ray import compare_on_ray

            return compare_on_ray(recipe, out, self.address, observer)
        if self.workers is not None:
            from deltatune.comparison.workers import automatic, compare_by_workers

            count = automatic(recipe, observer) if self.workers == "auto" else number_of(self.workers)
            if count > 1:
                return compare_by_workers(self._command(recipe, out, overwrite), out, count, observer)
        from deltatune.comparison.runner import compare

        return compare(recipe, out, overwrite=overwrite, join=self.join, observer=observer)

    def _command(self, recipe: Recipe, out: Path, overwrite: bool) -> list[str]:
        """What a worker is called with: of several data sets in the file, the one that the recipe is of."""
        from deltatune.recipe.data_sets import load_sets
        from deltatune.recipe.written import inline

        several = len(load_sets(self.path, self.overrides)) > 1
        chosen = [f"data={inline(recipe.data.model_dump(mode='json'))}"] if several else []
        given = [part for override in (*self.overrides, *chosen) for part in ("--set", override)]
        return ["compare", str(self.path), "--out", str(out), *given, *(["--overwrite"] if overwrite else [])]
