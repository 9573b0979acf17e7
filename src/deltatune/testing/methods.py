"""The kit for a method of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from deltatune.core.method import MethodConfig
from deltatune.errors import DeltatuneError, TargetError
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.testing.case import Case
from deltatune.testing.checks import Check, known
from deltatune.testing.expecting import broken, expect
from deltatune.testing.promises import PROMISES, Promise

PARTS = ("title", "formula", "when", "cost", "defaults", "paper")
"""What `deltatune methods NAME` prints of a method."""
LONGEST = 420
"""Characters of each."""


def check_method(method: type[MethodConfig] | Case, *, architectures: Sequence[str] = tiny.CORE) -> None:
    """Check that a method keeps what deltatune promises of every method, on tiny models made on the spot.

    Args:
        method: Its config, for its default settings; or a `Case`, which says what settings it has, how many
            parameters it trains, whether it is the base at its start, can be folded, can act on some rows of
            a batch, and what does not hold on which architecture.
        architectures: Of `tiny.ARCHITECTURES`, which are all. Default: one of each kind.

    Raises:
        AssertionError: A promise is broken; the message says which one, on which architecture, and what was
            found.
        DeltatuneError: The method refused something that it should do; a note says what.
    """
    for check in method_checks(method, architectures=architectures):
        check()


def method_checks(
    method: type[MethodConfig] | Case, *, architectures: Sequence[str] = tiny.CORE
) -> list[Check]:
    """The checks of `check_method`, one by one; arguments as there.

    Raises:
        ValueError: There is no tiny model of an architecture.
    """
    unknown = set(architectures) - set(tiny.ARCHITECTURES)
    if unknown:
        raise ValueError(f"no tiny model of {', '.join(sorted(unknown))}; of {', '.join(tiny.ARCHITECTURES)}")
    case = method if isinstance(method, Case) else Case(method.name, method)
    return [
        Check("explains_itself", lambda: explains_itself(type(case.settings()))),
        *(
            _of(case, promise, architecture)
            for promise in PROMISES
            for architecture in architectures
            if architecture in promise.architectures and promise.applies(case)
        ),
    ]


def explains_itself(config: type[MethodConfig]) -> None:
    """Everything that `deltatune methods` prints is there, each in a line."""
    with broken(str(getattr(config, "name", config.__name__)), explains_itself):
        for part in ("name", *PARTS):
            text = getattr(config, part, None)
            fits = isinstance(text, str) and "\n" not in text and 1 < len(text) < LONGEST
            expect(fits, f"its {part} is {text!r}, not a line of at most {LONGEST} characters")
        bare = [name for name, field in config.model_fields.items() if not field.description]
        expect(not bare, f"settings have no docstring: {', '.join(bare)}")
        rate = getattr(config, "default_lr", None)
        expect(isinstance(rate, float) and rate >= 0, f"its default_lr is {rate!r}, not a learning rate")


def _of(case: Case, promise: Promise, architecture: str) -> Check:
    def run() -> None:
        kind = case.method
        with contextlib.nullcontext() if isinstance(kind, str) else known(METHODS, kind.name, kind):
            _keep(case, promise, architecture)

    return Check(f"{promise.name}-{architecture}", run)


def _keep(case: Case, promise: Promise, architecture: str) -> None:
    """Check a promise; where the case declares a gap, that it is one."""
    reason = case.gap(promise.name, architecture)
    if reason is None:
        promise.keep(case, architecture)
        return
    try:
        promise.check(case, architecture)
    except (AssertionError, DeltatuneError) as error:
        if case.refused(architecture) and not isinstance(error, TargetError):
            raise AssertionError(
                f"{case.label} should refuse {architecture} by a TargetError ({reason}), and says: {error}"
            ) from error
        return
    raise AssertionError(
        f"{case.label} keeps the promise {promise.name!r} on {architecture}, and its gaps say that it does "
        f"not ({reason}): take that out."
    )
