"""Funnels and uplift from outcomes, and campaigns played over moments that have passed."""

from zoneinfo import ZoneInfo

import msgspec
import pytest

from backend.campaigns.eligibility import PersonFacts
from backend.campaigns.model import parse_campaign
from backend.campaigns.rehearsal import PastMoment, rehearse
from backend.campaigns.results import Outcome, results_of

NOON = 1_750_075_200_000
HOUR = 3_600_000


def outcome(person: str, verdict: str = "sent", at: int = NOON, **more) -> Outcome:
    return Outcome(person, verdict, more.pop("reason", "eligible"), at, **more)


def test_the_funnel_counts_decisions_and_people():
    found = results_of(
        [
            outcome(
                "a", fate="accepted", opened=True, reached=True, visited=True, orders=1, revenue={"EUR": 1250}
            ),
            outcome("a", at=NOON + 1, fate="accepted", reached=True, orders=1, revenue={"EUR": 1250}),
            outcome("b", fate="accepted", variant="other", store_id="s", zone_id="z"),
            outcome("c", "held_out", reason="holdout", reached=True),
            outcome("d", "suppressed", reason="cap: day"),
            outcome("e", "suppressed", reason="cap: day", reached=True),
        ]
    )
    whole = found.whole
    assert (whole.candidates, whole.suppressed, whole.held_out) == (6, {"cap: day": 2}, 1)
    assert (whole.sent, whole.accepted, whole.opened) == (3, 3, 1)
    assert (whole.people, whole.reached, whole.visited, whole.bought) == (2, 1, 1, 1)
    assert whole.revenue == {"EUR": 1250}, "what followed two offers is not counted twice"
    assert set(found.variants) == {"offer", "other"}
    assert found.places["s", "z", ""].people == 1
    assert (found.comparison.treated.people, found.comparison.treated.reached) == (2, 1)
    assert (found.comparison.held_out.people, found.comparison.held_out.reached) == (1, 1)


def test_every_offer_that_was_to_be_sent_is_somewhere():
    """And who bought three times is one buyer."""
    fates = ["accepted", "accepted", "on_the_way", "unknown", "rejected", "stopped", "stopped"]
    reasons = [None, "cap: day", None, None, None, "cap: day", None]
    whole = results_of(
        [
            outcome(str(number), fate=fate, stopped=reason, orders=3 * (number < 2))
            for number, (fate, reason) in enumerate(zip(fates, reasons, strict=True))
        ]
    ).whole
    assert (whole.accepted, whole.on_the_way, whole.unknown, whole.rejected) == (2, 1, 1, 1)
    assert whole.stopped == {"cap: day": 1, "no push is left": 1}
    assert (whole.bought, whole.orders) == (2, 6)


def test_a_campaign_that_works_is_told_from_one_that_does_not():
    def group(arm: str, people: int, reached: int):
        return [outcome(f"{arm}{number}", arm, reached=number < reached) for number in range(people)]

    works = results_of(group("sent", 900, 180) + group("held_out", 900, 90)).comparison.uplift
    assert works.is_sure
    assert works.absolute.value == pytest.approx(0.1)
    assert works.relative == pytest.approx(1.0)
    nothing = results_of(group("sent", 100, 11) + group("held_out", 100, 10)).comparison.uplift
    assert not nothing.is_sure
    assert results_of([]).comparison.uplift is None


def test_each_place_has_its_own_comparison():
    def at(zone: str, arm: str, people: int, reached: int):
        place = {"store_id": "s", "zone_id": zone}
        return [outcome(f"{zone}{arm}{n}", arm, reached=n < reached, **place) for n in range(people)]

    found = results_of(
        [
            *at("a", "sent", 300, 150),
            *at("a", "held_out", 300, 50),
            *at("b", "sent", 50, 5),
            *at("c", "suppressed", 1, 0),
        ]
    ).by_place
    assert found["s", "a", ""].uplift.absolute.value == pytest.approx(1 / 3)
    assert found["s", "a", ""].uplift.is_sure
    assert (found["s", "b", ""].treated.people, found["s", "b", ""].uplift) == (50, None)
    assert found["s", "c", ""].treated.people == 0


def test_a_rehearsal_keeps_the_caps_it_would_have_used_up():
    chosen = parse_campaign(
        msgspec.json.encode(
            {
                "campaign_id": "c1",
                "name": "Coffee",
                "trigger": {"type": "zone_dwelt", "store_id": "s", "zone_id": "z", "dwell_s": 5},
                "offer": {"title": "Hello", "body": "Coffee"},
                "guardrails": {"max_total": 3, "cooldown_s": 7200, "max_per_day": 2, "quiet_hours": None},
            }
        )
    )

    def facts(moment: PastMoment) -> PersonFacts:
        agreed = {"proximity": True, "push": moment.profile_id != "no"}
        return PersonFacts(moment.profile_id, agreed, 1, ZoneInfo("UTC"))

    place = ("s", "z", "")
    hours = [0, 1, 3, 6, 24, 27, 30]
    moments = [PastMoment("a", NOON + hour * HOUR, place) for hour in reversed(hours)]
    played = rehearse(chosen, [*moments, PastMoment("no", NOON, place)], facts)
    assert [one.decision.reason for one in played if one.moment.profile_id == "a"] == [
        "eligible",
        "cooldown",
        "eligible",
        "cap: day",
        "eligible",
        "cap: total",
        "cap: total",
    ]
    assert [one.decision.reason for one in played if one.moment.profile_id == "no"] == ["no consent: push"]
