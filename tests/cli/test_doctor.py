"""`doctor` says what is there, and one thing that mends each fault."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deltatune.training.before import diagnosis
from deltatune.training.before.diagnosis import SERVES, diagnose, extras

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_it_is_read_by_people_and_by_programs(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = run("doctor", "--fast")
    assert told.code == 0, told.err
    assert "unset HF_HUB_OFFLINE" in told.out
    found = json.loads(run("doctor", "--json").out)
    assert found["granted"] <= found["cores"] == os.cpu_count()
    assert found["free_memory_bytes"] < found["memory_bytes"]
    assert found["speed"]["float32"] > 1e8
    assert found["precision"] in (("bf16", "fp32") if found["bfloat16"] else ("fp32",))
    assert found["why_precision"]


def test_every_extra_for_users_is_explained() -> None:
    declared = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(SERVES) == set(declared) - {"dev", "docs"}


def test_what_is_missing_or_too_old_is_named() -> None:
    found = extras(
        [
            "torch>=2.10",
            'no-such-package>=3; extra == "hub"',
            'pyyaml>=1000; extra == "hub"',
            'pyyaml>=5; extra == "search"',
            'optuna; extra == "search" and python_version < "3"',
        ]
    )
    missing = {extra.name: extra.missing for extra in found}
    assert missing["hub"] == ["no-such-package>=3", "pyyaml>=1000"]
    assert missing["search"] == missing["quant"] == []


def test_idle_cores_and_little_room_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.cgroups, "processors", lambda: 4)
    monkeypatch.setattr(diagnosis.psutil, "cpu_count", lambda logical: 4)
    monkeypatch.setattr(diagnosis, "available_memory", lambda: 2**30)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    advice = {item.what: item.remedy for item in diagnose(measure=False).advice}
    idle = next(what for what in advice if "OMP_NUM_THREADS=1" in what)
    assert "3 of 4 cores" in idle
    assert advice[idle] == "unset OMP_NUM_THREADS"
    assert any("of memory are free" in what for what in advice)


def test_second_threads_of_a_core_are_no_idle_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.cgroups, "processors", lambda: 8)
    monkeypatch.setattr(diagnosis.psutil, "cpu_count", lambda logical: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert not any("OMP_NUM_THREADS" in item.what for item in diagnose(measure=False).advice)


def test_threads_that_wait_for_each_other_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.cgroups, "processors", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        for seconds, slow in (
            ([0.2, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3], False),
            ([0.4] * 4 + [0.2] * 4, True),
        ):
            times = iter(seconds)
            monkeypatch.setattr(diagnosis, "_timed", lambda work, times=times: next(times))
            found = diagnose()
            advice = {item.what: item.remedy for item in found.advice}
            assert (found.threads, found.threads_gain) == (2, seconds[-1] / min(seconds[:4]))
            assert any("2 threads are 0.5 times as fast as one" in what for what in advice) == slow
            more = next(what for what in advice if "OMP_NUM_THREADS=8" in what)
            assert advice[more] == "export OMP_NUM_THREADS=2"
        assert diagnose(measure=False).threads_gain is None
        assert torch.get_num_threads() == 8
    finally:
        torch.set_num_threads(before)
