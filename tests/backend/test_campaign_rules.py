"""Who gets an offer, or why not; calendar days; what a definition may be; templates that are filled in."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.campaigns.eligibility import (
    SEND,
    PersonFacts,
    SendFacts,
    day_bounds,
    decide,
    recheck,
    time_zone,
)
from backend.campaigns.model import MAX_BODY, MAX_TITLE, CampaignInvalid, Offer, parse_campaign
from backend.campaigns.offers import OfferUnrenderable, render

NOW = 1_750_075_200_000
HOUR = 3_600_000


def definition(**changed) -> dict:
    whole = {
        "campaign_id": "c1",
        "name": "Coffee",
        "trigger": {"type": "zone_dwelt", "store_id": "s1", "zone_id": "a", "dwell_s": 5},
        "offer": {"title": "Hello", "body": "Coffee is half price", "life_s": 300},
        "guardrails": {"max_total": 2, "max_per_day": 3, "cooldown_s": 3600},
        "state": "live",
    }
    for path, value in changed.items():
        *parents, last = path.split("__")
        target = whole
        for parent in parents:
            target = target[parent]
        target[last] = value
    return whole


def campaign(**changed):
    return parse_campaign(msgspec.json.encode(definition(**changed)))


def person(**changed) -> PersonFacts:
    return PersonFacts(**{"consents": {"proximity": True, "push": True}, "addresses": 1, **changed})


# Eligibility ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "chosen", "who", "now", "reason"),
    [
        ("nothing speaks against it", {}, {}, NOW, None),
        ("at the last moment of the offer", {}, {}, NOW + 300_000, None),
        ("the moment has passed", {}, {}, NOW + 300_001, "moment passed"),
        ("a draft", {"state": "draft"}, {}, NOW, "campaign is draft"),
        ("paused", {"state": "paused"}, {}, NOW, "campaign is paused"),
        ("never asked", {}, {"consents": {}}, NOW, "no consent: proximity"),
        ("no pushes", {}, {"consents": {"proximity": True, "push": False}}, NOW, "no consent: push"),
        ("nowhere to send it", {}, {"addresses": 0}, NOW, "no push address"),
        ("just got it", {}, {"sent_by_campaign": [NOW - HOUR + 1]}, NOW, "cooldown"),
        ("cooled down", {}, {"sent_by_campaign": [NOW - HOUR]}, NOW, None),
        ("the newest counts", {}, {"sent_by_campaign": [NOW - 1]}, NOW, "cooldown"),
        ("had it as often as it may", {}, {"sent_by_campaign": [NOW - 9 * HOUR] * 2}, NOW, "cap: total"),
        ("had enough for a day", {}, {"sent_today": 3}, NOW, "cap: day"),
        ("one more may be", {}, {"sent_today": 2}, NOW, None),
        ("the first objection is told", {"state": "ended"}, {"addresses": 0}, NOW, "campaign is ended"),
        (
            "purposes are the campaign's own",
            {"guardrails__consent": ["newsletter"]},
            {"consents": {"proximity": True, "push": True}},
            NOW,
            "no consent: newsletter",
        ),
    ],
)
def test_decisions(why, chosen, who, now, reason):
    decision = decide(campaign(**chosen), person(**who), now, dwelt_at=NOW)
    assert decision.sends is (reason is None), why
    assert decision.reason == (reason or SEND.reason)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"in_zone": False}, "left the zone"),
        ({"owns_address": False}, "address has another owner"),
        ({"consents": {"push": False}}, "no consent: push"),
    ],
)
def test_what_is_asked_again_at_the_moment_of_sending(facts, reason):
    holding = {"consents": {"push": True}, "owns_address": True, "in_zone": True}
    assert recheck(campaign(), SendFacts(**{**holding, **facts})) == reason


@pytest.mark.parametrize("chosen", [None, "draft", "paused", "ended"])
def test_a_campaign_that_was_stopped_sends_nothing_more(chosen):
    stopped = None if chosen is None else campaign(state=chosen)
    assert recheck(stopped, SendFacts({}, True, True)) == "campaign is no longer live"


# Days -----------------------------------------------------------------------------------------------------

ZONES = [
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "America/Havana",  # midnight happens twice, or not at all
    "America/Santiago",
    "Africa/Cairo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # half an hour of DST
    "Pacific/Apia",  # left out a whole day
]


def ms(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(
    ("moment", "zone", "hours"),
    [
        ("2025-06-16T12:00", "Europe/Vienna", 24),
        ("2025-03-30T12:00", "Europe/Vienna", 23),
        ("2025-10-26T00:30", "Europe/Vienna", 25),
        ("2025-10-26T23:59", "Europe/Vienna", 25),
        ("2025-03-09T12:00", "America/Havana", 23),
        ("2025-11-02T12:00", "America/Havana", 25),
        ("2025-04-06T12:00", "Australia/Lord_Howe", 24.5),
    ],
)
def test_a_day_is_as_long_as_the_calendar_says(moment, zone, hours):
    start, end = day_bounds(ms(moment, zone), ZoneInfo(zone))
    assert end - start == hours * HOUR
    assert start <= ms(moment, zone) < end


@given(st.integers(0, 4_000_000_000_000), st.sampled_from(ZONES))
def test_days_follow_each_other_without_gap_or_overlap(now, name):
    zone = ZoneInfo(name)
    start, end = day_bounds(now, zone)
    assert start <= now < end
    assert day_bounds(end, zone)[0] == end
    assert day_bounds(start - 1, zone)[1] == start
    days = {datetime.fromtimestamp(at / 1000, zone).date() for at in (start, now, end - 1)}
    assert len(days) == 1
    assert timedelta(hours=22) <= timedelta(milliseconds=end - start) <= timedelta(hours=26)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("Asia/Tokyo", "Europe/Vienna"), "Asia/Tokyo"),
        ((None, "Europe/Vienna"), "Europe/Vienna"),
        (("Mars/Olympus", "Europe/Vienna"), "Europe/Vienna"),
        (("../../etc/passwd", "Europe/Vienna"), "Europe/Vienna"),
        (("Europe", "Europe/Vienna"), "Europe/Vienna"),
        (("", None), "UTC"),
        ((7, ["x"], {}), "UTC"),
        (("\0", "x" * 5000), "UTC"),
    ],
)
def test_the_persons_time_zone_then_the_stores(names, chosen):
    assert time_zone(*names).key == chosen


def test_the_day_depends_on_where_the_person_is():
    now = ms("2025-06-16T23:30", "UTC")
    assert day_bounds(now, ZoneInfo("Asia/Tokyo"))[0] == ms("2025-06-17T00:00", "Asia/Tokyo")
    assert day_bounds(now, ZoneInfo("UTC"))[0] == int(datetime(2025, 6, 16, tzinfo=UTC).timestamp() * 1000)


# Definitions ----------------------------------------------------------------------------------------------


def test_a_definition_comes_back_as_it_was_written():
    written = campaign()
    assert parse_campaign(msgspec.json.encode(written)) == written


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"offer__titel": "x"}, "titel"),
        ({"trigger__type": "geofence"}, "trigger"),
        ({"trigger__dwell_s": -1}, "dwell_s"),
        ({"trigger__zone_id": "a/b"}, "zone_id"),
        ({"campaign_id": "../c"}, "campaign_id"),
        ({"guardrails__max_per_day": 0}, "max_per_day"),
        ({"offer__life_s": 1}, "life_s"),
        ({"offer__title": ""}, "title"),
        ({"offer__title": "{{ unclosed"}, "offer.title"),
        ({"offer__body": "{% for x in y %}"}, "offer.body"),
        ({"offer__body": "{% include 'x' %}{% if %}"}, "offer.body"),
        ({"state": "running"}, "state"),
        ({"guardrails__consent": [""]}, "consent"),
    ],
)
def test_a_mistake_is_named(changed, named):
    with pytest.raises(CampaignInvalid, match=named):
        parse_campaign(msgspec.json.encode(definition(**changed)))


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"campaign_id": ' + b"[" * 100_000]
)
def test_bytes_that_are_no_campaign(body):
    with pytest.raises(CampaignInvalid):
        parse_campaign(body)


@pytest.mark.parametrize(
    "block", ["{% if a %}", "{% for x in y %}", "{% case x %}", "{% capture x %}", "{{ x | append: "]
)
def test_templates_nested_without_end_are_refused(block):
    with pytest.raises(CampaignInvalid):
        campaign(offer__body=block * (4000 // len(block)))


# Templates ------------------------------------------------------------------------------------------------

FACTS = {
    "profile": {"name": "Anna", "list": list(range(2000))},
    "zone": {"id": "a", "name": "Coffee"},
    "store": {"name": "Shop"},
    "campaign": {"id": "c1", "name": "C"},
}


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Hello {{ profile.name }}", "Hello Anna"),
        ("{{ zone.name }} in {{ store.name }}", "Coffee in Shop"),
        ("Hello {{ profile.first_name | default: 'you' }}", "Hello you"),
        ("{% if profile.name == 'Anna' %}Yes{% endif %}", "Yes"),
        ("x" * 900, "x" * MAX_TITLE),
        ("  Hello  ", "Hello"),
    ],
)
def test_titles_are_filled_in(title, expected):
    assert render(Offer(title, "body"), FACTS)[0] == expected


def test_bodies_are_cut_to_what_a_phone_shows():
    body = "{% for x in profile.list limit: 100 %}buy three, pay for two; {% endfor %}"
    assert render(Offer("t", body), FACTS)[1] == ("buy three, pay for two; " * 100)[:MAX_BODY]


@pytest.mark.parametrize(
    "body",
    [
        "{{ profile.nothing }}",
        "   {% comment %} nothing {% endcomment %} ",
        "{{ 'a' | no_such_filter }}",
        "{{ 1 | divided_by: 0 }}",
        "{% for x in (1..999999999) %}x{% endfor %}",
        "{% for a in profile.list %}{% for b in profile.list %}x{% endfor %}{% endfor %}",
        "{% assign x = 'abcdefgh' %}{% for a in (1..60) %}{% assign x = x | append: x %}{% endfor %}{{ x }}",
        "{% include 'secrets' %}",
        "{% render 'secrets' %}",
    ],
)
def test_templates_that_come_to_nothing_or_never_end_are_told(body):
    with pytest.raises(OfferUnrenderable):
        render(Offer("title", body), FACTS)


@pytest.mark.parametrize("name", ["__class__", "items", "__init__.__globals__", "name.__class__.__mro__"])
def test_templates_see_values_not_python(name):
    with pytest.raises(OfferUnrenderable):
        render(Offer("title", f"{{{{ profile.{name} }}}}"), FACTS)
