"""Mistakes that were made once: what a stranger or a marketer sent, and what must not come of it."""

import subprocess
import sys
import time
from zoneinfo import ZoneInfo

import msgspec
import pytest

from backend.campaigns.eligibility import Moment, PersonFacts, decide
from backend.campaigns.model import CampaignInvalid, Offer, parse_campaign
from backend.campaigns.offers import OfferUnrenderable, render
from sdk_bridge.wire.messages import Batch, Readings

NOON_MS = 1_750_075_200_000  # 16 June 2025, 12:00 UTC

FACTS = {"profile": {"name": "Ada"}, "zone": {}, "store": {}, "campaign": {}}


def campaign(body):
    return {
        "campaign_id": "c1",
        "name": "Coffee",
        "trigger": {"type": "zone_dwelt", "store_id": "s1", "zone_id": "a", "dwell_s": 5},
        "offer": {"title": "Hello", "body": body},
        "state": "live",
    }


@pytest.mark.parametrize(
    "body",
    [
        "{{ (1..100000000) | join: ',' }}",
        "{{ (1..300000000) | sum }}",
        "{% if (1..999999999999999) contains 'x' %}a{% endif %}b",
        "{% if true %}{% for i in (1..9999999999) offset:9999999990 %}{{ i }}{% endfor %}{% endif %}",
        "{% assign n = 99999999 %}{{ (1..n) | reverse | size }}",
        "{% case 'a' %}{% when 'a' %}{% assign r = (0..100000000) %}{% endcase %}b",
        "{% include '/etc/passwd' %}",
        "{% render 'offer' %}",
    ],
)
def test_templates_without_end_or_with_files_are_refused_when_they_are_saved(body):
    with pytest.raises(CampaignInvalid, match=r"^offer\.body: "):
        parse_campaign(msgspec.json.encode(campaign(body)))


@pytest.mark.parametrize(
    "body",
    [
        "{{ '1e999999' | round }}",  # an OverflowError, which once cost the whole batch that it came with
        "{% assign a = '" + "a" * 1200 + "' %}{{ a | replace: 'a', a | replace: 'a', a | size }}",
        "{% assign x = 'ab' %}{% for i in (1..60) %}{% assign x = x | append: x %}{% endfor %}{{ x | size }}",
        "{% assign x = 'a,b' | split: ',' %}{% for i in (1..60) %}{% assign x = x | concat: x %}{% endfor %}",
        "{% assign x = 9999 %}{% for i in (1..60) %}{% assign x = x | times: x %}{% endfor %}{{ x }}",
        "{% for i in (1..100) %}{% for j in (1..100) %}x{% endfor %}{% endfor %}",
        "{{ 'now' | date: '" + "%c" * 1900 + "' }}",
    ],
)
def test_templates_that_grow_end_at_once_with_a_reason(body):
    parse_campaign(msgspec.json.encode(campaign(body)))
    began = time.monotonic()
    with pytest.raises(OfferUnrenderable, match=r"."):
        render(Offer("t", body), FACTS)
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("purposes", [[], ["mail"], ["push"]])
def test_no_campaign_leaves_out_what_is_always_asked(purposes):
    chosen = parse_campaign(msgspec.json.encode({**campaign("b"), "guardrails": {"consent": purposes}}))
    agreed = dict.fromkeys(["mail", "proximity", "push"], True)
    for purpose in ("proximity", "push"):
        person = PersonFacts("p", {**agreed, purpose: False}, 1, ZoneInfo("UTC"))
        assert decide(chosen, person, 1, Moment(1)).reason == f"no consent: {purpose}"
    assert decide(chosen, PersonFacts("p", agreed, 1, ZoneInfo("UTC")), NOON_MS, Moment(NOON_MS)).sends


def test_a_campaign_asks_for_a_handful_of_purposes():
    with pytest.raises(CampaignInvalid, match="consent"):
        parse_campaign(msgspec.json.encode({**campaign("b"), "guardrails": {"consent": ["x"] * 17}}))


def test_a_short_range_may_be_walked():
    assert render(Offer("t", "{% for i in (1..3) %}{{ i }} {% endfor %}"), FACTS).body == "1 2 3"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ('data_dir = "/dev/null/data"', "data_dir: "),
        ('data_dir = "{here}/data"\n[http]\nhost = "no.such.host.invalid"', "http.host, http.port: "),
        (
            'data_dir = "{here}/data"\n[push]\nservice_account = "{here}/backend.toml"',
            "push.service_account: ",
        ),
    ],
)
def test_what_only_starting_shows_is_told_with_file_and_key(tmp_path, settings, line):
    path = tmp_path / "backend.toml"
    path.write_text(settings.replace("{here}", str(tmp_path)))
    command = [sys.executable, "-m", "backend", "serve", "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"{path}: {line}"), ended.stderr


async def test_what_was_long_under_way_brings_no_offer_to_someone_who_left(live_shop):
    """An outage later, a gateway repeats what it had sent: a dwell in that is history."""
    shop, ann, bob = live_shop, f"altbeacon:{1:040}", f"altbeacon:{2:040}"
    await shop.campaign(dwell_s=2)
    await shop.person("ann", ann)
    await shop.person("bob", bob)
    await shop.folded()
    minute_ago = shop.clock() - 60_000
    for second in range(8):
        base = minute_ago + second * 1000
        await shop.append(Batch("", base, [ann], Readings([0], [0], [1], [60], [60])))
    await shop.hear(bob, seconds=6)
    await shop.folded()
    assert await shop.column(
        "select json_extract(value, '$') from traits where profile_id in (select profile_id from decisions)"
    ) == ["bob"]
