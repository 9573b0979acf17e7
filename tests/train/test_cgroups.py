"""What control groups grant, read from trees of files as version 1 and 2 of them show."""

from __future__ import annotations

import pytest
import torch

from deltatune.training.given import cgroups
from deltatune.training.given.machine import available_memory, fast_cpu, total_memory

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write a process's groups and their files, and let the functions read these."""

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    return write


def test_outside_of_linux_there_are_no_limits(groups):
    assert cgroups.processors_granted() is None
    assert cgroups.memory_limit() is None
    assert cgroups.memory_left() is None


def test_version_2_without_limits(groups):
    groups("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n", "memory.current": "5\n"})
    assert cgroups.processors_granted() is None
    assert cgroups.memory_left() is None


@pytest.mark.parametrize(("quota", "processors"), [(100000, 1), (150000, 2), (200000, 2), (5000, 1)])
def test_version_2_rounds_processors_up(groups, quota, processors):
    groups("0::/\n", {"cpu.max": f"{quota} 100000\n"})
    assert cgroups.processors_granted() == processors


def test_the_tightest_of_the_groups_around_a_process_counts(groups):
    groups(
        "0::/slice/job\n",
        {
            "slice/job/cpu.max": "800000 100000\n",
            "slice/cpu.max": "300000 100000\n",
            "slice/job/memory.max": f"{4 * GIB}\n",
            "slice/job/memory.current": f"{1 * GIB}\n",
            "slice/memory.max": f"{8 * GIB}\n",
            "slice/memory.current": f"{6 * GIB}\n",
            "elsewhere/cpu.max": "100000 100000\n",
        },
    )
    assert cgroups.processors_granted() == 3
    assert cgroups.memory_limit() == 4 * GIB
    assert cgroups.memory_left() == 2 * GIB


def test_version_1_names_a_group_for_each_controller(groups):
    groups(
        "4:memory:/a\n3:cpuset:/c\n2:cpu,cpuacct:/b\n0::/\n",
        {
            "cpu/b/cpu.cfs_quota_us": "400000\n",
            "cpu/b/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/a/memory.limit_in_bytes": f"{3 * GIB}\n",
            "memory/a/memory.usage_in_bytes": f"{1 * GIB}\n",
        },
    )
    assert cgroups.processors_granted() == 4
    assert cgroups.memory_limit() == 3 * GIB
    assert cgroups.memory_left() == 2 * GIB


def test_version_1_without_limits(groups):
    groups(
        "4:memory:/\n2:cpu:/\n",
        {
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "5\n",
        },
    )
    assert cgroups.processors_granted() is None
    assert cgroups.memory_limit() is None


def test_a_container_shows_its_own_group_as_the_top(groups):
    """Of version 1 the process's path may be the host's, which does not exist inside."""
    groups(
        "2:cpu:/docker/0123\n",
        {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
    )
    assert cgroups.processors_granted() == 2


def test_threads_are_held_to_the_grant_and_given_back(groups, monkeypatch):
    groups("0::/\n", {"cpu.max": "200000 100000\n"})
    monkeypatch.setattr(cgroups.os, "sched_getaffinity", lambda _: range(4), raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with fast_cpu():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 3
        torch.set_num_threads(1)  # fewer, as the user says
        with fast_cpu():
            assert torch.get_num_threads() == 1
        monkeypatch.setattr(cgroups.os, "sched_getaffinity", lambda _: {5})  # bound to one (taskset)
        torch.set_num_threads(3)
        with fast_cpu():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_memory_is_the_least_of_machine_and_container(groups):
    groups("0::/\n", {"memory.max": f"{3 * 4096}\n", "memory.current": "4096\n"})
    assert total_memory() == 3 * 4096
    assert available_memory() == 2 * 4096
