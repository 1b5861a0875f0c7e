"""The pipeline's benchmark still runs: its smallest parts, in their quick form, as its users start it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LINES = (
    "plain consumer",
    "accepted, batches of 100",
    "accepted, one by one",
    "folded, with zones and ten campaigns",
    "located, 500 fences",
    "located and stored",
    "empty poll of 2,000, next due",
)


def test_the_quick_form_says_every_figure():
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_pipeline.py"), "--quick", "--only"]
    done = subprocess.run(
        [*command, "accept", "fold", "locate", "wait"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in LINES if line not in done.stdout], done.stdout
    assert "goal" in done.stdout
