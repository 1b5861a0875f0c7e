"""May this person get this offer now? Pure: facts in, every rule's verdict and a decision out.

The same rules decide, explain and are asked again right before a push leaves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

from backend.campaigns.allocation import arm_of, variant_of
from backend.campaigns.model import Campaign, Confidence, Guardrails
from backend.occurrences import Confidence as Sureness

Verdict: TypeAlias = Literal["sent", "held_out", "suppressed"]
_SURENESS: Mapping[Sureness | Confidence, int] = {"none": 0, "low": 1, "medium": 2, "high": 3}


SAME_MOMENT_MS = 2_000  # entering a zone makes several campaigns' candidates within a second or two


@dataclass(frozen=True, slots=True)
class Rival:
    """Another campaign that offers the person something in the same moment, and its priority.

    `first`: the two are decided together, and of equals it comes first.
    """

    campaign_id: str
    priority: int
    first: bool = False


@dataclass(frozen=True, slots=True)
class PersonFacts:
    """What is known of a person at the moment of decision; over all that the person is known by.

    Times are unix milliseconds. `offered`: when this campaign offered them something, `offered_here` the same
    at this place; `active`: an offer of this campaign is still on its way. `sent_today`, `sent_this_week`:
    offers of all campaigns in the calendar day and week of `send_at`. `in_audience`: whether the campaign's
    audience holds. `goal_reached_at`: since when the goal's event after the moment is known. `has_products`,
    `has_code`: None where the offer wants none. `rivals`: whose offers of the same moment are decided.
    `text_fault`: why the offer cannot be rendered, where that was tried already.
    """

    profile_id: str
    consents: Mapping[str, bool]
    addresses: int
    zone: ZoneInfo
    offered: Sequence[int] = ()
    offered_here: Sequence[int] = ()
    active: bool = False
    sent_today: int = 0
    sent_this_week: int = 0
    in_audience: bool = True
    goal_reached_at: int | None = None
    has_products: bool | None = None
    has_code: bool | None = None
    rivals: Sequence[Rival] = ()
    text_fault: str | None = None
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """When a candidate came to be, and how surely: `due_at` is when the trigger was complete."""

    due_at: int
    confidence: Sureness = "high"


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What one rule says: whether it lets the offer pass, and why."""

    rule: str
    passes: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a candidate, and why. `send_at`: not before then; quiet hours may hold it back."""

    verdict: Verdict
    reason: str
    send_at: int = 0
    variant: str = "offer"

    @property
    def sends(self) -> bool:
        return self.verdict == "sent"


def send_time(campaign: Campaign, now: int, zone: ZoneInfo) -> int:
    """When an offer decided now may reach the person: at once, or at the end of their quiet hours."""
    quiet = campaign.guardrails.quiet_hours
    return now if quiet is None else quiet.end_after(now, zone)


def decide(campaign: Campaign, person: PersonFacts, now: int, moment: Moment) -> Decision:
    """The first rule that forbids decides; whoever passes all is held out or gets their variant."""
    variant = variant_of(campaign, person.profile_id)
    for verdict in judge(campaign, person, now, moment):
        if not verdict.passes:
            return Decision("suppressed", verdict.reason, variant=variant)
    send_at = send_time(campaign, now, person.zone)
    if arm_of(campaign, person.profile_id) == "held_out":
        return Decision("held_out", "holdout", send_at, variant)
    return Decision("sent", "eligible" if send_at <= now else "held for quiet hours", send_at, variant)


def judge(campaign: Campaign, person: PersonFacts, now: int, moment: Moment) -> Iterator[RuleVerdict]:
    """Every rule's verdict, in the order in which they count."""
    rules, offer = campaign.guardrails, campaign.offer
    send_at = send_time(campaign, now, person.zone)
    expires_at = moment.due_at + offer.life_s * 1000
    state = campaign.standing(now)
    yield _rule("state", state == "live", f"campaign is {state}")
    yield _rule("erased", not person.erased, "erased")
    yield _rule("moment", now <= expires_at, "moment passed")
    sure = _SURENESS[moment.confidence] >= _SURENESS[rules.least_confidence]
    yield _rule("confidence", sure, f"confidence: {moment.confidence}")
    for purpose in rules.purposes:
        yield _rule(f"consent: {purpose}", person.consents.get(purpose, False), f"no consent: {purpose}")
    yield _rule("address", person.addresses > 0, "no push address")
    yield _rule("audience", person.in_audience, "not in the audience")
    yield _rule(
        "goal",
        not campaign.goal.stops or person.goal_reached_at is None,
        f"goal reached: {campaign.goal.event}",
    )
    yield from _caps(campaign, person, now)
    quiet = rules.quiet_hours
    may_wait = quiet is None or send_at <= now or (quiet.hold and send_at <= expires_at)
    yield _rule("quiet hours", may_wait, "quiet hours")
    yield _rule("products", person.has_products is not False, "no viewed product")
    yield _rule("code", person.has_code is not False, "no code left")
    winner = _winner(rules, person.rivals)
    yield _rule("priority", winner is None, f"priority: {winner}")
    yield _rule("text", person.text_fault is None, unrenderable(person.text_fault))


def unrenderable(fault: object) -> str:
    """The reason of a decision whose offer has no text."""
    return f"offer cannot be rendered: {fault}"[:300]


def _winner(rules: Guardrails, rivals: Sequence[Rival]) -> str | None:
    """The campaign that has won the moment from this one."""
    ours = rules.priority
    above = [one for one in rivals if one.priority > ours or (one.first and one.priority == ours)]
    return max(above, key=lambda rival: (rival.priority, rival.campaign_id)).campaign_id if above else None


def _caps(campaign: Campaign, person: PersonFacts, now: int) -> Iterator[RuleVerdict]:
    rules = campaign.guardrails
    yield _rule("cap: total", len(_counted(rules, person.offered, now)) < rules.max_total, "cap: total")
    yield _rule("cap: day", person.sent_today < rules.max_per_day, "cap: day")
    yield _rule("cap: week", person.sent_this_week < rules.max_per_week, "cap: week")
    yield _rule("cooldown", _is_over(person.offered, rules.cooldown_s, now), "cooldown")
    yield _rule("cooldown here", _is_over(person.offered_here, rules.place_cooldown_s, now), "cooldown here")
    yield _rule("one at a time", not person.active, "an offer is on its way")


def _counted(rules: Guardrails, offered: Sequence[int], now: int) -> Sequence[int]:
    """The offers that count for `max_total`."""
    if rules.again_after_s is None:
        return offered
    return [at for at in offered if now - at < rules.again_after_s * 1000]


def _is_over(times: Sequence[int], pause_s: int, now: int) -> bool:
    return not times or now - max(times) >= pause_s * 1000


def _rule(name: str, passes: bool, objection: str) -> RuleVerdict:
    return RuleVerdict(name, passes, "ok" if passes else objection)


# Right before it leaves -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendFacts:
    """What has to hold still at the moment of sending, however long the push had to wait.

    `sent_today`, `sent_this_week`: what really went out to the person by now, this push not among it.
    `offered`: when the campaign's other offers to the person went out, `offered_here` those at this place;
    `held_out`: whether the person belongs to the control group. All may be new where two profiles turned out
    to be one person. `rivals`: whose offers of the same moment were decided, also after this one.
    """

    consents: Mapping[str, bool]
    owns_address: bool
    still_there: bool
    zone: ZoneInfo
    sent_today: int = 0
    sent_this_week: int = 0
    offered: Sequence[int] = ()
    offered_here: Sequence[int] = ()
    held_out: bool = False
    in_audience: bool = True
    goal_reached_at: int | None = None
    rivals: Sequence[Rival] = ()
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """It must not go out any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Not before this instant, unix milliseconds."""

    until: int


def recheck(campaign: Campaign | None, facts: SendFacts, now: int) -> Stop | Hold | None:
    """What speaks against a queued push at the moment when it would leave; None: nothing."""
    if campaign is None or not campaign.is_live(now):
        return Stop("campaign is no longer live")
    rules = campaign.guardrails
    winner = _winner(rules, facts.rivals)
    objections = [
        (facts.erased, "erased"),
        *((not granted, f"no consent: {purpose}") for purpose, granted in facts.consents.items()),
        (not facts.owns_address, "address has another owner"),
        (not facts.still_there, "no longer there"),
        (not facts.in_audience, "not in the audience"),
        (campaign.goal.stops and facts.goal_reached_at is not None, f"goal reached: {campaign.goal.event}"),
        (facts.held_out, "holdout"),
        (len(_counted(rules, facts.offered, now)) >= rules.max_total, "cap: total"),
        (not _is_over(facts.offered, rules.cooldown_s, now), "cooldown"),
        (not _is_over(facts.offered_here, rules.place_cooldown_s, now), "cooldown here"),
        (facts.sent_today >= rules.max_per_day, "cap: day"),
        (facts.sent_this_week >= rules.max_per_week, "cap: week"),
        (winner is not None, f"priority: {winner}"),
    ]
    reason = next((reason for applies, reason in objections if applies), None)
    if reason is not None:
        return Stop(reason)
    send_at = send_time(campaign, now, facts.zone)
    if send_at <= now:
        return None
    quiet = rules.quiet_hours
    return Hold(send_at) if quiet is not None and quiet.hold else Stop("quiet hours")
