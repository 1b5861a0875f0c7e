"""docs/campaigns.md is held to the code: triggers, settings, reasons, states and examples."""

import inspect
import re
from pathlib import Path
from typing import get_args

import msgspec

from backend.campaigns import eligibility, model
from backend.campaigns.examples import examples
from backend.campaigns.model import Guardrails, Trigger, parse_campaign
from backend.folding import offers as offer_part
from backend.storage import offers

PAGE = (Path(__file__).parent.parent.parent / "docs/campaigns.md").read_text("utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(title: str) -> list[str]:
    cells = re.findall(r"^\| (`[^|]*) \|", section(title), re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_trigger_is_told_with_all_its_own_settings():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", section("Triggers"), re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows}
    kinds = {kind.__struct_config__.tag: set(kind.__struct_fields__) for kind in get_args(Trigger)}
    assert told == kinds


def test_every_guardrail_is_told_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section("Guardrails"), re.MULTILINE)
    assert [name for name, _ in rows] == list(Guardrails.__struct_fields__)
    numbers = {name: default for name, default in rows if default.isdigit()}
    assert numbers == {name: str(getattr(Guardrails(), name)) for name in numbers}
    assert len(numbers) >= 6


def test_every_reason_is_told_and_no_other():
    code = inspect.getsource(eligibility) + inspect.getsource(offer_part) + inspect.getsource(offers)
    told = [
        *first_column("Why somebody got nothing"),
        "holdout",
        "no longer there",
        "address has another owner",
    ]
    for reason in told:
        assert f'"{reason.rstrip(":")}' in code, reason
    judged = inspect.getsource(eligibility.judge) + inspect.getsource(eligibility._caps)
    given = {found.split("{")[0].strip() for found in re.findall(r', f?"([^"]+)"\)', judged)}
    assert given <= set(told)
    assert len(given) >= 10


def test_states_in_their_order():
    chain = re.match(r"\n?(`[^.]*)\.", section("States"))
    assert chain is not None
    assert tuple(re.findall(r"`(\w+)`", chain[1])) == get_args(model.State)


def test_the_pages_campaign_may_be_saved():
    [body] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert parse_campaign(body.encode()).state == "draft"


def test_the_examples_are_those_that_are_shipped():
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \|", section("Examples"), re.MULTILINE)
    shipped = {
        one.campaign.campaign_id: msgspec.to_builtins(one.campaign.trigger)["type"] for one in examples()
    }
    assert dict(rows) == shipped
