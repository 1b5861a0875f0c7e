"""What explain and the dry run say of a moment is what the fold then decides about it."""

import msgspec
import pytest

from backend.api.measurement import explained
from backend.campaigns.model import parse_campaign
from backend.proximity.fences import METRES_A_DEGREE, parse_fence
from backend.push.model import Finish, PushState
from backend.storage import campaigns as campaign_rows
from backend.storage import fences, profiles, results
from backend.storage.offers import SendChecks, zone_of_person
from backend.storage.pushes import PushStore
from sdk_bridge.wire.app_events import Location

ANNA = "altbeacon:" + "a" * 40
FREE = {"quiet_hours": None, "cooldown_s": 0, "max_total": 9, "max_per_day": 99, "max_per_week": 99}
CART = {"type": "event", "name": "Cart"}
NIGHT = {"start": "21:00", "end": "08:00"}
AT_TEN = 10 * 3_600_000  # from noon UTC on: midnight in Vienna, afternoon in New York


async def save(shop, campaign_id: str = "c1", **more):
    definition = {
        "campaign_id": campaign_id,
        "name": campaign_id,
        "trigger": CART,
        "offer": {"title": "Hello", "body": "There", "life_s": 86_400},
        "guardrails": FREE,
        "state": "live",
        **more,
    }
    campaign = parse_campaign(msgspec.json.encode(definition))
    await shop.state.write(lambda s: campaign_rows.save_campaign(s, campaign, shop.clock()))
    shop.fold.refresh()
    return campaign


async def stores_clock(shop, zone: str) -> None:
    await shop.state.write(lambda s: s.run("save_store", store_id="s1", name="Shop", timezone=zone))


async def track(shop, name: str, user: str = "anna") -> None:
    await shop.journal.append_events([shop.event("track", name=name, user_id=user)])
    await shop.folded()


async def be_at(shop, metres: float) -> None:
    shop.clock.forward(10_000)
    where = Location(48.2 + metres / METRES_A_DEGREE, 16.37, 10)
    await shop.journal.append_events(
        [shop.event("location", user_id="anna", device_id="phone-anna", location=where)]
    )
    await shop.folded()


async def foretold(shop, campaign, user: str = "anna") -> tuple[str, str, bool]:
    """Verdict, reason, and whether it has to wait."""

    def ask(session):
        person = profiles.resolve(session, "user_id", user)
        return explained(session, campaign, person, shop.clock())

    told = await shop.state.read(ask)
    assert [rule.passes for rule in told.rules].count(False) == 0 or told.verdict == "suppressed"
    return told.verdict, told.reason, told.send_at > shop.clock()


async def happened(shop, campaign_id: str = "c1") -> list[tuple[str, str, bool]]:
    sql = f"select verdict, reason, send_at, decided_at from decisions where campaign_id = '{campaign_id}'"
    return [
        (row["verdict"], row["reason"], (row["send_at"] or 0) > row["decided_at"])
        for row in await shop.rows(f"{sql} order by decision_id")
    ]


async def sent(shop) -> None:
    queue = PushStore(shop.state)
    leaving = await queue.mark_sending(await queue.claim("me", shop.clock(), 9), shop.clock())
    await queue.settle([Finish(push, PushState.ACCEPTED) for push in leaving], shop.clock())


# Explain --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["Europe/Vienna", "America/New_York", "Pacific/Kiritimati"])
@pytest.mark.parametrize("trigger", ["store_entered", "category_dwelt"])
async def test_the_clock_of_the_store_that_the_person_is_in_counts(live_shop, zone, trigger):
    """The campaign names no store: the moment happens where the person is."""
    shop = live_shop
    await stores_clock(shop, zone)
    await shop.state.write(
        lambda s: s.run("save_zone", store_id="s1", zone_id="a", name="A", categories='["Shoes"]')
    )
    own = {"dwell_s": 5, "categories": ["Shoes"]} if trigger == "category_dwelt" else {}
    campaign = await save(
        shop, trigger={"type": trigger, **own}, guardrails={**FREE, "quiet_hours": NIGHT, "max_total": 1}
    )
    await shop.person("anna", ANNA)
    shop.clock.forward(AT_TEN)
    shop.fold.refresh()
    await shop.hear(ANNA, seconds=3)
    await shop.folded()
    if trigger == "category_dwelt":
        told = await foretold(shop, campaign)
        await shop.hear(ANNA, seconds=10)
        await shop.folded()
        assert await happened(shop) == [told]
    else:
        [decided] = await happened(shop)
        campaign = await save(
            shop, "again", trigger={"type": trigger}, guardrails={**FREE, "quiet_hours": NIGHT}
        )
        assert await foretold(shop, campaign) == decided


@pytest.mark.parametrize("zone", ["Europe/Vienna", "America/New_York"])
async def test_a_fence_belongs_to_its_store(live_shop, zone):
    shop = live_shop
    shape = {"type": "circle", "latitude": 48.2, "longitude": 16.37, "radius_m": 150}
    fence = parse_fence(
        msgspec.json.encode({"fence_id": "door", "name": "Door", "shape": shape, "store_id": "s1"})
    )
    await stores_clock(shop, zone)
    await shop.state.write(lambda s: fences.put_fences(s, [fence], shop.clock()))
    campaign = await save(
        shop,
        trigger={"type": "fence_entered", "fence_id": "door"},
        guardrails={**FREE, "quiet_hours": NIGHT, "place_cooldown_s": 3600},
    )
    await shop.person("anna")
    shop.clock.forward(AT_TEN)
    await be_at(shop, 900)
    told = await foretold(shop, campaign)
    await be_at(shop, 0)
    shop.clock.forward(1)
    rehearsed = await shop.state.read(lambda s: results.rehearsed(s, campaign, 0, shop.clock()))
    assert [(one.decision.verdict, one.decision.reason) for one in rehearsed] == [told[:2]]
    await sent(shop)
    await be_at(shop, 900)
    told_again = await foretold(shop, campaign)
    await be_at(shop, 0)
    assert await happened(shop) == [told, told_again]
    assert told_again[0] == "suppressed"


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("{{ profile.name }}", None),
        ("{{ profile.nickname }}", "comes out empty"),
        ("{{ profile.name | divided_by: 0 }}", "can't divide by 0"),
    ],
)
async def test_a_text_that_cannot_be_filled_in_is_foretold(live_shop, title, reason):
    shop = live_shop
    campaign = await save(shop, offer={"title": title, "body": "b"})
    await shop.person("anna")
    await shop.folded()
    told = await foretold(shop, campaign)
    await track(shop, "Cart")
    assert await happened(shop) == [told]
    assert (reason or "eligible") in told[1]
    shop.clock.forward(1)
    rehearsed = await shop.state.read(lambda s: results.rehearsed(s, campaign, 0, shop.clock()))
    assert [(one.decision.verdict, one.decision.reason) for one in rehearsed] == [told[:2]]


# The dry run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guardrails",
    [
        {"max_total": 1},
        {"max_total": 9},
        {"max_total": 9, "max_per_day": 1},
        {"max_total": 9, "cooldown_s": 3600},
        {"max_total": 9, "max_per_week": 2},
    ],
)
@pytest.mark.parametrize("holdout", [0, 100])
async def test_a_dry_run_counts_what_waits_for_the_morning(live_shop, guardrails, holdout):
    """Three moments on each of two evenings, and one by day; what is held is sent in the morning."""
    shop = live_shop
    rules = {**FREE, **guardrails, "quiet_hours": NIGHT}
    campaign = await save(shop, guardrails=rules, holdout_percent=holdout, goal={"event": "Never"})
    await shop.person("anna")
    shop.clock.forward(8 * 3_600_000)  # 22:00 in Vienna
    for _ in range(2):
        for _ in range(3):
            shop.clock.forward(60_000)
            await track(shop, "Cart")
        shop.clock.forward(13 * 3_600_000)
        await sent(shop)
        await track(shop, "Cart")
        await sent(shop)
        shop.clock.forward(11 * 3_600_000 - 180_000)
    rehearsed = await shop.state.read(lambda s: results.rehearsed(s, campaign, 0, shop.clock()))
    assert [(one.decision.verdict, one.decision.reason) for one in rehearsed] == [
        decided[:2] for decided in await happened(shop)
    ]


@pytest.mark.parametrize("bought_ago_s", [300, 0, -60], ids=["before", "at once", "since"])
async def test_a_purchase_stops_a_rehearsed_offer_from_when_word_of_it_came(live_shop, bought_ago_s):
    """Bought at the till, and reported half an hour later; until then the offers go out."""
    shop = live_shop
    campaign = await save(shop, trigger={**CART, "wait_s": 60}, goal={"event": "Order Completed"})
    await shop.person("anna")
    carts = []
    for reported in (False, True):
        shop.clock.forward(600_000)
        await track(shop, "Cart")
        carts.append(shop.clock())
        if reported:
            await reported_late(shop, "Order Completed", carts[0] - bought_ago_s * 1000)
        shop.clock.forward(60_000)
        await shop.heartbeat()
        await shop.folded()
        await sent(shop)
    decided = await happened(shop)
    assert [verdict for verdict, _, _ in decided] == ["sent", "suppressed"]
    await rehearsed_as(shop, campaign, decided)


async def test_a_moment_that_came_late_speaks_of_what_was_looked_at_until_it_came(live_shop):
    shop = live_shop
    offer = {"title": "{{ product.name }}", "body": "b", "products": "viewed", "life_s": 86_400}
    campaign = await save(shop, offer=offer)
    await shop.person("anna")
    happened_at = shop.clock()
    shop.clock.forward(600_000)
    looked = {"product_id": "p1", "name": "Shoe"}
    await shop.journal.append_events(
        [shop.event("track", name="Product Viewed", user_id="anna", properties=looked)]
    )
    shop.clock.forward(600_000)
    await reported_late(shop, "Cart", happened_at)
    decided = await happened(shop)
    assert [verdict for verdict, _, _ in decided] == ["sent"]
    await rehearsed_as(shop, campaign, decided)


@pytest.mark.parametrize(("life_s", "wait_s"), [(60, 0), (600, 0), (60, 300)])
async def test_that_somebody_left_a_store_is_known_later_also_in_a_rehearsal(live_shop, life_s, wait_s):
    """Two minutes later; an offer that does not live so long reaches nobody."""
    shop = live_shop
    offer = {"title": "Hello", "body": "There", "life_s": life_s}
    campaign = await save(shop, trigger={"type": "store_left", "wait_s": wait_s}, offer=offer)
    await shop.person("anna", ANNA)
    await shop.hear(ANNA, seconds=5)
    for _ in range(160):
        shop.clock.forward(3_000)
        await shop.heartbeat()
    await shop.folded()
    decided = await happened(shop)
    assert [verdict for verdict, _, _ in decided] == ["suppressed" if (life_s, wait_s) == (60, 0) else "sent"]
    await rehearsed_as(shop, campaign, decided)


async def reported_late(shop, name: str, occurred_at: int) -> None:
    await shop.journal.append_events(
        [shop.event("track", name=name, user_id="anna", occurred_at=occurred_at)]
    )
    await shop.folded()


async def rehearsed_as(shop, campaign, decided) -> None:
    shop.clock.forward(1)
    played = await shop.state.read(lambda s: results.rehearsed(s, campaign, 0, shop.clock()))
    assert [(one.decision.verdict, one.decision.reason) for one in played] == [one[:2] for one in decided]


# Whose clock ----------------------------------------------------------------------------------------------


async def clock_of(shop, user: str, store_id: str | None) -> str:
    def ask(session):
        return zone_of_person(session, profiles.resolve(session, "user_id", user), store_id).key

    return await shop.state.read(ask)


async def test_a_moment_in_no_store_has_the_clock_of_the_store_that_was_visited_last(live_shop):
    shop = live_shop
    await shop.person("anna", ANNA)
    await shop.person("berta")
    await shop.folded()
    assert await clock_of(shop, "berta", None) == "Europe/Vienna", "the only one that there is"
    await shop.state.write(
        lambda s: s.run("save_store", store_id="s2", name="Other", timezone="America/New_York")
    )
    assert await clock_of(shop, "anna", None) == "UTC", "nobody knows"
    await shop.hear(ANNA, seconds=3)
    await shop.folded()
    assert await clock_of(shop, "anna", None) == "Europe/Vienna"
    assert await clock_of(shop, "anna", "s2") == "America/New_York"
    assert await clock_of(shop, "berta", None) == "UTC"


# Right before it leaves -----------------------------------------------------------------------------------


async def test_the_cooldown_of_a_place_holds_for_two_who_became_one(live_shop):
    shop = live_shop
    shape = {"type": "circle", "latitude": 48.2, "longitude": 16.37, "radius_m": 150}
    fence = parse_fence(msgspec.json.encode({"fence_id": "door", "name": "Door", "shape": shape}))
    await shop.state.write(lambda s: fences.put_fences(s, [fence], shop.clock()))
    await save(
        shop,
        trigger={"type": "fence_entered", "fence_id": "door"},
        guardrails={**FREE, "place_cooldown_s": 86_400},
    )
    await shop.person("anna")
    await be_at(shop, 900)
    await be_at(shop, 0)
    await sent(shop)
    await shop.state.write(lambda s: s.run("end_decision", decision_id=1))
    await be_at(shop, 900)
    shop.clock.forward(2 * 86_400_000)
    await be_at(shop, 0)
    [push] = await PushStore(shop.state).claim("me", shop.clock(), 9)
    may = SendChecks(shop.state).may_send
    assert await may(push, shop.clock()) is None
    moved = shop.clock() - 3_600_000
    await shop.state.write(
        lambda s: s._connection.execute("update decisions set send_at = ? where decision_id = 1", (moved,))
    )
    assert await may(push, shop.clock()) == "cooldown here"


# Beside others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["ab", "ba"], ids=["behind", "before"])
@pytest.mark.parametrize("priorities", [(0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize("most", [1, 9])
async def test_a_dry_run_knows_of_the_campaigns_that_would_have_had_the_moment(
    live_shop, names, priorities, most
):
    """The fold decides some milliseconds after the moment has come, so what the others sent is younger."""
    shop, (ours, theirs) = live_shop, names
    for name, priority in zip((ours, theirs), priorities, strict=True):
        await save(shop, name, guardrails={**FREE, "max_per_day": most, "priority": priority})
    await shop.person("anna")
    [cart] = [shop.event("track", name="Cart", user_id="anna")]
    shop.clock.forward(30)
    await shop.journal.append_events([cart])
    await shop.folded()
    chosen = await shop.state.read(lambda s: campaign_rows.campaign(s, ours))
    await rehearsed_as(shop, chosen.campaign, await happened(shop, ours))


@pytest.mark.parametrize("priority", [0, 1])
@pytest.mark.parametrize("ours", ["Look", "Cart"])
async def test_what_is_learned_apart_competes_in_a_rehearsal_as_it_does(live_shop, ours, priority):
    """A second apart; equals then do not compete at all, and what is gone is beyond a later one's reach."""
    shop = live_shop
    campaigns = {
        "Look": await save(shop, "a", trigger={"type": "event", "name": "Look"}),
        "Cart": await save(shop, "b", guardrails={**FREE, "priority": priority}),
    }
    await shop.person("anna")
    look = shop.event("track", name="Look", user_id="anna")
    shop.clock.forward(1000)
    cart = shop.event("track", name="Cart", user_id="anna")
    for late in (look, cart):  # each is folded when the next has happened already
        shop.clock.forward(100)
        await shop.journal.append_events([late])
        await shop.folded()
        await sent(shop)
    name = campaigns[ours].campaign_id
    assert [verdict for verdict, _, _ in await happened(shop, name)] == ["sent"]
    await rehearsed_as(shop, campaigns[ours], await happened(shop, name))
