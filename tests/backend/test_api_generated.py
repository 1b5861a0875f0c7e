"""Requests that schemathesis makes from the OpenAPI document, against a backend that really runs.

`make test-api SECONDS=600 SEED=7` does the same for longer; any other seed tries other requests.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from simulators.backend_alone import running_backend

SETTINGS = Path(__file__).with_name("schemathesis.toml")
SECONDS = int(os.environ.get("API_SECONDS") or 40)
SEED = int(os.environ.get("API_SEED") or 7)  # the same for everybody: a red run must be red again
LINE = 300  # characters; schemathesis shows a URL of 8 KB in full


@pytest.mark.timeout(SECONDS + 120)
async def test_generated_requests_are_answered_as_the_document_says(tmp_path):
    async with running_backend(tmp_path / "data") as backend:
        keys = {"API_TOKEN": backend.token, "API_WRITE_KEY": backend.write_key}
        status, told = await _ran(
            (
                *(sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", str(SETTINGS)),
                *("run", f"{backend.url}/api/openapi.json", "--phases", "coverage,fuzzing"),
                *("--seed", str(SEED), "--max-time", str(SECONDS), "--suppress-health-check", "all"),
            ),
            {**os.environ, **keys},
            tmp_path,
        )
    sys.stdout.write("\n".join([f"SEED={SEED}", *told[-12:], ""]))
    assert status == 0, "\n".join(told)


async def _ran(command: Sequence[str], environment: dict[str, str], folder: Path) -> tuple[int, list[str]]:
    """The exit status and the lines of a command that is killed with the test."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, [line[:LINE] for line in told.decode("utf-8", "replace").splitlines()]
