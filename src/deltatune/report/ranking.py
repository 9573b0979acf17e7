"""How ranks are made, in the one sentence that every place shows which shows ranks."""

from __future__ import annotations

RANK_RULE = (
    "A method's rank is 1 + the number of methods that are significantly better than it, after correction "
    "for the number of pairs (Holm)."
)
"""What `compare.statistics.shared_ranks` does. Methods that nothing beats have rank 1."""
LEADING = 60
"""Of so many methods, best first, a page shows more than a row, and a leaderboard keeps every pair."""
