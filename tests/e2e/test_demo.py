"""The whole product as real processes, with and without kill -9."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def run_demo(tmp_path: Path, *arguments: str) -> dict:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "simulators.cli", "demo", "--json", str(out), "--seed", "7"]
    command += ["--folder", str(tmp_path / "demo"), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(out.read_text("utf-8"))


def test_people_walk_up_to_a_shelf_and_their_phones_get_the_offer(tmp_path):
    figures = run_demo(tmp_path, "--seconds", "20")
    assert figures["pushes_accepted"] > 0
    assert figures["pushes_opened"] > 0
    assert figures["pushes_unknown"] == 0
    assert figures["forgotten_without_consent"] > 0  # some said no, and were counted and forgotten
    assert figures["eid_unresolved"] > 0  # a stranger's rotating ids pass the gateways, and end at the ingest
    kept, unnamed = figures["sightings_committed"], figures["eid_unresolved"]
    assert figures["adverts"] == kept + figures["forgotten_without_consent"] + unnamed
    assert (figures["lost"], figures["duplicates"]) == (0, 0)
    assert figures["pushes_accepted"] == figures["delivered_by_fcm"]


def test_sigkill_of_backend_broker_and_gateway_loses_and_doubles_nothing(tmp_path):
    figures = run_demo(tmp_path, "--seconds", "30", "--chaos")
    assert figures["pushes_accepted"] > 0
    assert figures["pushes_opened"] > 0
    assert (figures["lost"], figures["duplicates"]) == (0, 0)
