"""Requests that schemathesis makes from the OpenAPI document, against a backend that really runs.

`make test-api SECONDS=600 SEED=7` does the same for longer; any other seed tries other requests.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from simulators.backend_alone import BackendAlone, running_backend

SETTINGS = Path(__file__).with_name("schemathesis.toml")
SECONDS = int(os.environ.get("API_SECONDS") or 50)
SEED = int(os.environ.get("API_SEED") or 7)  # the same for everybody: a red run must be red again
LINE = 300  # characters; schemathesis shows a URL of 8 KB in full


@pytest.mark.timeout(SECONDS + 120)
async def test_generated_requests_are_answered_as_the_document_says(tmp_path):
    async with running_backend(tmp_path / "data") as backend:
        await _filled(backend)
        keys = {"API_TOKEN": backend.token, "API_WRITE_KEY": backend.write_key}
        status, told = await _ran(
            (
                *(sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", str(SETTINGS)),
                *("run", f"{backend.url}/api/openapi.json", "--phases", "coverage,fuzzing,stateful"),
                *("--seed", str(SEED), "--max-time", str(SECONDS), "--suppress-health-check", "all"),
            ),
            {**os.environ, **keys},
            tmp_path,
        )
    sys.stdout.write("\n".join([f"SEED={SEED}", *told[-12:], ""]))
    assert status == 0, "\n".join(told)


EVENTS = [
    {"type": "identify", "userId": "4711", "traits": {"name": "Ada", "email": "ada@example.org"}},
    {"type": "track", "userId": "4711", "event": "Product Viewed", "properties": {"product_id": "p1"}},
    {
        "type": "track",
        "userId": "4711",
        "event": "Order Completed",
        "properties": {"order_id": "o1", "total": 9.9, "currency": "EUR", "products": [{"product_id": "p1"}]},
    },
]
DEVICE = {"deviceId": "phone", "userId": "4711", "pushAddress": {"kind": "token", "value": "t"}}
CONSENT = {"userId": "4711", "consent": {"proximity": True, "push": True}}
CAMPAIGN = {
    "campaign_id": "c1",
    "name": "Coffee",
    "trigger": {"type": "zone_dwelt", "store_id": "s1", "zone_id": "a", "dwell_s": 5},
    "offer": {"title": "Hello", "body": "Coffee"},
}


async def _filled(backend: BackendAlone) -> None:
    """Somebody who did something, and a campaign: empty lists fit every schema."""
    key = {"Authorization": f"Bearer {backend.write_key}"}
    async with aiohttp.ClientSession(backend.url) as http:
        for path, body in (("batch", {"batch": EVENTS}), ("devices", DEVICE), ("consent", CONSENT)):
            async with http.post(f"/v1/{path}", json=body, headers=key) as answer:
                assert answer.status == 200, await answer.text()
        async with http.put("/api/campaigns/c1", json=CAMPAIGN, headers=backend.headers) as answer:
            assert answer.status == 200, await answer.text()
        deadline = time.monotonic() + 10
        while True:
            async with http.get("/api/profiles/user_id:4711", headers=backend.headers) as answer:
                if answer.status == 200 and (await answer.json())["devices"]:
                    return
            assert time.monotonic() < deadline, "nobody was folded"
            await asyncio.sleep(0.05)


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
