"""Documentation is held to the code: settings, routes and files it names exist, and none is missing."""

import re
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from typer.testing import CliRunner

from backend.api import openapi, server
from backend.cli import main
from backend.config import Config, read_config
from sdk_bridge.client import BridgeClient
from sdk_bridge.server import bodies, calls
from sdk_bridge.server.app import Bridge
from sdk_bridge.server.proof import user_hash
from sdk_bridge.server.rates import Rate
from sdk_bridge.settings import SettingsError
from simulators.bridge_alone import SOURCES, ListedSources, MemoryJournal, running_bridge

ROOT = Path(__file__).parent.parent
MOSQUITTO = "firmware_configs/shop_broker/mosquitto.conf"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def settings_keys(kind: type[msgspec.Struct], prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for field in msgspec.structs.fields(kind):
        options = (field.type, *getattr(field.type, "__args__", ()))
        table = next((o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct)), None)
        name = f"{prefix}{field.encode_name}"
        keys |= settings_keys(table, f"{name}.") if table else {name}
    return keys


def test_every_backend_setting_is_documented_and_no_other():
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    table = text.partition("## Settings of the backend")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z_.]+)`", table, re.MULTILINE)) == settings_keys(Config)


def test_the_settings_of_one_shop_work_with_the_certificates_of_its_commands(tmp_path):
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    section = text.partition("## One shop on one machine")[2].partition("\n## ")[0]
    [settings] = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    commands = re.findall(r"footfall-backend (authority [\w-]+-certificate .*)", section)
    here = tmp_path / "backend.toml"
    here.write_text(re.sub(r"/(etc|var)/", rf"{tmp_path}/\1/", settings))
    with pytest.raises(SettingsError, match=r"mqtt\.ca: \S+ is not there"):
        read_config(here)
    for command in commands:
        words = [f"{tmp_path}{word}" if word.startswith("/") else word for word in command.split()]
        made = CliRunner().invoke(main, [*words, "--config", str(here)])
        assert made.exit_code == 0, made.output
    (tmp_path / "etc/footfall/firebase.json").write_text("{}")
    config = read_config(here)
    assert config.folder == tmp_path / "var/lib/footfall"
    for file in re.findall(r"/etc/mosquitto/footfall/(s\S+)", (ROOT / MOSQUITTO).read_text()):
        assert (tmp_path / "etc/mosquitto/footfall" / file).is_file()
    certificate = x509.load_pem_x509_certificate(
        (tmp_path / "etc/mosquitto/footfall/server.pem").read_bytes()
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [config.mqtt.host]
    assert f"http://{config.http.host}:{config.http.port}/api/" in section


def test_the_page_of_every_call_is_what_the_code_says():
    said = (ROOT / "docs/calls.md").read_text("utf-8")
    assert said == openapi.calls(server.document()), "`make docs` writes it afresh"


def roles() -> dict[str, str]:
    """The least role of each call, as `GET /api/stores`."""
    paths = server.document()["paths"]
    return {
        f"{method.upper()} {path}": operation["x-role"]
        for path, methods in paths.items()
        for method, operation in methods.items()
        if "x-role" in operation
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_where_a_page_says_who_may_call_it_is_so(page):
    known = roles()
    said = re.findall(
        r"`([A-Z]+ /api/[^`?]+)(?:\?[^`]*)?` \((viewer|marketer|operator|admin)\)", page.read_text()
    )
    assert [(call, role) for call, role in said if known[call] != role] == []


BRIDGE = ROOT / "docs/bridge.md"


def bridge_paths() -> set[str]:
    app = web.Application()
    Bridge(MemoryJournal(), ListedSources(SOURCES), lambda: 0).add_to(app)
    return {resource.canonical.rstrip("/") for resource in app.router.resources()}


def test_every_path_of_the_bridge_is_documented_and_no_other():
    table = BRIDGE.read_text("utf-8").partition("## Every path")[2]
    told = re.findall(r"`(?:(?:GET|POST) )?(/[\w/{}.]*)(?:\?[^`]*)?`", table)
    assert sorted(told) == sorted(bridge_paths())


def curl_examples() -> list[tuple[str, str]]:
    """(path, body) of each `curl` in the page."""
    text = BRIDGE.read_text("utf-8").replace("…", "1")
    return re.findall(r"^curl -u \S+ https://[\w.]+(/\S+) -d '([^']*)'", text, re.MULTILINE)


async def test_the_bridge_takes_what_the_page_shows():
    examples = curl_examples()
    shown = {"/v1/devices", "/v1/devices/logout", "/v1/push/received", "/v1/push/opened", "/v1/consent"}
    shown |= {"/v1/beacons", "/v1/geofences", "/v1/location"}
    assert {path for path, _ in examples} == shown
    async with running_bridge() as bridge, aiohttp.ClientSession() as http:
        bridge.places.keys = frozenset(
            {
                "ibeacon:f7826da6-4fa2-4e98-8024-bc5b71e0893e:100:1",
                "ibeacon:f7826da6-4fa2-4e98-8024-bc5b71e0893e",
            }
        )
        headers = {**bridge.basic("app-key"), "Content-Type": "application/x-www-form-urlencoded"}  # curl's
        for path, body in examples:
            async with http.post(bridge.url + path, data=body, headers=headers) as answer:
                assert answer.status == 200, (path, await answer.text())
    assert [event.kind for event in bridge.journal.events] == [
        "device", "logout", "push_receipt", "push_receipt", "consent", "beacon_sighting", "beacon_sighting",
        "fence_transition", "location",
    ]  # fmt: skip


async def test_the_pages_client_sends_what_it_shows(tmp_path):
    section = BRIDGE.read_text("utf-8").partition("\n## BridgeClient")[2].partition("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    async with running_bridge() as bridge:
        bridge.places.keys = frozenset({"ibeacon:f7826da6-4fa2-4e98-8024-bc5b71e0893e:100:1"})
        here: dict[str, object] = {}
        exec(code.replace("https://bridge.shop.example", bridge.url).replace("ffw_…", "app-key"), here)  # noqa: S102
        await here["run"](tmp_path)
    assert [event.kind for event in bridge.journal.events] == [
        "identify", "device", "consent", "track", "beacon_sighting",
    ]  # fmt: skip
    told = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert all(hasattr(BridgeClient("", "", None), name) for name in told)


def test_the_pages_proof_of_a_user_is_ours():
    text = BRIDGE.read_text("utf-8")
    source = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "hmac" in code)
    made: dict = {}
    exec(source, made)  # noqa: S102 - our own page
    assert made["user_hash"]("secret", "4711") == user_hash("secret", "4711")
    assert f"`{user_hash('secret', '4711')}`" in text


def test_the_pages_limits_are_the_bridges():
    table = BRIDGE.read_text("utf-8").partition("## Limits")[2].partition("\n## ")[0]
    for limit in (
        f"{bodies.MAX_EVENT_BYTES // 1024} KB, {bodies.MAX_DEPTH} levels",
        f"{bodies.MAX_BATCH_BYTES // 1024} KB, packed",
        f"{bodies.MAX_BATCH_EVENTS:,} events",
        f"{Rate().per_second:,.0f} events a second in the long run, {Rate().burst:,.0f} at once",
        f"sightings or transitions in a call | {calls.MAX_PARTS} |",
    ):
        assert limit in table


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_text_exist(page):
    named = re.findall(
        r"`((?:gateway|backend|sdk_bridge|simulators|firmware_configs)/[\w/.-]*)`", page.read_text()
    )
    assert not [name for name in named if not (ROOT / name).exists()]
