"""Memory that a step frees stays for the next one, and goes back when training ends."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="of the GNU C library"
)
BLOCKS, MB = 50, 2**20
BYTES = BLOCKS * 4 * MB
PROGRAM = f"""
import json, resource
from pathlib import Path
import torch
from deltatune.train.machine import kept_memory

def a_step():
    _ = [torch.ones({MB}) for _ in range({BLOCKS})]

def faults():
    for _ in range(2):
        a_step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        a_step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

found = {{"given back": faults(), "resident before": resident()}}
with kept_memory():
    found |= {{"kept": faults(), "resident within": resident()}}
print(json.dumps(found | {{"resident after": resident()}}))
"""


def test_a_step_takes_the_memory_of_the_one_before() -> None:
    """In a process of its own: what lives at the end of another's heap keeps all below it from going back."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["given back"] > BYTES // (2 * MB)  # pages may be as large as that
    assert found["kept"] < found["given back"] / 10
    assert found["resident within"] > found["resident before"] + BYTES / 2
    assert found["resident after"] < found["resident before"] + BYTES / 10
