"""Memory that a step frees stays for the next one, and goes back when training ends."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from deltatune.train.machine import MB, kept_memory

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="of the GNU C library"
)
BLOCKS, BLOCK = 50, 4 * MB


def a_step() -> None:
    """Take and free what a step keeps for its backward pass."""
    _ = [torch.ones(BLOCK // 4) for _ in range(BLOCKS)]


def faults_of_steps() -> int:
    """Pages that the system maps for three steps, after two."""
    for _ in range(2):
        a_step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        a_step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of the process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def test_a_step_takes_the_memory_of_the_one_before() -> None:
    given_back = faults_of_steps()
    assert given_back > BLOCKS * BLOCK // (2 * MB)  # pages may be as large as that
    with kept_memory():
        assert faults_of_steps() < given_back / 10


def test_memory_goes_back_at_the_end() -> None:
    a_step()
    before = resident()
    with kept_memory():
        a_step()
        assert resident() > before + BLOCKS * BLOCK / 2
    assert resident() < before + BLOCKS * BLOCK / 10
