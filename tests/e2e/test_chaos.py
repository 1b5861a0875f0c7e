"""A short cut of `make test-chaos`: replicas, broker and PostgreSQL die, FCM fails, and nothing is lost."""

import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SECONDS, SEED = 5, 20


def test_blows_lose_nothing_and_double_nothing():
    command = [sys.executable, "-m", "simulators.endurance", "chaos", "--seconds", str(SECONDS)]
    done = subprocess.run(
        [*command, "--seed", str(SEED)], capture_output=True, text=True, timeout=280, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert done.stdout.splitlines()[-1] == "lost 0 doubled 0 unfinished 0 astray 0"
    for what in ("replica", "broker", "PostgreSQL"):
        assert re.search(rf"killed: .*\d {what}", said), said
    assert re.search(r"it took [1-9]\d* pushes", said), said
