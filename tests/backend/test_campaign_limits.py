"""Limits and quiet hours, through the decision and the question before sending, in every zone there is."""

from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.campaigns.eligibility import Hold, Moment, PersonFacts, SendFacts, Stop, decide, recheck
from backend.campaigns.hours import day_bounds, week_bounds
from backend.campaigns.model import Campaign, parse_campaign

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
EVERY_ZONE = sorted(available_timezones())
GRANTED = {"push": True, "proximity": True}


@dataclass
class Offered:
    """A decision to send, and what became of its push."""

    campaign: Campaign
    send_at: int
    expires_at: int
    active: bool = True
    left_at: int | None = None
    next_try_at: int = 0


@dataclass
class Life:
    """A person's offers, kept as the database keeps them: decisions, and when their pushes left."""

    zone: ZoneInfo
    offers: list[Offered] = field(default_factory=list)
    worked_until: int = -(2**62)  # whatever was due until then is done
    refused: set[str] = field(default_factory=set)

    def _between(self, times: list[int | None], span: tuple[int, int]) -> int:
        return sum(at is not None and span[0] <= at < span[1] for at in times)

    def moment(self, campaign: Campaign, now: int) -> None:
        """Decides as the fold does, by the day and the week in which the push would leave."""
        mine = [one for one in self.offers if one.campaign is campaign and (one.active or one.left_at)]
        quiet = campaign.guardrails.quiet_hours
        at = now if quiet is None else quiet.end_after(now, self.zone)
        counted: list[int | None] = [one.send_at for one in self.offers if one.active or one.left_at]
        facts = PersonFacts(
            "anna",
            GRANTED,
            1,
            self.zone,
            offered=[one.send_at for one in mine],
            active=any(one.active for one in mine),
            sent_today=self._between(counted, day_bounds(at, self.zone)),
            sent_this_week=self._between(counted, week_bounds(at, self.zone)),
        )
        decision = decide(campaign, facts, now, Moment(now))
        if decision.sends:
            expires_at = now + campaign.offer.life_s * 1000
            self.offers.append(
                Offered(campaign, decision.send_at, expires_at, next_try_at=max(now, decision.send_at))
            )
        else:
            self.refused.add(decision.reason)

    def work_off(self, now: int, late_by: int) -> None:
        """The sender: what is due is asked about and leaves, is held, or ends; `late_by` after its time."""

        def at(one: Offered) -> int:
            return max(self.worked_until, one.next_try_at + late_by)  # its clock never goes back

        while due := [one for one in self.offers if one.active and at(one) <= now]:
            first = min(due, key=at)
            self._try(first, at(first))
        self.worked_until = now

    def _try(self, one: Offered, now: int) -> None:
        if one.expires_at <= now:
            one.active = False
            return
        others = [other for other in self.offers if other is not one]
        left = [other.left_at for other in others]
        same = [other for other in others if other.campaign is one.campaign]
        facts = SendFacts(
            GRANTED,
            owns_address=True,
            still_there=True,
            zone=self.zone,
            offered=[other.send_at for other in same if other.left_at],
            sent_today=self._between(left, day_bounds(now, self.zone)),
            sent_this_week=self._between(left, week_bounds(now, self.zone)),
        )
        match recheck(one.campaign, facts, now):
            case Stop():
                one.active = False
            case Hold(until):
                assert until > now
                one.next_try_at = until
            case None:
                one.active, one.left_at = False, now


def campaign(number: int, guardrails: dict, life_s: int) -> Campaign:
    definition = {
        "campaign_id": f"c{number}",
        "name": "c",
        "trigger": {"type": "event", "name": "Cart"},
        "offer": {"title": "a", "body": "b", "life_s": life_s},
        "guardrails": guardrails,
        "state": "live",
    }
    return parse_campaign(msgspec.json.encode(definition))


@st.composite
def guardrails(draw) -> dict:
    clock = st.builds(lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59))
    quiet = {"start": draw(clock), "end": draw(clock), "hold": draw(st.booleans())}
    return {
        "max_per_day": draw(st.integers(1, 3)),
        "max_per_week": draw(st.integers(1, 5)),
        "max_total": draw(st.integers(1, 9)),
        "cooldown_s": draw(st.sampled_from([0, 3_600, 100_000])),
        "quiet_hours": draw(st.sampled_from([quiet, {}, None])),
    }


@st.composite
def beginnings(draw) -> tuple[ZoneInfo, int]:
    """An instant in any zone of the world, as often as not within two days of a change of its clock."""
    zone = ZoneInfo(draw(st.sampled_from(EVERY_ZONE)))
    start = draw(st.integers(0, 2_000_000_000)) * 1000
    offsets = [(at, _local(at, zone).utcoffset()) for at in range(start, start + 220 * DAY, 2 * DAY)]
    changed = [at for (at, one), (_, two) in pairwise(offsets) if one != two]
    return zone, draw(st.sampled_from([*changed[:1], start])) - draw(st.integers(0, 2 * DAY))


def _local(at: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(at / 1000, zone)


def is_quiet(one: Offered, zone: ZoneInfo) -> bool:
    """By the clock on the wall, written down anew."""
    quiet = one.campaign.guardrails.quiet_hours
    if quiet is None or quiet.start == quiet.end:
        return False
    reading = f"{_local(one.left_at or 0, zone):%H:%M}"
    if quiet.start < quiet.end:
        return quiet.start <= reading < quiet.end
    return reading >= quiet.start or reading < quiet.end


steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(st.integers(0, 90 * MINUTE), st.integers(0, 30 * HOUR)),
        st.sampled_from([0, 0, 400, 50 * MINUTE, 9 * HOUR]),
    ),
    min_size=3,
    max_size=30,
)


ONE, TWO = (
    {"max_per_day": cap, "max_per_week": cap, "max_total": 1, "cooldown_s": 0, "quiet_hours": None}
    for cap in (2, 1)
)


@settings(max_examples=250)
@example((ZoneInfo("Africa/Abidjan"), 0), ONE, TWO, 600, [(1, 0, 0), (0, 74, 400), (0, 326, 400)])
@given(beginnings(), guardrails(), guardrails(), st.sampled_from([600, 86_400, 10 * 86_400]), steps)
def test_no_limit_is_broken_and_nobody_is_disturbed_at_night(begins, one, two, life_s, moments):
    zone, now = begins
    campaigns, life = (campaign(1, one, life_s), campaign(2, two, life_s)), Life(zone)
    for which, pause, late_by in moments:
        now += pause
        life.work_off(now, late_by)
        life.moment(campaigns[which], now)
        for chosen in campaigns:
            assert sum(offer.active and offer.campaign is chosen for offer in life.offers) <= 1
    life.work_off(now + 12 * DAY, 0)
    assert not any(offer.active for offer in life.offers), "every offer comes to an end"
    left = sorted((offer for offer in life.offers if offer.left_at), key=lambda offer: offer.left_at or 0)
    days: dict[date, int] = {}
    weeks: dict[tuple[int, int], int] = {}
    totals: dict[str, int] = {}
    for offer in left:
        rules, local = offer.campaign.guardrails, _local(offer.left_at or 0, zone)
        year, week, _ = local.isocalendar()
        days[local.date()] = days.get(local.date(), 0) + 1
        weeks[year, week] = weeks.get((year, week), 0) + 1
        totals[offer.campaign.campaign_id] = totals.get(offer.campaign.campaign_id, 0) + 1
        assert days[local.date()] <= rules.max_per_day
        assert weeks[year, week] <= rules.max_per_week
        assert totals[offer.campaign.campaign_id] <= rules.max_total
        assert not is_quiet(offer, zone)
        assert (offer.left_at or 0) < offer.expires_at


def test_the_sequences_are_no_walk_in_the_park():
    """What the property plays does send, and does meet the limits."""
    life, zone = Life(ZoneInfo("Europe/Vienna")), ZoneInfo("Europe/Vienna")
    rules = {"max_per_day": 1, "max_total": 9, "cooldown_s": 0}
    chosen, now = campaign(1, rules, 86_400), int(datetime(2025, 10, 25, 23, tzinfo=zone).timestamp() * 1000)
    for _ in range(40):
        now += HOUR
        life.work_off(now, 0)
        life.moment(chosen, now)
    left = [_local(offer.left_at, zone).isoformat() for offer in life.offers if offer.left_at]
    assert left == ["2025-10-26T08:00:00+01:00", "2025-10-27T08:00:00+01:00"]
    assert life.refused == {"cap: day"}
