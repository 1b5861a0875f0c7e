"""What makes a Pi a gateway: unit, polkit and udev rules, judged by the programs that read them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import firmware_configs

IMAGE = Path(firmware_configs.__file__).with_name("gateway_image")
UNIT = IMAGE / "footfall-gateway.service"
POLKIT = IMAGE / "50-footfall-bluetooth.rules"
UDEV = IMAGE / "70-footfall-adapter.rules"
SYSUSERS = IMAGE / "footfall-sysusers.conf"
DOCUMENT = IMAGE.parent.parent / "docs" / "gateway.md"
MOST_EXPOSURE = 1.7  # of 10, by systemd's own reckoning; what is left is the network, D-Bus and /proc/sys


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def settings():
    """The unit's settings; one that stands more than once is a list."""
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    told: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition("=")
        told.setdefault(name, []).append(value)
    return told


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_the_service_hardly_exposed(tmp_path):
    path = tmp_path / UNIT.name
    path.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(path))
    if "Overall exposure level" not in done.stdout:
        pytest.skip(f"this systemd-analyze judges no files: {done.stderr.strip()[:200]}")
    exposure = float(re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)[1])
    assert exposure <= MOST_EXPOSURE, done.stdout


def test_the_service_is_nobody_special():
    told = settings()
    assert told["User"] == ["footfall"] and told["NoNewPrivileges"] == ["yes"]
    assert told["CapabilityBoundingSet"] == told["AmbientCapabilities"] == [""]
    assert told["ProtectSystem"] == ["strict"] and told["StateDirectory"] == ["footfall"]
    assert (
        float(told["WatchdogSec"][0]) >= 30 and told["Type"] == ["notify"] and told["Restart"] == ["always"]
    )


def test_the_service_can_still_read_what_its_clock_needs():
    """ProtectClock and ProcSubset would make every clock look unset, and every process another boot."""
    told = settings()
    assert "ProtectClock" not in told and "ProcSubset" not in told
    assert {"adjtimex", "clock_adjtime"} <= set(told["SystemCallFilter"][-1].split())


# --- polkit


PROBE = """
const rules = [];
const polkit = { Result: { YES: "yes" }, addRule: (rule) => rules.push(rule) };
const script = require("fs").readFileSync(process.argv[1], "utf8");
new Function("polkit", script)(polkit);
const [id, unit, verb, user] = process.argv.slice(2);
const action = { id, lookup: (name) => ({ unit, verb })[name] };
console.log(JSON.stringify({ rules: rules.length, result: rules[0](action, { user }) ?? null }));
"""
MANAGE = "org.freedesktop.systemd1.manage-units"


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript interpreter is installed")
@pytest.mark.parametrize(
    ("action", "unit", "verb", "user", "result"),
    [
        (MANAGE, "bluetooth.service", "restart", "footfall", "yes"),
        (MANAGE, "bluetooth.service", "stop", "footfall", None),
        (MANAGE, "bluetooth.service", "restart", "pi", None),
        (MANAGE, "ssh.service", "restart", "footfall", None),
        (MANAGE, "bluetooth.service.evil", "restart", "footfall", None),
        ("org.freedesktop.systemd1.manage-unit-files", "bluetooth.service", "restart", "footfall", None),
        ("org.freedesktop.login1.reboot", "bluetooth.service", "restart", "footfall", None),
    ],
)
def test_polkit_allows_one_thing_only(action, unit, verb, user, result):
    done = run("node", "-e", PROBE, str(POLKIT), action, unit, verb, user)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"rules": 1, "result": result}


# --- udev


MATCHES = {"ACTION", "SUBSYSTEM", "KERNEL", "ENV", "ATTR", "TEST"}
TOKEN = re.compile(r'([A-Z]+)(\{[\w/.]+\})?(==|!=|=|\+=|:=)"([^"]*)"')


def udev_rules():
    return [line for line in UDEV.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("rule", udev_rules())
def test_a_udev_rule_matches_first_and_sets_one_attribute(rule):
    tokens = [TOKEN.fullmatch(token.strip()) for token in rule.split(", ")]
    assert all(tokens), rule
    assert {token[1] for token in tokens} <= MATCHES
    assert [token[3] for token in tokens] == ["=="] * (len(tokens) - 1) + ["="]
    assert tokens[0][0] == 'ACTION=="add"' and tokens[-1][1] == "ATTR"


def test_udev_itself_accepts_the_rules():
    if shutil.which("udevadm") is None or run("udevadm", "verify", "--help").returncode != 0:
        pytest.skip("no udevadm that can verify rules (systemd 254) is installed")
    done = run("udevadm", "verify", "--no-summary", str(UDEV))
    assert done.returncode == 0, done.stderr


# --- together


def test_the_user_is_made_and_admitted_to_bluez():
    user, member = [line.split() for line in SYSUSERS.read_text().splitlines() if line[:1] not in ("#", "")]
    assert user[:2] == ["u", settings()["User"][0]] and user[-1].endswith("nologin")
    assert member == ["m", settings()["User"][0], *settings()["SupplementaryGroups"]]


@pytest.mark.parametrize("path", sorted(IMAGE.iterdir()), ids=lambda path: path.name)
def test_every_file_of_the_image_is_installed_by_the_guide(path):
    assert path.name in DOCUMENT.read_text("utf-8")
