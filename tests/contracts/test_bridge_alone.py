"""Bridges alone, as processes of their own, beside a backend that folds what they take in."""

import asyncio
import socket
import sys
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from backend.app import bridge_alone, running
from backend.cli import main
from backend.config import read_config
from simulators.children import Child

pytestmark = pytest.mark.timeout(180)


def write_settings(path: Path, url: str | None) -> Path:
    """No broker listens at port 1: apps and sites do not need one."""
    data = path.with_suffix("")
    database = "" if url is None else f'[database]\nurl = "{url}"\n'
    path.write_text(f'data_dir = "{data}"\n[http]\nport = 0\n[mqtt]\nport = 1\n{database}', "utf-8")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path, engine: str, request: pytest.FixtureRequest) -> list[Path]:
    """A backend's and two bridges': with files the same, with PostgreSQL each has its own folder."""
    if engine == "sqlite":
        return [write_settings(tmp_path / "shop.toml", None)] * 3
    url = request.getfixturevalue("database_url")
    return [write_settings(tmp_path / f"{name}.toml", url) for name in ("whole", "bridge0", "bridge1")]


async def test_two_bridges_and_a_backend_share_one_journal(tmp_path: Path, settings: list[Path]) -> None:
    whole, *alone = settings
    ports = [free_port(), free_port()]
    created = await asyncio.to_thread(
        CliRunner().invoke, main, ["token", "create", "--role", "admin", "--config", str(whole)]
    )
    headers = {"Authorization": f"Bearer {created.output.strip()}"}
    async with running(read_config(whole)) as (backend, _), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{backend.port}"
        source = {"name": "Server", "kind": "server"}
        async with http.put(f"{url}/api/sources/server", json=source, headers=headers) as answer:
            key = {"Authorization": aiohttp.encode_basic_auth((await answer.json())["write_key"])}
        command = [sys.executable, "-m", "backend", "serve", "--only", "bridge"]
        bridges = [
            Child(str(port), [*command, "-c", str(path), "--port", str(port)], tmp_path / f"{port}.log")
            for path, port in zip(alone, ports, strict=True)
        ]
        for bridge in bridges:
            bridge.start()
        try:
            for port in ports:
                await eventually(lambda port=port: is_up(http, port))
            for number, port in enumerate([*ports, *ports]):
                call = {"userId": "anna", "messageId": f"m{number % 2}", "event": f"Seen {number % 2}"}
                async with http.post(f"http://127.0.0.1:{port}/v1/track", json=call, headers=key) as answer:
                    assert answer.status == 200, await answer.text()

            async def both_are_there() -> bool:
                async with http.get(f"{url}/api/profiles/user_id:anna/timeline", headers=headers) as answer:
                    items = (await answer.json()).get("items", [])
                return sorted(item["title"] for item in items if item["title"].startswith("Seen")) == [
                    "Seen 0",
                    "Seen 1",
                ]

            await eventually(both_are_there)
            async with http.get(f"http://127.0.0.1:{ports[0]}/api/profiles/user_id:anna") as answer:
                assert answer.status == 404, "a bridge alone shows nobody to anybody"
            for method, path, status in (("PUT", "track", 405), ("GET", "track", 405), ("POST", "none", 404)):
                async with http.request(method, f"http://127.0.0.1:{ports[0]}/v1/{path}") as answer:
                    assert (answer.status, {*await answer.json()}) == (status, {"code", "message"})
                    assert answer.headers["Access-Control-Allow-Origin"] == "*"
                    assert (status == 404) == ("Allow" not in answer.headers)
        finally:
            for bridge in bridges:
                await bridge.kill()


async def is_up(http: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with http.get(f"http://127.0.0.1:{port}/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def eventually(condition) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - other processes' answers have no event
            await asyncio.sleep(0.1)


async def test_a_bridge_that_comes_first_makes_what_both_need(tmp_path: Path) -> None:
    config = read_config(write_settings(tmp_path / "shop.toml", None))
    async with bridge_alone(config), running(config), bridge_alone(config):
        assert {path.name for path in config.folder.glob("*.key")} == {"eid.key", "erasure.key", "link.key"}
