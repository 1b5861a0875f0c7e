"""The whole backend on PostgreSQL: an app's event becomes a profile; one owner; commands beside it."""

import asyncio
from pathlib import Path

import aiohttp
import msgspec
import pytest
from typer.testing import CliRunner

from backend import config as settings_module
from backend.app import running
from backend.cli import main
from backend.config import Config, Http, Log, read_config
from backend.storage.session import StorageError


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Path:
    path = tmp_path / "backend.toml"
    path.write_text(
        f'data_dir = "{tmp_path}/data"\n[http]\nport = 0\n[database]\nurl = "{database_url}"\n', "utf-8"
    )
    return path


def command(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output.strip()


async def test_an_event_becomes_a_profile_and_a_restart_knows_it(settings: Path) -> None:
    token = await asyncio.to_thread(command, "token", "create", "--role", "admin", "--config", str(settings))
    headers = {"Authorization": f"Bearer {token}"}
    async with running(read_config(settings)) as (backend, _), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{backend.port}"
        source = {"name": "Server", "kind": "server"}
        async with http.put(f"{url}/api/sources/server", json=source, headers=headers) as answer:
            made = await answer.json()
            assert answer.status == 201, made
        key = {"Authorization": aiohttp.encode_basic_auth(made["write_key"])}
        call = {"userId": "anna", "messageId": "m1", "traits": {"name": "Anna"}}
        for _ in range(2):
            async with http.post(f"{url}/v1/identify", json=call, headers=key) as answer:
                assert answer.status == 200, await answer.text()
        beside = await asyncio.to_thread(command, "token", "list", "--config", str(settings))
        assert "admin" in beside
        elsewhere = msgspec.structs.replace(read_config(settings), data_dir=f"{settings.parent}/elsewhere")
        with pytest.raises(StorageError, match="another backend uses this database"):
            async with running(elsewhere):
                pass
    async with running(read_config(settings)) as (backend, _), aiohttp.ClientSession(headers=headers) as http:
        url = f"http://127.0.0.1:{backend.port}/api/profiles/user_id:anna"

        async def name() -> str | None:
            async with http.get(url) as answer:
                return (await answer.json()).get("traits", {}).get("name")

        async with asyncio.timeout(10):
            while await name() != "Anna":  # noqa: ASYNC110 - another process's HTTP answer has no event
                await asyncio.sleep(0.05)


def test_looking_into_files_says_where_to_look_instead(settings: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", "--config", str(settings)])
    assert (result.exit_code, "footfall_state" in result.output) == (2, True)


@pytest.mark.parametrize("url", ["", "mysql://db/footfall", "db.example.org"])
def test_only_the_url_of_a_postgresql_is_one(tmp_path: Path, url: str) -> None:
    path = tmp_path / "backend.toml"
    path.write_text(f'data_dir = "{tmp_path}"\n[database]\nurl = "{url}"\n', "utf-8")
    with pytest.raises(settings_module.SettingsError, match=r"database\.url"):
        read_config(path)


async def test_a_database_that_cannot_be_reached_ends_the_start_in_one_line(tmp_path: Path) -> None:
    gone = settings_module.Database("postgresql://footfall:hush@127.0.0.1:1/footfall")
    config = Config(str(tmp_path), Http(port=0), log=Log(), database=gone)
    with pytest.raises(StorageError, match=r"127\.0\.0\.1/footfall") as refused:
        async with running(config):
            pass
    assert "hush" not in str(refused.value)
