"""What may go wrong between a moment and its message: merges, clocks, variants, control groups, haste."""

import asyncio

import msgspec
import pytest

from backend.campaigns.allocation import arm_of, variant_of
from backend.campaigns.eligibility import Rival, SendFacts, Stop, recheck
from backend.campaigns.hours import time_zone
from backend.campaigns.model import parse_campaign
from backend.campaigns.results import results_of
from backend.proximity.fences import parse_fence
from backend.push.model import Finish, PushState
from backend.segments.model import Definition
from backend.storage import campaigns as campaign_rows
from backend.storage import fences, identities, profiles, results, segments
from backend.storage.offers import SendChecks
from backend.storage.pushes import PushStore
from sdk_bridge.wire.app_events import Location, PushAddress

ANNA, BERTA = "altbeacon:" + "a" * 40, "altbeacon:" + "b" * 40
FREE = {"quiet_hours": None, "cooldown_s": 0, "max_total": 9, "max_per_day": 99, "max_per_week": 99}
IN_A_MINUTE = {"type": "event", "name": "Cart", "wait_s": 60}


async def save(shop, campaign_id: str = "c1", **more):
    definition = {
        "campaign_id": campaign_id,
        "name": campaign_id,
        "trigger": {"type": "event", "name": "Cart"},
        "offer": {"title": "Hello", "body": "There", "life_s": 86_400},
        "guardrails": FREE,
        "goal": {"event": "Order Completed"},
        "state": "live",
        **more,
    }
    campaign = parse_campaign(msgspec.json.encode(definition))
    await shop.state.write(lambda s: campaign_rows.save_campaign(s, campaign, shop.clock()))
    shop.fold.refresh()
    return campaign


async def track(shop, name: str, **more) -> None:
    await shop.journal.append_events([shop.event("track", name=name, **more)])
    await shop.folded()


async def after(shop, milliseconds: int) -> None:
    """Time passes, and the fold has looked at the clock."""
    shop.clock.forward(milliseconds)
    await shop.heartbeat()
    await shop.folded()


async def told(shop) -> list[tuple]:
    rows = await shop.rows("select campaign_id, verdict, reason from decisions order by decision_id")
    return [tuple(row.values()) for row in rows]


async def visitor(shop, anonymous_id: str = "browser") -> None:
    """Nobody knows who they are; they agreed to pushes in the browser."""
    granted = {"proximity": True, "push": True}
    await shop.journal.append_events(
        [
            shop.event("consent", anonymous_id=anonymous_id, consent=granted),
            shop.event("page", name="Start", anonymous_id=anonymous_id),
        ]
    )
    await shop.folded()


async def log_in(shop, user: str, anonymous_id: str = "browser") -> None:
    shop.clock.forward(10)
    await shop.journal.append_events([shop.event("identify", user_id=user, anonymous_id=anonymous_id)])
    await shop.folded()


# Who waits may become somebody else's profile --------------------------------------------------------------


async def test_a_purchase_on_the_account_counts_for_a_wait_that_the_anonymous_browser_began(live_shop):
    shop = live_shop
    await save(shop, trigger=IN_A_MINUTE)
    await shop.person("anna")
    await visitor(shop)
    await track(shop, "Cart", anonymous_id="browser")
    await log_in(shop, "anna")
    await track(shop, "Order Completed", user_id="anna")
    await after(shop, 61_000)
    assert await told(shop) == [("c1", "suppressed", "goal reached: Order Completed")]


async def test_the_limits_are_the_persons_also_for_what_an_anonymous_browser_began(live_shop):
    shop = live_shop
    await save(shop, trigger=IN_A_MINUTE, guardrails={**FREE, "max_total": 1})
    await shop.person("anna")
    await visitor(shop)
    await track(shop, "Cart", user_id="anna")
    shop.clock.forward(1)
    await track(shop, "Cart", anonymous_id="browser")
    await log_in(shop, "anna")
    await after(shop, 61_000)
    [person] = set(await shop.column("select profile_id from decisions"))
    assert await shop.state.read(lambda s: profiles.resolve(s, "user_id", "anna")) == person
    assert sorted(verdict for _, verdict, _ in await told(shop)) == ["sent", "suppressed"]


@pytest.mark.parametrize(
    ("guardrails", "facts", "reason"),
    [
        ({"max_total": 1}, {"offered": [1]}, "cap: total"),
        ({"max_total": 9, "cooldown_s": 60}, {"offered": [99_000]}, "cooldown"),
        ({"max_total": 9, "cooldown_s": 0}, {"offered": [99_000]}, None),
        ({"max_total": 1, "again_after_s": 60, "cooldown_s": 0}, {"offered": [1]}, None),
        ({"max_total": 9}, {"held_out": True}, "holdout"),
        ({"priority": 1}, {"rivals": [Rival("c2", 2), Rival("c3", 3)]}, "priority: c3"),
        ({"priority": 1}, {"rivals": [Rival("c2", 1), Rival("c3", 0)]}, None),
    ],
)
def test_what_two_profiles_that_became_one_are_asked_at_the_moment_of_sending(guardrails, facts, reason):
    definition = {
        "campaign_id": "c1",
        "name": "c1",
        "trigger": {"type": "event", "name": "Cart"},
        "offer": {"title": "a", "body": "b"},
        "guardrails": {**FREE, **guardrails},
        "state": "live",
    }
    known = SendFacts({"push": True}, owns_address=True, still_there=True, zone=time_zone("UTC"), **facts)
    objection = recheck(parse_campaign(msgspec.json.encode(definition)), known, 100_000)
    assert objection == (Stop(reason) if reason else None)


async def test_a_push_under_a_merged_profile_is_held_to_its_persons_limits(live_shop):
    """The browser's push waits for the morning; meanwhile the browser turns out to be Anna's."""
    shop = live_shop
    campaign = await save(shop, guardrails={**FREE, "max_total": 1})
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    [push] = await PushStore(shop.state).claim("me", shop.clock(), 9)
    await visitor(shop)
    child = await shop.state.read(lambda s: profiles.resolve(s, "anonymous_id", "browser"))
    await log_in(shop, "anna")
    person = await shop.state.read(lambda s: profiles.resolve(s, "user_id", "anna"))
    assert person != child

    def hand_over(session) -> None:
        session._connection.execute("update pushes set profile_id = ?, state = 'queued'", (child,))
        session._connection.execute("update decisions set profile_id = ?", (child,))

    await shop.state.write(hand_over)
    [again] = await PushStore(shop.state).claim("me", shop.clock(), 9)
    assert again.profile_id == person
    assert await SendChecks(shop.state).may_send(again, shop.clock()) is None
    await track(shop, "Order Completed", user_id="anna")
    assert await SendChecks(shop.state).may_send(again, shop.clock()) == "goal reached: Order Completed"
    assert campaign.campaign_id == push.campaign_id


# Clocks -----------------------------------------------------------------------------------------------------


async def test_an_event_from_the_future_happened_when_it_came(live_shop):
    shop = live_shop
    await save(shop, trigger=IN_A_MINUTE)
    await shop.person("anna")
    ahead = shop.clock() + 10 * 365 * 86_400_000
    await track(shop, "Cart", user_id="anna", occurred_at=ahead)
    assert await shop.column("select begun_at from campaign_waits") == [shop.clock()]
    await after(shop, 61_000)
    assert await told(shop) == [("c1", "sent", "eligible")]


async def test_a_clock_that_was_set_back_delays_no_wait_by_more_than_a_look(live_shop):
    shop = live_shop
    await save(shop, trigger=IN_A_MINUTE)
    await shop.person("anna")
    await after(shop, 1_000)
    shop.clock.forward(-3_600_000)
    await track(shop, "Cart", user_id="anna")
    await after(shop, 61_000)
    assert await told(shop) == [("c1", "sent", "eligible")]


async def test_after_an_outage_a_wait_is_decided_with_all_that_had_been_journalled_before_it_was_due(
    shop, running
):
    await save(shop, trigger=IN_A_MINUTE)
    async with running(shop.fold.run()):
        await shop.person("anna")
        await track(shop, "Cart", user_id="anna")
    for _ in range(200):  # more than one transaction takes
        shop.clock.forward(100)
        await shop.heartbeat()
    await shop.journal.append_events([shop.event("track", name="Order Completed", user_id="anna")])
    shop.clock.forward(120_000)
    async with running(shop.fold.run()):
        await shop.folded()
        await after(shop, 1_000)
    assert await told(shop) == [("c1", "suppressed", "goal reached: Order Completed")]


# The control group passes the same rules --------------------------------------------------------------------


@pytest.mark.parametrize("percent", [0, 100])
@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        ({"products": "viewed"}, "no viewed product"),
        (
            {"title": "{{ profile.nothing }}"},
            "offer cannot be rendered: the title or the body comes out empty",
        ),
    ],
)
async def test_whoever_could_get_nothing_is_in_neither_group(live_shop, percent, offer, reason):
    shop = live_shop
    texts = {"title": "Hello", "body": "There", **offer}
    await save(shop, offer=texts, holdout_percent=percent)
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    assert await told(shop) == [("c1", "suppressed", reason)]


async def test_the_held_out_take_no_code_and_get_no_push(live_shop):
    shop = live_shop
    await _pool(shop, "p", ["A1"])
    await save(shop, offer={"title": "{{ code }}", "body": "b", "code_pool": "p"}, holdout_percent=100)
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    assert await told(shop) == [("c1", "held_out", "holdout")]
    assert await shop.column("select count(*) from pushes") == [0]
    assert await shop.column("select decision_id from codes") == [None]


async def _pool(shop, pool_id: str, codes: list[str]) -> None:
    def write(session) -> None:
        session.run("add_code_pool", pool_id=pool_id, name=pool_id, created_at=0)
        campaign_rows.add_codes(session, pool_id, codes, 0)

    await shop.state.write(write)


async def test_a_variants_own_pool_is_the_one_that_counts(live_shop):
    shop = live_shop
    await _pool(shop, "empty", [])
    await _pool(shop, "full", ["A1"])
    offer = {"title": "{{ code }}", "body": "b"}
    variants = [{"variant_id": "v", "offer": {**offer, "code_pool": "full"}}]
    await save(shop, offer={**offer, "code_pool": "empty"}, variants=variants)
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    assert await told(shop) == [("c1", "sent", "eligible")]
    assert await shop.column("select content ->> 'title' from pushes") == ["A1"]


# Stays ------------------------------------------------------------------------------------------------------


async def test_how_sure_a_stay_is_counts_when_it_is_complete(live_shop):
    """Entering is always less sure than having stayed."""
    shop = live_shop
    await shop.campaign(dwell_s=20, guardrails={"least_confidence": "high"})
    await shop.person("anna", ANNA)
    await shop.folded()
    await shop.hear(ANNA, seconds=3)
    await shop.folded()
    await shop.state.write(lambda s: s._connection.execute("update campaign_waits set confidence = 'low'"))
    shop.fold.refresh()
    await shop.hear(ANNA, seconds=25)
    await shop.folded()
    assert await told(shop) == [("c1", "sent", "eligible")]
    assert await shop.column("select confidence from decisions") == ["high"]


async def test_a_stay_whose_zone_was_taken_away_is_waited_for_no_longer(shop, running):
    await shop.campaign(dwell_s=60)
    async with running(shop.fold.run()):
        await shop.person("anna", ANNA)
        await shop.hear(ANNA, seconds=3)
        await shop.folded()
        assert await shop.column("select count(*) from campaign_waits") == [1]
    for table in ("presences", "visits"):
        await shop.state.write(lambda s, t=table: s._connection.execute(f"delete from {t}"))
    await shop.fold.load()
    assert await shop.column("select count(*) from campaign_waits") == [0]


async def test_who_takes_over_a_tag_has_left_no_zone(live_shop):
    shop = live_shop
    trigger = {"type": "zone_left", "store_id": "s1", "zone_id": "a"}
    await save(shop, trigger=trigger)
    await shop.person("anna", ANNA)
    await shop.folded()
    await shop.hear(ANNA, seconds=5)
    await shop.person("berta")
    shop.clock.forward(1)
    await shop.journal.append_events(
        [shop.event("device", user_id="berta", device_id="phone-anna", beacon_key=ANNA)]
    )
    await shop.folded()
    assert await told(shop) == []


async def test_staying_in_the_store_goes_on_from_zone_to_zone(live_shop):
    shop = live_shop
    await save(shop, trigger={"type": "store_dwelt", "dwell_s": 20})
    await shop.person("anna", ANNA)
    await shop.folded()
    await shop.hear(ANNA, "g-a", seconds=8, loss=70)
    await shop.hear(ANNA, "g-b", seconds=8, loss=50)
    assert await told(shop) == []
    await shop.hear(ANNA, "g-b", seconds=8, loss=50)
    await shop.folded()
    assert await told(shop) == [("c1", "sent", "eligible")]
    assert await shop.column("select count(*) from campaign_waits") == [0]


async def test_who_enters_a_segment_is_a_candidate_in_the_same_transaction(live_shop, eventually):
    shop = live_shop
    keen = msgspec.convert({"name": "Keen", "condition": {"type": "event", "name": "Cart"}}, Definition)
    await shop.state.write(lambda s: segments.save_segment(s, "keen", keen, shop.clock(), "test"))
    await save(shop, trigger={"type": "segment_entered", "segment_id": "keen"})
    await shop.person("anna")
    await shop.folded()
    await eventually(lambda: shop.fold._live.audiences.segments["keen"].state == "live")
    await track(shop, "Cart", user_id="anna")
    assert await told(shop) == [("c1", "sent", "eligible")]


# The pace of a campaign -------------------------------------------------------------------------------------


async def test_no_more_leave_in_a_minute_than_was_said_however_many_ask_at_once(live_shop):
    shop = live_shop
    await save(shop, guardrails={**FREE, "max_per_minute": 3})
    for number in range(8):
        await shop.person(f"user{number}")
        await track(shop, "Cart", user_id=f"user{number}")
    queue, checks = PushStore(shop.state), SendChecks(shop.state)
    pushes = await queue.claim("me", shop.clock(), 99)
    assert len(pushes) == 8
    answers = await asyncio.gather(*(checks.may_send(push, shop.clock()) for push in pushes))
    assert answers.count(None) == 3
    assert {answer for answer in answers if answer is not None} == {shop.clock() + 60_000}
    left = [push for push, answer in zip(pushes, answers, strict=True) if answer is None]
    await queue.mark_sending(left, shop.clock())
    others = [push for push in pushes if push not in left]
    shop.clock.forward(59_999)
    restarted = SendChecks(shop.state)
    assert isinstance(await restarted.may_send(others[0], shop.clock()), int)
    shop.clock.forward(1)
    again = await asyncio.gather(*(restarted.may_send(push, shop.clock()) for push in others))
    assert again.count(None) == 3


def test_variants_and_control_group_belong_to_the_person():
    definition = {
        "campaign_id": "c1",
        "name": "c1",
        "trigger": {"type": "event", "name": "Cart"},
        "offer": {"title": "a", "body": "b"},
        "holdout_percent": 50,
    }
    campaign = parse_campaign(msgspec.json.encode(definition))
    assert len({arm_of(campaign, f"p{n}") for n in range(50)}) == 2
    assert variant_of(campaign, "p1") == "offer"


async def test_whoever_loses_the_moment_or_gets_no_text_is_told_of_under_their_variant(live_shop):
    shop = live_shop
    only = {"variant_id": "only", "offer": {"title": "Hello", "body": "There"}}
    empty = {"variant_id": "only", "offer": {"title": "{{ profile.nothing }}", "body": "There"}}
    for name, priority, variant in (("c1", 9, only), ("c2", 9, only), ("c3", 99, empty)):
        await save(shop, name, guardrails={**FREE, "priority": priority}, variants=[variant])
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    rows = await shop.rows("select reason, variant from decisions order by campaign_id")
    assert [tuple(row.values()) for row in rows] == [
        ("eligible", "only"),
        ("priority: c1", "only"),
        ("offer cannot be rendered: the title or the body comes out empty", "only"),
    ]


@pytest.mark.parametrize("percent", [0, 100])
async def test_both_groups_are_measured_over_the_same_time(live_shop, percent):
    """Decided at night, bought before the morning's message: that counts for either group, or for none."""
    shop = live_shop
    shop.clock.forward(10 * 3_600_000)  # 22:00 UTC
    rules = {**FREE, "quiet_hours": {}}
    campaign = await save(shop, guardrails=rules, holdout_percent=percent)
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    shop.clock.forward(3_600_000)
    await track(shop, "Order Completed", user_id="anna")
    [outcome], _ = await shop.state.read(lambda s: results.outcomes_page(s, campaign, 0, 0))
    assert outcome.verdict == ("held_out" if percent else "sent")
    assert outcome.reached
    [send_at] = await shop.column("select send_at from decisions")
    assert send_at > shop.clock(), "limits of either group count from the morning"


async def test_a_withdrawal_reaches_the_phone_that_was_seen_before_anybody_knew_whose_it_was(live_shop):
    shop = live_shop
    shape = {"type": "circle", "latitude": 48.2, "longitude": 16.37, "radius_m": 150}
    named = {"fence_id": "door", "name": "Door", "shape": shape}
    door = parse_fence(msgspec.json.encode(named))
    await shop.state.write(lambda s: fences.put_fences(s, [door], shop.clock()))
    await save(shop, trigger={"type": "fence_dwelt", "fence_id": "door", "dwell_s": 60})
    await shop.person("anna")
    await visitor(shop)
    here = Location(48.2, 16.37, 10)
    for _ in range(2):
        shop.clock.forward(10_000)
        seen = shop.event("location", anonymous_id="browser", device_id="tablet", location=here)
        await shop.journal.append_events([seen])
        await shop.folded()
    await log_in(shop, "anna")
    assert await shop.column("select count(*) from campaign_waits") == [1]
    shop.clock.forward(10)
    await shop.journal.append_events([shop.event("consent", user_id="anna", consent={"proximity": False})])
    await shop.folded()
    assert await shop.column("select count(*) from fence_presences") == [0]
    assert await shop.column("select count(*) from campaign_waits") == [0]


@pytest.mark.parametrize("early_ms", [1, 59_000, 14 * 3_600_000])
async def test_a_purchase_stops_the_offer_whatever_time_the_till_claims(live_shop, early_ms):
    """By whole minutes, or by the time on the wall: it was answered before the push was claimed."""
    shop = live_shop
    await save(shop)
    await shop.person("anna", ANNA)
    await track(shop, "Cart", user_id="anna")
    dated = shop.clock() - early_ms
    shop.clock.forward(10)
    await track(shop, "Order Completed", user_id="anna", occurred_at=dated)
    [push] = await PushStore(shop.state).claim("me", shop.clock(), 9)
    assert await SendChecks(shop.state).may_send(push, shop.clock()) == "goal reached: Order Completed"


async def test_an_older_purchase_stops_nothing(live_shop):
    """One that was told before the moment, and last year's that an import tells now."""
    shop = live_shop
    await save(shop)
    await shop.person("anna", ANNA)
    await track(shop, "Order Completed", user_id="anna")
    shop.clock.forward(1_000)
    await track(shop, "Cart", user_id="anna")
    shop.clock.forward(10)
    await track(
        shop, "Order Completed", user_id="anna", occurred_at=shop.clock() - 365 * 86_400_000, source="import"
    )
    [push] = await PushStore(shop.state).claim("me", shop.clock(), 9)
    assert await SendChecks(shop.state).may_send(push, shop.clock()) is None


async def test_the_funnel_tells_the_last_checks_reasons_and_whose_variant_was_suppressed(live_shop):
    shop = live_shop
    offer = {"title": "Hello", "body": "There", "life_s": 600}
    campaign = await save(shop, variants=[{"variant_id": "only", "offer": offer}])
    await shop.person("anna", ANNA)
    await shop.person("berta", BERTA, consent={"push": False, "proximity": True})
    for user in ("anna", "berta"):
        await track(shop, "Cart", user_id=user)
    queue = PushStore(shop.state)
    claimed = await queue.claim("me", shop.clock(), 9)
    stopped = [Finish(push, PushState.SUPPRESSED, "goal reached: Order Completed") for push in claimed]
    await queue.settle(stopped, shop.clock())
    outcomes, _ = await shop.state.read(lambda s: results.outcomes_page(s, campaign, 0, 0))
    found = results_of(outcomes)
    assert found.whole.stopped == {"goal reached: Order Completed": 1}
    assert set(found.variants) == {"only"}
    assert found.variants["only"].suppressed == {"no consent: push": 1}


async def test_a_phone_unseen_for_sixty_days_gets_no_offer(live_shop):
    """Firebase calls such addresses stale: what is sent there reaches nobody, and uses up the caps."""
    shop = live_shop
    await save(shop)
    for user in ("anna", "berta"):
        await shop.person(user)
    shop.clock.forward(61 * 86_400_000)
    tablet = PushAddress("fid", "tablet-berta")
    await shop.journal.append_events(
        [shop.event("device", user_id="berta", device_id="tablet", platform="ios", push_address=tablet)]
    )
    for user in ("anna", "berta"):
        await track(shop, "Cart", user_id=user)
    assert [(verdict, reason) for _, verdict, reason in await told(shop)] == [
        ("suppressed", "no push address"),
        ("sent", "eligible"),
    ]
    assert await shop.column("select address_value from pushes") == ["tablet-berta"]


# A dry run -------------------------------------------------------------------------------------------------


async def rehearsed(shop, campaign) -> list[tuple[str, str]]:
    """What a dry run over the last day says, the oldest moment first."""
    since = shop.clock() - 86_400_000
    played = await shop.state.read(lambda s: results.rehearsed(s, campaign, since, shop.clock()))
    return [(one.decision.verdict, one.decision.reason) for one in played]


async def test_a_dry_run_of_what_was_live_says_what_was_decided(live_shop):
    """Its own offers are not counted twice, nor what other campaigns sent only later."""
    shop = live_shop
    campaign = await save(shop, guardrails={**FREE, "max_total": 2, "max_per_day": 3})
    await save(shop, "c2", trigger={"type": "event", "name": "Other"})
    await shop.person("anna", ANNA)
    for name in ("Cart", "Other", "Cart", "Other", "Cart"):
        shop.clock.forward(60_000)
        await track(shop, name, user_id="anna")
        queue = PushStore(shop.state)
        leaving = await queue.mark_sending(await queue.claim("me", shop.clock(), 9), shop.clock())
        await queue.settle([Finish(push, PushState.ACCEPTED) for push in leaving], shop.clock())
    decided = [(verdict, reason) for name, verdict, reason in await told(shop) if name == "c1"]
    assert [verdict for verdict, _ in decided] == ["sent", "sent", "suppressed"]
    shop.clock.forward(1)
    assert await rehearsed(shop, campaign) == decided


async def test_a_dry_run_knows_who_bought_while_it_would_have_waited(live_shop):
    shop = live_shop
    campaign = await save(shop, state="draft", trigger=IN_A_MINUTE)
    for user, bought_after in (("anna", 30_000), ("berta", 90_000)):
        await shop.person(user)
        await track(shop, "Cart", user_id=user)
        shop.clock.forward(bought_after)
        await track(shop, "Order Completed", user_id=user)
        shop.clock.forward(600_000)
    assert await rehearsed(shop, campaign) == [
        ("suppressed", "goal reached: Order Completed"),
        ("sent", "eligible"),
    ]


async def test_of_events_with_one_time_each_is_decided(live_shop):
    """An app that collects them offline may date them all alike; and what comes again is no other."""
    shop = live_shop
    await save(shop)
    await shop.person("anna")
    carts = [shop.event("track", name="Cart", user_id="anna") for _ in range(3)]
    await shop.journal.append_events(carts)
    await shop.folded()
    await shop.journal.append_events(carts)
    await shop.folded()
    assert await told(shop) == [
        ("c1", "sent", "eligible"),
        ("c1", "suppressed", "an offer is on its way"),
        ("c1", "suppressed", "an offer is on its way"),
    ]


async def test_a_campaign_that_was_live_before_an_event_came_sees_it(live_shop, monkeypatch, eventually):
    """Also when the fold was just reading the journal as somebody made it live."""
    shop, read, begun, told_of = live_shop, live_shop.journal.after, [], []
    await shop.person("anna")
    await shop.folded()

    async def read_meanwhile(*about):
        if not begun:
            begun.append(True)
            await save(shop)
            await shop.journal.append_events([shop.event("track", name="Cart", user_id="anna")])
            told_of.append(True)
        return await read(*about)

    monkeypatch.setattr(shop.journal, "after", read_meanwhile)
    await eventually(lambda: told_of)
    await shop.folded()
    assert await told(shop) == [("c1", "sent", "eligible")]


@pytest.mark.parametrize("limit", ["max_per_day", "max_per_week"])
@pytest.mark.parametrize(("first", "second", "left"), [(1, 2, ["c2"]), (2, 1, ["c1"]), (1, 1, ["c1"])])
async def test_what_a_higher_priority_stops_uses_up_no_limit(live_shop, limit, first, second, left):
    """The lesser offer of the moment is in the queue already, and there is room for one."""
    shop = live_shop
    await save(shop, "c1", guardrails={**FREE, "priority": first, limit: 1})
    await save(
        shop, "c2", guardrails={**FREE, "priority": second, limit: 1}, trigger={**IN_A_MINUTE, "wait_s": 1}
    )
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    await after(shop, 1_500)
    assert len(await told(shop)) == 2
    may = SendChecks(shop.state).may_send
    pushes = await PushStore(shop.state).claim("me", shop.clock(), 9)
    assert [push.campaign_id for push in pushes if await may(push, shop.clock()) is None] == left


# Whose phone ------------------------------------------------------------------------------------------------


async def reports_address(shop, user: str, phone: str, kind: str, value: str) -> None:
    shop.clock.forward(1000)
    address = PushAddress(kind, value)
    device = shop.event("device", user_id=user, device_id=phone, platform="ios", push_address=address)
    await shop.journal.append_events([device])
    await shop.folded()


@pytest.mark.parametrize("kind", ["token", "fid"])
async def test_a_push_that_waits_follows_its_phone_to_a_new_token(live_shop, kind):
    """Tokens are renewed at any hour; an offer that is held for the morning was for the phone."""
    shop = live_shop
    await save(shop)
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    await reports_address(shop, "anna", "phone-anna", kind, "newer")
    await reports_address(shop, "anna", "phone-anna", kind, "newest")
    queue = PushStore(shop.state)
    [push] = await queue.claim("me", shop.clock(), 9)
    assert (push.address_kind, push.address_value, push.platform) == (kind, "newest", "ios")
    assert await SendChecks(shop.state).may_send(push, shop.clock()) is None
    assert len(await queue.mark_sending([push], shop.clock())) == 1


async def test_no_push_follows_a_phone_to_somebody_else(live_shop):
    shop = live_shop
    await save(shop)
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    await reports_address(shop, "berta", "phone-anna", "token", "bertas")
    [push] = await PushStore(shop.state).claim("me", shop.clock(), 9)
    assert push.address_value == "token-anna"
    assert await SendChecks(shop.state).may_send(push, shop.clock()) == "address has another owner"


async def test_a_push_in_doubt_is_sent_again_to_the_same_token_or_not_at_all(live_shop):
    """The phone may show the first one under its new token, too."""
    shop = live_shop
    await save(shop)
    await shop.person("anna")
    await track(shop, "Cart", user_id="anna")
    await shop.state.write(lambda s: s._connection.execute("update pushes set resent = 1"))
    await reports_address(shop, "anna", "phone-anna", "token", "newer")
    [push] = await PushStore(shop.state).claim("me", shop.clock(), 9)
    assert push.address_value == "token-anna"


async def test_a_phone_whose_new_token_has_the_offer_gets_it_once(live_shop):
    shop = live_shop
    await save(shop)
    await shop.person("anna")
    await reports_address(shop, "anna", "phone-2", "token", "second")
    await track(shop, "Cart", user_id="anna")
    await reports_address(shop, "anna", "phone-anna", "token", "second")
    queue = PushStore(shop.state)
    claimed = await queue.claim("me", shop.clock(), 9)
    leaving = await queue.mark_sending(claimed, shop.clock())
    assert [push.address_value for push in leaving] == ["second"]


@pytest.mark.parametrize("trigger", ["zone_dwelt", "store_dwelt"])
async def test_whoever_an_operator_takes_a_tag_from_is_there_no_longer(live_shop, trigger):
    """The till gives the tag to the next customer, who is there from then on."""
    shop = live_shop
    place = {"store_id": "s1"} if trigger == "store_dwelt" else {"store_id": "s1", "zone_id": "a"}
    await save(shop, trigger={"type": trigger, **place, "dwell_s": 8})
    await save(shop, "left", trigger={"type": "zone_left", "store_id": "s1", "zone_id": "a"})
    await shop.person("anna", ANNA)
    await shop.person("berta")
    await shop.folded()
    await shop.hear(ANNA, seconds=4)
    await shop.folded()
    await shop.state.write(lambda s: identities.assign_beacon(s, "user_id:berta", ANNA, shop.clock()))
    shop.fold.refresh()
    await shop.heartbeat()
    await shop.folded()
    anna, berta = [
        await shop.state.read(lambda s, u=user: profiles.resolve(s, "user_id", u))
        for user in ("anna", "berta")
    ]
    assert await shop.column("select left_at is null from visits") == [0]
    await shop.hear(ANNA, seconds=6)
    await shop.folded()
    assert await told(shop) == []
    await shop.hear(ANNA, seconds=6)
    await shop.folded()
    assert await shop.column("select profile_id from decisions") == [berta]
    assert await shop.column("select profile_id from visits order by entered_at") == [anna, berta]


async def test_a_tag_that_an_operator_takes_away_is_nowhere(live_shop):
    shop = live_shop
    await shop.person("anna", ANNA)
    await shop.folded()
    await shop.hear(ANNA, seconds=4)
    await shop.folded()
    assert await shop.column("select zone_id from presences") == ["a"]
    await shop.state.write(lambda s: identities.take_beacon(s, "user_id:anna", ANNA, shop.clock()))
    shop.fold.refresh()
    await shop.heartbeat()
    await shop.folded()
    assert await shop.column("select zone_id from presences") == []
    assert await shop.column("select left_at is null from visits") == [0]


async def test_whose_profile_an_operator_merges_goes_on_being_there(live_shop):
    shop = live_shop
    await shop.person("anna", ANNA)
    await shop.person("berta")
    await shop.folded()
    await shop.hear(ANNA, seconds=4)
    await shop.folded()
    await shop.state.write(
        lambda s: identities.merge(s, "user_id:anna", "user_id:berta", shop.clock(), lambda: "m" * 36)
    )
    shop.fold.refresh()
    await shop.hear(ANNA, seconds=2)
    await shop.folded()
    assert await shop.column("select left_at is null from visits") == [1]
    assert await shop.column("select count(*) from zone_visits") == [1]
