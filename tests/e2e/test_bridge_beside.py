"""A bridge in a process of its own, in the data folder of a backend with files."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from backend.clock import unix_ms
from simulators.backend_process import BackendProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
HOUR_MS = 3_600_000
USER, MAIL = "anna-4711-secret", "anna.secret@example.com"
WITHIN_S = 60.0


@pytest.fixture
def backend(tmp_path) -> Iterator[BackendProcess]:
    with BackendProcess(tmp_path) as running:
        yield running


@pytest.fixture
def bridge(backend) -> Iterator[BackendProcess]:
    with BackendProcess(backend.folder, only_bridge=True) as running:
        yield running


@pytest.fixture
async def api(backend) -> AsyncIterator[aiohttp.ClientSession]:
    """The backend's, for an admin."""
    headers = {"Authorization": f"Bearer {backend.token('admin')}"}
    async with aiohttp.ClientSession(backend.url, headers=headers) as session:
        yield session


def files_with(folder: Path, *names: str) -> set[str]:
    """Which files hold any of the names, in any case."""
    return {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(name.lower().encode() in path.read_bytes().lower() for name in names)
    }


async def test_it_takes_nothing_back_of_whom_the_backend_erased(backend, bridge, api):
    """While she is erased, and after it, a phone hands in through the bridge what she did an hour ago."""
    source = {"name": "Server", "kind": "server"}
    async with api.put("/api/sources/server", json=source) as answer:
        key = (await answer.json())["write_key"]
    numbers = iter(range(100_000))

    async def tell(at: int) -> None:
        who = {"userId": USER, "messageId": f"m{next(numbers)}", "timestamp": at}
        said = {**who, "traits": {"email": MAIL, "lastName": "Secretova"}}
        sender = {"Authorization": aiohttp.encode_basic_auth(key, "")}
        async with api.post(f"{bridge.url}/v1/identify", json=said, headers=sender) as answer:
            assert answer.status == 200, await answer.text()

    async def is_known() -> bool:
        async with api.get(f"/api/profiles/user_id:{USER}") as answer:
            return answer.status == 200

    past = unix_ms() - HOUR_MS
    await tell(past)
    await until(is_known)
    assert files_with(backend.folder / "data", USER, MAIL)
    async with api.delete(f"/api/profiles/user_id:{USER}") as answer:
        receipt = (await answer.json())["receipt_id"]

    async def is_finished() -> bool:
        await tell(past)
        async with api.get(f"/api/erasures/{receipt}") as answer:
            return (await answer.json())["finished_at"] is not None

    await until(is_finished)
    await tell(past)
    assert files_with(backend.folder / "data", USER, MAIL, "Secretova") == set()
    assert not await is_known()
    await tell(unix_ms())
    await until(is_known)


async def until(holds) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await holds():  # noqa: ASYNC110 - other processes' answers have no event
            await asyncio.sleep(0.05)
