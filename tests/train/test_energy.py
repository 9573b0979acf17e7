"""Energy by the machine's counters, on a pretended folder of the system's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deltatune.recipe import Recipe
from deltatune.training import run
from deltatune.training.given import energy
from deltatune.training.given.energy import MOST_WATTS, Meter, Spent, sockets
from deltatune.training.loop.steps import Progress
from tests.train.test_run import StopAfter

Make = Callable[..., Recipe]
END = 262_143_328_850
"""Microjoules at which the counter of a server's socket begins anew."""


def zone(folder: Path, place: str, name: str, microjoules: int, end: int = END) -> Path:
    """A zone as Linux shows it: all of them side by side."""
    made = folder / place
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "energy_uj").write_text(f"{microjoules}\n")
    (made / "max_energy_range_uj").write_text(f"{end}\n")
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Two sockets with their cores, one with a counter of its memory; and the machine as a whole."""
    (tmp_path / "intel-rapl").mkdir()
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 7)
    zone(tmp_path, "intel-rapl:0:1", "dram", 500_000, 65_712_999_613)
    zone(tmp_path, "intel-rapl:1", "package-1", END - 1_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 9)
    return tmp_path


def count(folder: Path, place: str, microjoules: int) -> None:
    (folder / place / "energy_uj").write_text(f"{microjoules}\n")


def test_sockets_and_their_memory_are_counted_once(machine: Path) -> None:
    meter = Meter(sockets(machine))
    assert meter.of == "package-0, dram of package-0, package-1"
    begun = meter.read()
    count(machine, "intel-rapl:0", 3_500_000)
    count(machine, "intel-rapl:0:0", 9_999_999)
    count(machine, "intel-rapl:0:1", 600_000)
    count(machine, "intel-rapl:1", 250_000)  # its counter has begun anew
    spent = meter.read().since(begun)
    assert spent.joules == pytest.approx(2.5 + 0.1 + 1.25)
    assert spent.seconds > 0
    assert meter.read().since(begun).joules == pytest.approx(spent.joules)


def test_a_counter_may_have_begun_anew_twice(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(energy.time, "perf_counter", lambda: clock[0])
    meter = Meter(sockets(machine))
    begun = meter.read()
    clock[0] = 65_712 / MOST_WATTS + 1  # of the smallest range
    late = meter.read()
    assert late.since(begun).joules is None
    assert late.since(begun).seconds == clock[0]
    assert meter.read().since(late).joules == 0


@pytest.mark.parametrize("what", ["nothing", "unreadable", "damaged", "no sockets"])
def test_what_cannot_be_read_is_not_counted(tmp_path: Path, machine: Path, what: str) -> None:
    folder = machine
    if what == "nothing":
        folder = tmp_path / "none"
    elif what == "unreadable":  # a folder fails for root, too, who may read what others may not
        (machine / "intel-rapl:1/energy_uj").unlink()
        (machine / "intel-rapl:1/energy_uj").mkdir()
    elif what == "damaged":
        (machine / "intel-rapl:1/energy_uj").write_text("much")
    else:
        folder = tmp_path / "cores"
        zone(folder, "intel-rapl:0:1", "dram", 1)
        zone(folder, "intel-rapl:0", "core", 1)
    assert sockets(folder) == []
    meter = Meter([])
    assert meter.of is None
    assert meter.read().since(meter.read()).joules is None


def test_a_counter_that_is_taken_away_ends_the_counting(machine: Path) -> None:
    meter = Meter(sockets(machine))
    begun = meter.read()
    (machine / "intel-rapl:1/energy_uj").unlink()
    assert meter.read().since(begun).joules is None
    assert meter.of is None


def test_joules_are_known_where_all_parts_are() -> None:
    assert Spent(1, 2.0).plus(Spent(3, 4.0)) == Spent(4, 6.0)
    assert Spent(1, 2.0).plus(Spent(3, None)) == Spent(4, None)
    assert Spent(2, 4.0).share(0.25) == Spent(0.5, 1.0)
    progress = Progress()
    progress.spend(Spent(1, 2.0), Spent(1, 0.5))
    assert (progress.seconds, progress.joules) == (2, 2.5)
    progress.spend(Spent(1, None))
    progress.spend(Spent(1, 1.0))
    assert (progress.seconds, progress.joules) == (4, None)


def test_a_gpu_is_counted_by_its_own_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    millijoules = iter([10_000, 10_000, 12_500])
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules),
    )
    device = torch.device("cuda")
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="7"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    meter = Meter(energy.gpu(device))
    assert meter.of == "H200"
    assert meter.read().joules == 2.5

    def refuse(handle: object) -> int:
        raise NVMLError("not supported")

    library.nvmlDeviceGetTotalEnergyConsumption = refuse
    assert energy.gpu(device) == []


def test_a_run_that_goes_on_counts_all_of_its_steps(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Path
) -> None:
    class Counting(Meter):
        """A machine that takes a joule between two readings."""

        def read(self) -> energy.Reading:
            count(machine, "intel-rapl:0", self.counters[0].last + 1_000_000)
            return super().read()

    meter = Counting(sockets(machine))
    for module in ("loop.trainer", "single.result"):
        monkeypatch.setattr(f"deltatune.training.{module}.meter_of", lambda _: meter)
    recipe = make_recipe("train.cache_trunk=false", "train.max_steps=3")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=StopAfter(2))
    cost = run(recipe, recipe.methods[0], 0, tmp_path / "run", resume=True).cost
    assert cost.energy_joules == pytest.approx(3 * cost.steps)  # before, within and behind gradients
    assert cost.energy_of == "package-0, dram of package-0, package-1"
