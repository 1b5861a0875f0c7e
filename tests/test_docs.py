"""Documentation is held to the code: settings, routes and files it names exist, and none is missing."""

import re
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from backend.api import campaigns, fleet, floor, people, setup
from backend.config import Config

ROOT = Path(__file__).parent.parent
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


def test_every_route_of_the_api_is_documented():
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    routes: list[web.RouteDef] = [
        *floor.PUBLIC_ROUTES,
        *floor.ROUTES,
        *setup.ROUTES,
        *campaigns.ROUTES,
        *people.ROUTES,
        *fleet.PUBLIC_ROUTES,
        *fleet.ROUTES,
    ]
    missing = [route.path for route in routes if route.path.replace("{who}", "{type}:{id}") not in text]
    assert not missing


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
