"""The method of docs/how-to/extending.md keeps the contract, with nothing touched.

Other methods do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.extending import module, package
from torch import nn

import deltatune
from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.errors import TargetError
from deltatune.methods import METHODS
from deltatune.testing import Case, check_method, method_checks, tiny

scaling = module("scaling")
test_as_on_the_page = module("test_scaling").test_scaling


def test_it_is_known_no_longer_than_it_is_checked() -> None:
    checks = {str(check): check for check in method_checks(scaling.ScaleConfig, architectures=["t5"])}
    checks["save_load_save-t5"]()
    assert "toy-scale" not in METHODS


class Leaky(Delta):
    """Trains the frozen module's own weight."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(module.weight.new_zeros(1))
        module.weight.requires_grad_(True)

    def forward(self, x: Any, y: Any) -> Any:
        return y * (1 + self.scale)


class LeakyConfig(scaling.ScaleConfig):
    """A method that breaks promises."""

    name: ClassVar[str] = "leaky"

    def build(self, view: Any) -> Adapter:
        return Adapter({path: Leaky(module) for path, module in view.select(self.targets).items()})


class SilentConfig(scaling.ScaleConfig):
    name: ClassVar[str] = "silent"
    when: ClassVar[str] = ""


class ShyConfig(scaling.ScaleConfig):
    name: ClassVar[str] = "shy"

    def build(self, view: Any) -> Adapter:
        raise TargetError("it acts on nothing.")


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (LeakyConfig, "gradients_only_in_the_adapter", "parameters of the base are trained: "),
        (LeakyConfig, "detach_leaves_nothing", "detached, the base differs in its parameters"),
        (LeakyConfig, "folding", "cannot be written into weights"),
        (SilentConfig, "explains_itself", "its when is ''"),
        (
            Case("scale", scaling.ScaleConfig, identity=False),
            "identity_at_start",
            "it moves the logits by 0.0",
        ),
        (
            Case("scale", scaling.ScaleConfig, foldable=False),
            "folding",
            "it is not refused by a AdapterError",
        ),
        (
            Case("scale", scaling.ScaleConfig, routable=False),
            "stacking",
            "it is not refused by a AdapterError",
        ),
        (Case("scale", scaling.ScaleConfig, count=lambda _: 7), "parameter_count", "the formula says 7"),
        (Case("scale", scaling.ScaleConfig, gaps={("acts", "t5"): "why"}), "acts", "take that out"),
        (Case("scale", scaling.ScaleConfig, gaps={("*", "t5"): "why"}), "acts", "take that out"),
    ],
)
def test_a_broken_promise_is_named(method: Any, check: str, words: str) -> None:
    [broken] = [each for each in method_checks(method, architectures=["t5"]) if str(each).startswith(check)]
    with pytest.raises(Exception, match=words) as caught:
        broken()
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert check in told
    if isinstance(caught.value, AssertionError) and check != "explains_itself":
        assert "on t5" in told


def test_a_method_that_refuses_an_architecture() -> None:
    with pytest.raises(TargetError, match="it acts on nothing"):
        check_method(ShyConfig, architectures=["t5"])
    check_method(Case("shy", ShyConfig, gaps={("*", "t5"): "it acts on nothing"}), architectures=["t5"])


def test_a_name_that_is_taken() -> None:
    class Lora(scaling.ScaleConfig):
        """No fields of its own."""

        name: ClassVar[str] = "lora"

    with pytest.raises(AssertionError, match="'lora' belongs to another method"):
        check_method(Lora, architectures=["t5"])


def test_there_must_be_a_tiny_model() -> None:
    with pytest.raises(ValueError, match="no tiny model of t6"):
        method_checks(scaling.ScaleConfig, architectures=["t6"])
    assert set(tiny.CORE) <= set(tiny.ARCHITECTURES)


ALONE = """
import sys
sys.modules["pytest"] = None
from deltatune.methods import METHODS
from deltatune.tasks import TASKS
from deltatune.testing import Case, method_checks
print(TASKS.get("stars").title)
case = Case("scaling", METHODS.get("toy-scale"), count=lambda architecture: 7)
checks = {str(check): check for check in method_checks(case, architectures=["t5"])}
checks["acts-t5"]()
try:
    checks["parameter_count-t5"]()
except AssertionError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_pages_package_is_found_by_its_entry_points_and_checked_without_pytest(tmp_path: Path) -> None:
    package(tmp_path)
    paths = [str(tmp_path), str(Path(deltatune.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-O", "-c", ALONE],  # without asserts, too
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    title, promise, found = done.stdout.splitlines()
    assert title == "How many stars does a text give?"
    assert promise.startswith("scaling on t5 breaks the promise 'parameter_count'")
    assert found.endswith("and the formula says 7")
