"""Who gets an offer, or why not; calendar days; what a definition may be; templates that are filled in."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.campaigns.allocation import arm_of, variant_of
from backend.campaigns.eligibility import (
    Hold,
    Moment,
    PersonFacts,
    SendFacts,
    Stop,
    decide,
    judge,
    recheck,
)
from backend.campaigns.hours import QuietHours, day_bounds, time_zone, week_bounds
from backend.campaigns.model import MAX_BODY, MAX_LINK, MAX_TITLE, CampaignInvalid, Offer, parse_campaign
from backend.campaigns.offers import OfferUnrenderable, render
from backend.campaigns.uplift import Group, rate_of, uplift
from backend.segments.model import Filter
from backend.segments.values import passes_filter

NOW = 1_750_075_200_000
HOUR = 3_600_000
UTC_ZONE = ZoneInfo("UTC")


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
    usual = {
        "profile_id": "p1",
        "consents": {"proximity": True, "push": True},
        "addresses": 1,
        "zone": UTC_ZONE,
    }
    return PersonFacts(**{**usual, **changed})


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
        ("just got it", {}, {"offered": [NOW - HOUR + 1]}, NOW, "cooldown"),
        ("cooled down", {}, {"offered": [NOW - HOUR]}, NOW, None),
        ("the newest counts", {}, {"offered": [NOW - 1]}, NOW, "cooldown"),
        ("had it as often as it may", {}, {"offered": [NOW - 9 * HOUR] * 2}, NOW, "cap: total"),
        ("had enough for a day", {}, {"sent_today": 3}, NOW, "cap: day"),
        ("one more may be", {}, {"sent_today": 2}, NOW, None),
        ("had enough for a week", {}, {"sent_this_week": 10}, NOW, "cap: week"),
        ("one is still on its way", {}, {"active": True}, NOW, "an offer is on its way"),
        ("erased", {}, {"erased": True}, NOW, "erased"),
        ("somebody else's offer", {}, {"in_audience": False}, NOW, "not in the audience"),
        ("bought already", {}, {"goal_reached_at": NOW - 1}, NOW, "goal reached: Order Completed"),
        ("bought, and may hear of it", {"goal": {"stops": False}}, {"goal_reached_at": NOW - 1}, NOW, None),
        ("no code is left", {}, {"has_code": False}, NOW, "no code left"),
        (
            "long enough ago to begin again",
            {"guardrails__again_after_s": 7200},
            {"offered": [NOW - 9 * HOUR] * 2},
            NOW,
            None,
        ),
        (
            "was here lately",
            {"guardrails__place_cooldown_s": 86_400},
            {"offered": [NOW - 9 * HOUR], "offered_here": [NOW - 9 * HOUR]},
            NOW,
            "cooldown here",
        ),
        (
            "at night, and it would be over by the morning",
            {"guardrails__quiet_hours": {"start": "11:00", "end": "13:00"}},
            {},
            NOW,
            "quiet hours",
        ),
        (
            "not yet begun",
            {"state": "scheduled", "starts_at": NOW + 1, "ends_at": NOW + 2},
            {},
            NOW,
            "campaign is scheduled",
        ),
        ("begun by itself", {"state": "scheduled", "starts_at": NOW, "ends_at": NOW + 2}, {}, NOW, None),
        ("over by itself", {"starts_at": 1, "ends_at": NOW}, {}, NOW, "campaign is ended"),
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
    decision = decide(campaign(**chosen), person(**who), now, Moment(NOW))
    assert decision.sends is (reason is None), why
    assert decision.reason == (reason or "eligible")


@pytest.mark.parametrize(
    ("least", "sure", "sends"),
    [("low", "low", True), ("medium", "low", False), ("high", "medium", False), ("high", "high", True)],
)
def test_how_sure_we_must_be_of_the_zone(least, sure, sends):
    chosen = campaign(guardrails__least_confidence=least)
    assert decide(chosen, person(), NOW, Moment(NOW, sure)).sends is sends


def test_quiet_hours_hold_an_offer_that_lasts_until_they_end():
    chosen = campaign(guardrails__quiet_hours={"start": "11:00", "end": "12:04"})
    held = decide(chosen, person(), NOW, Moment(NOW))
    assert (held.verdict, held.reason, held.send_at) == ("sent", "held for quiet hours", NOW + 240_000)
    dropped = campaign(guardrails__quiet_hours={"start": "11:00", "end": "12:04", "hold": False})
    assert decide(dropped, person(), NOW, Moment(NOW)).reason == "quiet hours"


def test_every_rule_is_told_for_an_explanation():
    verdicts = list(judge(campaign(state="draft"), person(addresses=0), NOW, Moment(NOW)))
    assert [verdict.rule for verdict in verdicts if not verdict.passes] == ["state", "address"]
    assert len({verdict.rule for verdict in verdicts}) == len(verdicts) > 12


# Groups ---------------------------------------------------------------------------------------------------


def test_the_held_out_are_always_the_same_and_as_many_as_was_said():
    chosen = campaign(holdout_percent=20)
    people = [f"person-{number}" for number in range(20_000)]
    held = [who for who in people if arm_of(chosen, who) == "held_out"]
    assert held == [who for who in people if arm_of(chosen, who) == "held_out"]
    assert len(held) == pytest.approx(4_000, rel=0.06)
    other = campaign(campaign_id="c2", holdout_percent=20)
    both = sum(arm_of(other, who) == "held_out" for who in held)
    assert both == pytest.approx(800, rel=0.15), "each campaign draws its own"
    assert {decide(chosen, person(profile_id=held[0]), NOW, Moment(NOW)).verdict} == {"held_out"}


def test_nobody_is_held_out_of_a_campaign_without_a_holdout_and_all_of_one_with_all():
    people = [f"person-{number}" for number in range(500)]
    assert {arm_of(campaign(), who) for who in people} == {"treated"}
    assert {arm_of(campaign(holdout_percent=100), who) for who in people} == {"held_out"}


def test_variants_get_their_shares_whether_held_out_or_not():
    offer = {"title": "t", "body": "b"}
    variants = [{"variant_id": "a", "offer": offer, "weight": 3}, {"variant_id": "b", "offer": offer}]
    chosen = campaign(variants=variants, holdout_percent=50)
    people = [f"person-{number}" for number in range(8_000)]
    for arm in ("treated", "held_out"):
        mine = [variant_of(chosen, who) for who in people if arm_of(chosen, who) == arm]
        assert mine.count("a") / len(mine) == pytest.approx(0.75, abs=0.03)


# Uplift ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    # Newcombe 1998, Statistics in Medicine 17, pages 857 to 872, table I, method 3; and the two ends.
    ("reached", "people", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_the_interval_of_a_rate_is_wilsons(reached, people, low, high):
    found = rate_of(Group(people, reached))
    assert found.value == reached / people
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.00005)
    assert (found.low == 0.0, found.high == 1.0) == (reached == 0, reached == people)


@pytest.mark.parametrize(
    # Newcombe 1998, Statistics in Medicine 17, table II, method 10.
    ("treated", "held_out", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_newcombes(treated, held_out, low, high):
    found = uplift(Group(treated[1], treated[0]), Group(held_out[1], held_out[0]))
    assert (found.absolute.low, found.absolute.high) == pytest.approx((low, high), abs=0.0001)
    assert found.is_sure is (low > 0)


def test_without_people_there_is_no_figure():
    assert rate_of(Group(0, 0)) is None
    assert uplift(Group(10, 1), Group(0, 0)) is None
    assert uplift(Group(10, 1), Group(10, 0)).relative is None


# Right before it leaves -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"still_there": False}, "no longer there"),
        ({"owns_address": False}, "address has another owner"),
        ({"consents": {"push": False}}, "no consent: push"),
        ({"in_audience": False}, "not in the audience"),
        ({"goal_reached_at": NOW}, "goal reached: Order Completed"),
        ({"sent_today": 3}, "cap: day"),
        ({"sent_this_week": 10}, "cap: week"),
        ({"erased": True}, "erased"),
    ],
)
def test_what_is_asked_again_at_the_moment_of_sending(facts, reason):
    holding = {"consents": {"push": True}, "owns_address": True, "still_there": True, "zone": UTC_ZONE}
    assert recheck(campaign(), SendFacts(**{**holding, **facts}), NOW) == (reason and Stop(reason))


@pytest.mark.parametrize(("hold", "objection"), [(True, Hold(NOW + HOUR)), (False, Stop("quiet hours"))])
def test_what_was_delayed_into_the_night_waits_or_is_dropped(hold, objection):
    chosen = campaign(guardrails__quiet_hours={"start": "11:00", "end": "13:00", "hold": hold})
    assert recheck(chosen, SendFacts({}, True, True, UTC_ZONE), NOW) == objection


@pytest.mark.parametrize("chosen", [None, "draft", "paused", "ended"])
def test_a_campaign_that_was_stopped_sends_nothing_more(chosen):
    stopped = None if chosen is None else campaign(state=chosen)
    assert recheck(stopped, SendFacts({}, True, True, UTC_ZONE), NOW) == Stop("campaign is no longer live")


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


EVERY_ZONE = sorted(available_timezones())


@st.composite
def near_a_change(draw):
    """An instant in any zone of the world, as often as not within a day of its clock's next change."""
    zone = ZoneInfo(draw(st.sampled_from(EVERY_ZONE)))
    start = draw(st.integers(0, 2_000_000_000)) * 1000
    offset = datetime.fromtimestamp(start / 1000, zone).utcoffset()
    changed = next(
        (
            at
            for at in range(start, start + 200 * 24 * HOUR, 24 * HOUR)
            if datetime.fromtimestamp(at / 1000, zone).utcoffset() != offset
        ),
        start,
    )
    return zone, draw(st.sampled_from([start, changed])) + draw(st.integers(-48 * HOUR, 24 * HOUR))


@settings(max_examples=300)
@given(near_a_change())
def test_days_and_weeks_hold_in_every_zone_of_the_world(case):
    zone, now = case
    for bounds, most in ((day_bounds, 50), (week_bounds, 7 * 24 + 26)):
        start, end = bounds(now, zone)
        assert start <= now < end
        assert bounds(start, zone) == bounds(end - 1, zone) == (start, end)
        assert end - start <= most * HOUR
    first = datetime.fromtimestamp(week_bounds(now, zone)[0] / 1000, zone)
    assert first.isocalendar().week == datetime.fromtimestamp(now / 1000, zone).isocalendar().week


clock_times = st.builds(lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59))


@settings(max_examples=300)
@given(near_a_change(), clock_times, clock_times)
def test_nothing_is_ever_sent_in_quiet_hours_and_nothing_waits_past_their_end(case, start, end):
    zone, now = case
    quiet = QuietHours(start, end)
    held = quiet.end_after(now, zone)
    assert held >= now
    assert not quiet.covers(held, zone)
    if held > now:
        for part in range(1, 20):
            assert quiet.covers(now + (held - now) * part // 20 - (part == 19), zone), (
                "it could have left sooner"
            )


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


def asking(test: dict) -> dict:
    """A trigger that asks this of an event's property."""
    return {"trigger": {"type": "event", "name": "Cart", "where": [{"property": "a", "test": test}]}}


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
        (asking({"type": "days_ago", "at_most": 3}), r"^trigger\.where\[0\]\.test: days_ago is for traits"),
        (asking({"type": "date", "since": "2025-02-31"}), r"^trigger\.where\[0\]\.test\.since: no calendar"),
        (asking({"type": "number", "at_least": 2, "at_most": 1}), r"^trigger\.where\[0\]\.test\.at_most: "),
    ],
)
def test_a_mistake_is_named(changed, named):
    with pytest.raises(CampaignInvalid, match=named):
        parse_campaign(msgspec.json.encode(definition(**changed)))


@pytest.mark.parametrize("days", [{"at_most": 3}, {"at_least": 3}, {"at_least": -3}])
def test_what_was_saved_when_less_was_refused_ends_no_event_in_an_error(days):
    """It would be buried, and with it every event of that name."""
    asked = msgspec.convert({"property": "a", "test": {"type": "days_ago", **days}}, Filter)
    assert passes_filter({"a": "2025-06-16"}, asked) is ("at_most" in days)


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
    assert render(Offer(title, "body"), FACTS).title == expected


def test_bodies_are_cut_to_what_a_phone_shows():
    body = "{% for x in profile.list limit: 100 %}buy three, pay for two; {% endfor %}"
    assert render(Offer("t", body), FACTS).body == ("buy three, pay for two; " * 100)[:MAX_BODY]


def test_a_code_is_not_cut_off():
    told = {**FACTS, "code": "SAVE-10"}
    assert render(Offer("t", "x" * (MAX_BODY - 7) + "{{ code }} and more"), told).body.endswith("SAVE-10")
    with pytest.raises(OfferUnrenderable, match="behind the 1,000"):
        render(Offer("t", "x" * (MAX_BODY - 6) + "{{ code }}"), told)


def test_half_a_link_is_none():
    link = "https://shop.example/"
    offer = Offer("t", "b", image=link + "{{ profile.path }}", deeplink=link + "{{ profile.path }}")
    for length, shown in ((MAX_LINK - len(link), True), (MAX_LINK - len(link) + 1, False)):
        rendered = render(offer, {"profile": {"path": "x" * length}})
        assert (rendered.image is not None, rendered.deeplink is not None) == (shown, shown)


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


@pytest.mark.parametrize(
    ("link", "opens"),
    [
        ("https://shop.example/4711", True),
        ("http://shop.example", True),
        ("shop://product/4711", True),
        ("/product/4711", True),
        ("product/data:4711", True),
        ("", False),
        ("javascript:alert(1)", False),
        ("JavaScript:alert(1)", False),
        ("java\tscript:alert(1)", False),
        ("\x01data:text/html,x", False),
        ("file:///etc/passwd", False),
        ("vbscript:x", False),
        ("blob:https://x", False),
    ],
)
def test_an_app_is_sent_nowhere_where_text_is_run(link, opens):
    offer = Offer("a", "b", deeplink="{{ product.url }}")
    assert render(offer, {"product": {"url": link}}).deeplink == (link.strip() if opens else None)


@pytest.mark.parametrize(
    ("image", "shown"),
    [("https://x.example/a.png", True), ("HTTPS://x.example/a.png", True), ("http://x.example/a.png", False)],
)
def test_phones_load_images_by_https_alone(image, shown):
    assert render(
        Offer("a", "b", image="{{ product.image_url }}"), {"product": {"image_url": image}}
    ).image == (image if shown else None)
