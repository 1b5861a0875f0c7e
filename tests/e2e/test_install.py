"""What a Pi installs, in an environment of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
UV = Path(sys.executable).parent / "uv"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def run(*command: str) -> str:
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT.parent
    )
    if "dns error" in finished.stderr or "Failed to fetch" in finished.stderr:
        pytest.skip("no package registry is reached from here, so nothing can be installed afresh")
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def gateway_only(tmp_path_factory) -> Path:
    if not UV.exists():
        pytest.skip("uv is not beside this Python; `make test` puts it there")
    environment = tmp_path_factory.mktemp("pi") / "venv"
    run(str(UV), "venv", "--quiet", "--python", sys.executable, str(environment))
    python = environment / "bin" / "python"
    source = tmp_path_factory.mktemp("source") / "footfall"  # a build leaves its own files beside the sources
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "node_modules", "*.egg-info"))
    run(str(UV), "pip", "install", "--quiet", "--python", str(python), f"{source}[gateway]")
    return environment


def test_a_gateway_brings_no_server_dependency(gateway_only):
    listed = json.loads(
        run(str(UV), "pip", "list", "--format", "json", "--python", str(gateway_only / "bin/python"))
    )
    names = {package["name"] for package in listed}
    assert {"bleak", "paho-mqtt", "msgspec"} <= names
    assert not names & {"aiohttp", "firebase-admin", "sqlite-utils", "asyncpg", "numpy"}


def test_the_gateway_imports_and_its_command_answers(gateway_only):
    assert (
        run(str(gateway_only / "bin/python"), "-c", "import gateway.app; print('imported')") == "imported\n"
    )
    assert "run" in run(str(gateway_only / "bin/footfall-gateway"), "--help")
    run(str(gateway_only / "bin/python"), "-c", "import gateway.cli")


def test_the_wheel_leaves_tests_out_and_takes_queries_along(gateway_only):
    site = run(
        str(gateway_only / "bin/python"),
        "-c",
        "import gateway, pathlib; print(pathlib.Path(gateway.__file__).parent.parent)",
    )
    installed = Path(site.strip())
    assert not (installed / "tests").exists()
    assert (installed / "backend/storage/sqlite/state/0001_first.sql").exists()
    assert (installed / "backend/dashboard/floor.html").exists()
    assert (installed / "sdk_bridge/wire/vectors").is_dir()


@pytest.mark.parametrize(
    ("command", "extra"), [("footfall-backend", "backend"), ("footfall-sim", "simulators")]
)
def test_a_command_without_its_part_says_how_to_get_it(gateway_only, command, extra):
    finished = subprocess.run(
        [gateway_only / "bin" / command, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert f"pip install 'footfall[{extra}]'" in finished.stderr
