"""How far two equal things lie apart: trainings of one entry that differ in nothing but the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

from deltatune.comparison.scores import AnySample
from deltatune.results import LeaderboardRow, NoiseFloor


def noise_floor(ranked: Sequence[LeaderboardRow], samples: Mapping[str, AnySample]) -> NoiseFloor | None:
    """The pairs A/A of the best entry whose seeds differ; None if there is none.

    Args:
        ranked: The rows, best first.
        samples: What each scored on the test rows.
    """
    for row in ranked:
        sample = samples.get(row.name)
        if sample is None or sample.seeds < 2 or not sample.varies:
            continue
        gaps = [float(abs(a - b)) for a, b in combinations(sample.by_seed().tolist(), 2)]
        return NoiseFloor(name=row.name, seeds=sample.seeds, mean=fmean(gaps), largest=max(gaps))
    return None
