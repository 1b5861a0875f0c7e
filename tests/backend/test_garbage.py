"""What a process that stands does with its memory."""

import platform
import subprocess
import sys

import pytest

_WEIGHINGS = """
import resource
import numpy as np
from backend import garbage

garbage.settle()
for _ in range(3):
    arrays = [np.zeros(75_000, np.float32) for _ in range(4)]
    del arrays
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    arrays = [np.ones(75_000, np.float32) for _ in range(4)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have their own ways")
def test_the_memory_of_one_weighing_serves_the_next() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _WEIGHINGS], check=True, capture_output=True, text=True, timeout=60
    )
    assert int(told.stdout) < 1_000
