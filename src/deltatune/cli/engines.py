"""What `compare` takes about the processes that train: their number, or an engine that starts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatune.errors import DeltatuneError

if TYPE_CHECKING:
    from deltatune.comparison.on_ray import Needs
    from deltatune.observer import Observer
    from deltatune.recipe import Recipe

MOST_WORKERS = 1000


def number_of(workers: str) -> int:
    """The number of workers that a user gives.

    Raises:
        DeltatuneError: It is none.
    """
    if not workers.isdecimal() or not 1 <= int(workers) <= MOST_WORKERS:
        raise DeltatuneError(
            f"{workers!r} is no number of workers.",
            field="--workers",
            remedy=f"Give a whole number from 1 to {MOST_WORKERS}, or auto.",
        )
    return int(workers)


def require_engine(engine: str | None, address: str | None, *, workers: str | None, overwrite: bool) -> None:
    """Refuse another engine than Ray, and options that do not go with it.

    Raises:
        DeltatuneError: There is one.
    """
    if engine not in (None, "ray"):
        raise DeltatuneError(f"{engine!r} is no engine.", field="--engine", remedy="Known: ray.")
    if address and not engine:
        raise DeltatuneError(
            "is of a Ray cluster, which is not asked for.", field="--address", remedy="Add --engine ray."
        )
    if engine and workers:
        raise DeltatuneError(
            "is not for --engine ray, which starts as many tasks as there is room for.",
            field="--workers",
            remedy="Leave it out.",
        )
    if engine and overwrite:  # a task that Ray starts again would remove what others did
        raise DeltatuneError(
            "is not for --engine ray.",
            field="--overwrite",
            remedy="Choose another folder, or remove this one.",
        )


def needs_on_ray(recipe: Recipe, observer: Observer) -> Needs:
    """What tasks of a comparison would ask Ray for."""
    from deltatune.comparison.on_ray import needs_of

    return needs_of(recipe, observer)
