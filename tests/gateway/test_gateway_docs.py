"""The gateway page of the documentation is held to the code: every key, verdict, command and status part."""

import re
from pathlib import Path

import gateway
from gateway.cli import app
from gateway.config import KEYS
from gateway.doctor import FINDINGS
from gateway.status import GatewayStatus

TEXT = (Path(gateway.__file__).parent.parent / "docs" / "gateway.md").read_text("utf-8")


def section(title):
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_key_stands_there_exactly_as_the_program_has_it():
    rows = [line for line in section("Configuration").splitlines() if line.startswith("| `")]
    expected = []
    for key in KEYS:
        default = "required" if key.required else "not set" if key.default is None else f"`{key.default!r}`"
        expected.append(f"| `{key.name}` | {key.meaning} | {key.may_be} | {default} |")
    assert rows == expected


def test_every_verdict_stands_there_with_its_words_and_its_fix():
    rows = [line for line in section("What the doctor says").splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{name}` | {finding.level} | {finding.says} | {finding.remedy.replace('|', chr(92) + '|')} |"
        for name, finding in FINDINGS.items()
    ]


def test_every_command_is_named():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"^\| `footfall-gateway (\w+)", TEXT, re.MULTILINE))
    assert named == commands


def test_every_part_of_the_status_is_named():
    named = set(re.findall(r"`(\w+)`", section("Status")))
    assert set(GatewayStatus.__struct_fields__) <= named
