"""The shape of the tree: who may import what, what may stand in files, and what the locks carry."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gateway", "backend", "sdk_bridge", "firmware_configs", "simulators")
# In a second worktree .git is a file.
MADE_ELSEWHERE = {".git", "node_modules", "__pycache__", "build", "dist", "demo-data"}


def files() -> Iterator[Path]:
    """Every file that belongs to the project; hidden folders are tools' own, save for .ci."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = filter(_is_ours, folders)  # never into an environment of fifty thousand files
        yield from (Path(folder, name) for name in names if name not in MADE_ELSEWHERE)


def _is_ours(folder: str) -> bool:
    hidden = folder.startswith(".") and folder != ".ci"
    return not (hidden or folder in MADE_ELSEWHERE or folder.endswith(".egg-info"))


FILES = sorted(files())
SOURCES = [
    path
    for path in FILES
    if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in (*PACKAGES, "tests", "benchmarks")
]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def facts(path: Path) -> tuple[str | None, frozenset[str]]:
    """A source's docstring and the packages that it imports; read once, for ten tests ask."""
    tree, modules = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
    return ast.get_docstring(tree), frozenset(module.split(".")[0] for module in modules)


def imported(path: Path) -> frozenset[str]:
    return facts(path)[1]


def texts() -> Iterator[tuple[str, str]]:
    for path in FILES:
        try:
            yield name(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture


# Written so that this file does not find itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.<])/(?:" + "|".join(["work", "root", r"home/\w+", r"Users/\w+", "tmp"]) + r")/"
)
REGISTRY = re.compile(
    "|".join(
        map(
            re.escape,
            ["pypi" + ".org", "python" + "hosted", "npmjs" + ".org", "yarnpkg" + ".com", "--index" + "-url"],
        )
    )
)


def test_the_tree_was_found():
    assert len(FILES) > 100
    assert len(SOURCES) > 50
    assert len(LOCKS) >= 4


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        pytest.param(MACHINE_PATH, "a path of somebody's machine", id="machine path"),
        pytest.param(REGISTRY, "the address of a registry", id="registry"),
    ],
)
def test_no_file_names(pattern, what):
    found = [
        f"{where}:{text[: match.start()].count(chr(10)) + 1}: {match[0]}"
        for where, text in texts()
        for match in pattern.finditer(text)
    ]
    assert found == [], f"{what} stands in the tree"


# --- what belongs where


@pytest.mark.parametrize(
    "path",
    [
        *(
            "gateway/scanner.py",
            "gateway/beacons.py",
            "gateway/presence.py",
            "gateway/outbox.py",
            "gateway/uplink.py",
        ),
        *("backend/profiles", "backend/proximity", "backend/campaigns", "backend/push", "backend/storage"),
        *("backend/api", "backend/dashboard"),
        *("backend/ingest.py", "backend/fold.py", "backend/app.py", "backend/config.py"),
        *("sdk_bridge/wire/vectors", "sdk_bridge/mqtt.py", "sdk_bridge/server"),
        *("firmware_configs", "simulators", "tests", "docs", "benchmarks", ".ci/run", "Makefile"),
    ],
)
def test_the_tree_has_what_the_architecture_names(path):
    assert (ROOT / path).exists()


def test_every_source_begins_by_saying_its_job():
    silent = [name(path) for path in SOURCES if path.stat().st_size and facts(path)[0] is None]
    assert silent == []


def test_test_files_have_names_of_their_own():
    """Two of one name in different folders are confused in reports."""
    names = [path.name for path in SOURCES if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("paho", r"sdk_bridge/mqtt\.py"),
        ("bleak", r"gateway/(scanner|bluez\w*)\.py"),
        ("dbus_fast", r"gateway/bluez\w*\.py|simulators/\w+\.py"),
        ("firebase_admin", r"backend/push/(fcm|message)\.py"),
        ("sqlite3", r"backend/storage/.*|gateway/outbox\.py|sdk_bridge/client\.py"),
        ("aiosql", r"backend/storage/.*"),
        ("sqlite_utils", r"backend/storage/.*"),
        ("asyncpg", r"backend/storage/.*"),
        ("iotcore", r"simulators/broker\.py"),
    ],
)
def test_each_outside_dependency_is_known_in_one_place(module, allowed):
    strangers = [
        name(path)
        for path in SOURCES
        if name(path).startswith(PACKAGES)
        and module in imported(path)
        and not re.fullmatch(allowed, name(path))
    ]
    assert strangers == []


def test_nothing_but_tests_imports_the_testers_tools():
    for path in SOURCES:
        if name(path).startswith(PACKAGES):
            assert not imported(path) & {"pytest", "hypothesis", "tests"}, name(path)


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        (
            "gateway.app",
            {"backend", "simulators", "aiohttp", "uvloop", "firebase_admin", "aiosql"},
        ),
        ("sdk_bridge.wire.codec", {"paho", "structlog", "aiohttp", "gateway", "backend"}),
        ("firmware_configs", {"msgspec", "simulators", "gateway", "backend", "cryptography"}),
    ],
)
def test_a_program_loads_no_more_than_its_own(program, unwanted):
    code = f"import sys, json, {program}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert unwanted.isdisjoint(json.loads(done.stdout))


# --- locks


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_locks_carry_hashes_and_no_address(lock):
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--(?!hash)\w)", text, re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    for entry in entries:
        pinned, *hashes = [line.strip().removesuffix("\\").strip() for line in entry.splitlines()]
        assert re.fullmatch(r"[a-zA-Z0-9._\[\]-]+==[^\s@]+( ; .+)?", pinned), pinned
        assert hashes, pinned
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), pinned


def test_the_gateway_installs_no_server():
    locked = {line.split("==")[0] for line in (ROOT / "requirements/gateway.txt").read_text().splitlines()}
    assert "bleak" in locked
    assert not locked & {
        "aiohttp",
        "uvloop",
        "firebase-admin",
        "aiosql",
        "sqlite-utils",
        "iotcore",
    }


@pytest.mark.skipif(
    not any(path.name == "package-lock.json" for path in FILES), reason="there is no npm lock"
)
def test_npm_locks_carry_no_address():
    for path in FILES:
        if path.name == "package-lock.json":
            assert '"resolved"' not in path.read_text(encoding="utf-8"), name(path)
