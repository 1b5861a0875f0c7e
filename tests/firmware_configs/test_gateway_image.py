"""The gateway image's files, checked by the programs that will read them on the Pi."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import firmware_configs
from firmware_configs.beacon_profiles import load_profile, profile_names
from gateway import config
from gateway.beacons import IBeacon

IMAGE = Path(firmware_configs.__file__).with_name("gateway_image")
UNIT = (IMAGE / "footfall-gateway.service").read_text()


def example(tmp_path: Path) -> config.Config:
    """The example as on a Pi whose /etc and /var are this folder, with its section for other certificates."""
    for name in ("ca.pem", "gateway.pem", "gateway.key"):
        (tmp_path / name).touch()
    text = re.sub(r"^# (\[mqtt\]|\w+ = )", r"\1", (IMAGE / "gateway.toml").read_text(), flags=re.MULTILINE)
    path = tmp_path / "gateway.toml"
    path.write_text(text.replace("/etc/footfall", str(tmp_path)).replace("/var/lib/footfall", str(tmp_path)))
    return config.load(path)


def test_the_gateway_accepts_its_example_before_it_is_enrolled():
    """`enroll` reads it while there is neither a certificate nor a broker yet."""
    settings = config.load(IMAGE / "gateway.toml")
    assert settings.address.store == "berlin-mitte"
    assert settings.mqtt.host is None


def test_the_gateway_accepts_its_example_with_certificates_from_elsewhere(tmp_path):
    settings = example(tmp_path)
    assert settings.mqtt.host == "broker.berlin-mitte.example"
    assert settings.mqtt.tls.certificate == tmp_path / "gateway.pem"


def test_the_example_hears_every_zone_and_asset_beacon(tmp_path):
    allow = example(tmp_path).allow
    for name in profile_names():
        profile = load_profile(name)
        if profile.role == "tag":
            continue
        for uuid in profile.allowed()["ibeacon"]:
            assert allow.allows(IBeacon(bytes.fromhex(uuid.replace("-", "")), 1, 1, -59))
        for namespace in profile.allowed()["eddystone"]:
            assert bytes.fromhex(namespace) in allow.eddystone_namespaces


def test_the_examples_fixed_beacons_are_ones_it_lets_through(tmp_path):
    settings = example(tmp_path)
    zone_keys = {
        load_profile("zone-ibeacon").frames[0].key(1, 1),
        load_profile("zone-eddystone").frames[0].key(1),
    }
    assert settings.fixed_beacons == zone_keys


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit with programs that exist here, for systemd looks whether they do."""
    program = tmp_path / "footfall-gateway"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "footfall-gateway.service"
    path.write_text(UNIT.replace("/opt/footfall/bin/footfall-gateway", str(program)))
    return path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(unit):
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "footfall" in line]
    assert ours == []
    if done.returncode and not ours:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.strip()[:200]}")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_would_refuse_a_broken_unit(unit):
    unit.write_text(
        unit.read_text().replace("Type=notify", "Type=whenever").replace("ExecStart=", "ExecStrat=")
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "footfall-gateway.service" in done.stderr


def parsed_unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str
    parser.read_string(UNIT)
    return parser


def test_the_unit_starts_a_command_that_the_gateway_has():
    _program, *arguments = parsed_unit()["Service"]["ExecStart"].split()
    assert arguments[:2] == ["run", "--config"]
    shown = subprocess.run(
        [sys.executable, "-m", "gateway", arguments[0], "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "--config" in re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout)


def test_unit_rules_and_configuration_speak_of_the_same_things():
    service = parsed_unit()["Service"]
    rules = (IMAGE / "50-footfall-bluetooth.rules").read_text()
    text = (IMAGE / "gateway.toml").read_text()
    assert f'subject.user === "{service["User"]}"' in rules
    assert '"bluetooth.service"' in rules
    assert f'data_dir = "/var/lib/{service["StateDirectory"]}"' in text
    assert service["ExecStart"].split()[-1] in text
