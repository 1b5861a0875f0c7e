"""Requests that schemathesis makes from the OpenAPI document, against a backend that really runs.

`make test-api ARGS="--seconds 600 --seed 7"` does the same for longer.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

from simulators.backend_alone import running_backend

SETTINGS = Path(__file__).with_name("schemathesis.toml")
SECONDS = int(os.environ.get("API_SECONDS", "40"))
SEED = int(os.environ.get("API_SEED") or random.randrange(2**32))


@pytest.mark.timeout(SECONDS + 120)
async def test_no_generated_request_fails_or_is_answered_in_another_way_than_the_document_says(tmp_path):
    print(f"API_SEED={SEED}")
    async with running_backend(tmp_path / "data") as backend:
        command = (
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(SETTINGS)),
            *("run", f"{backend.url}/api/openapi.json"),
            *("--seed", str(SEED), "--max-time", str(SECONDS), "--phases", "coverage,fuzzing"),
        )
        keys = {"API_TOKEN": backend.token, "API_WRITE_KEY": backend.write_key}
        told = await _output(command, {**os.environ, **keys}, tmp_path)
    assert "No issues found" in told, told
