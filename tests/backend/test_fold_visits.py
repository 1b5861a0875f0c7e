"""Visits to stores, and phones that hear a zone's beacon, through a fold on real files."""

import msgspec
import pytest

from backend.campaigns.model import parse_campaign
from backend.folding.transaction import FORGET_EVERY_MS
from backend.proximity.visits import AWAY_MS
from backend.storage import campaigns as campaign_rows
from backend.storage.floor import visit_of
from backend.storage.ownership import Holding
from sdk_bridge.wire.app_events import BeaconSighting
from sdk_bridge.wire.messages import Batch, Readings
from sdk_bridge.wire.topics import partition_of

ANNA = "ibeacon:00000000-0000-0000-0000-0000000000aa:1:1"
SHELF = "ibeacon:00000000-0000-0000-0000-0000000000ff:1:2"


def reading(beacon: str, at: int) -> Batch:
    """One advert, by the clock of whoever heard it."""
    return Batch("", at - 500, [beacon], Readings([0], [0], [1], [60], [60]))


async def quiet(shop, seconds: int) -> None:
    """Time passes; the gateways are alive and hear nobody."""
    for _ in range(seconds // 4 + 1):
        shop.clock.forward(4000)
        for gateway in ("g-a", "g-b"):
            await shop.heartbeat(gateway)
    await shop.folded()


async def test_a_visit_spans_its_zones_and_ends_when_the_last_was_left(live_shop):
    shop = live_shop
    await shop.person("anna", ANNA)
    await shop.folded()
    await shop.hear(ANNA, "g-a", seconds=5)
    await shop.folded()
    begun = (await shop.rows("select * from visits"))[0]
    assert begun["left_at"] is None
    assert begun["profile_id"] is not None
    await quiet(shop, 20)
    assert (await shop.rows("select * from visits"))[0]["left_at"] is None, "perhaps only behind a shelf"
    await quiet(shop, AWAY_MS // 1000 + 8)
    [ended] = await shop.rows("select * from visits")
    [zone] = await shop.rows("select * from zone_visits")
    assert ended["left_at"] == zone["left_at"] >= zone["entered_at"] == ended["entered_at"]
    assert zone["confidence"] in ("low", "medium", "high")


async def test_an_open_visit_outlives_the_process(live_shop):
    shop = live_shop
    await shop.person("anna", ANNA)
    await shop.folded()
    await shop.hear(ANNA, "g-a", seconds=5)
    await quiet(shop, 12)
    again = shop.new_fold()
    await again.load()
    assert [visit.idle_since is not None for visit in again._live.visits.open.values()] == [True]


@pytest.fixture
async def shelf(live_shop):
    def write(session) -> None:
        session.run("save_beacon", beacon_key=SHELF, role="zone", store_id="s1", zone_id="b")

    await live_shop.state.write(write)
    live_shop.fold.refresh()
    return live_shop


async def near_the_shelf(
    shop, *, seconds: int, what: str = "range", rssi: int | None = -55, late_ms: int = 0, key: str = SHELF
):
    for _ in range(seconds):
        shop.clock.forward(1000)
        seen = BeaconSighting(key, what, rssi)
        event = shop.event(
            "beacon_sighting",
            user_id="anna",
            device_id="phone-anna",
            sighting=seen,
            occurred_at=shop.clock() - late_ms,
        )
        await shop.journal.append_events([event])
    await shop.folded()


async def test_a_phone_beside_a_zones_beacon_is_in_the_zone(shelf):
    await shelf.person("anna")
    await near_the_shelf(shelf, seconds=5)
    [visit] = await shelf.rows("select * from zone_visits")
    assert (visit["beacon_key"], visit["zone_id"]) == ("phone:phone-anna", "b")
    assert visit["profile_id"] == (await shelf.rows("select * from presences"))[0]["profile_id"]
    await quiet(shelf, 20)
    assert await shelf.column("select count(*) from presences") == [0]


async def test_a_phone_that_is_nowhere_takes_no_memory(shelf):
    await shelf.person("anna")
    await near_the_shelf(shelf, seconds=5)
    live = shelf.fold._live
    assert [live.phones.keys(), live.partitions.keys()] == [{"phone:phone-anna"}] * 2
    await quiet(shelf, (AWAY_MS + FORGET_EVERY_MS) // 1000 + 20)
    assert not live.visits.open
    assert [live.phones, live.partitions] == [{}, {}]
    await near_the_shelf(shelf, seconds=5)
    assert await shelf.column("select count(*) from presences where profile_id is not null") == [1]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"rssi": 0}, id="a level that the phone did not know"),
        pytest.param({"what": "leave", "rssi": None}, id="leaving"),
        pytest.param({"late_ms": 60_000}, id="of a minute ago"),
    ],
)
async def test_what_a_phone_says_that_places_nobody(shelf, how):
    await shelf.person("anna")
    await near_the_shelf(shelf, seconds=5, **how)
    assert await shelf.column("select count(*) from zone_visits") == [0]


async def test_whoever_has_not_agreed_is_nowhere_and_whoever_withdraws_leaves_at_once(shelf):
    await shelf.person("anna", consent={"proximity": False})
    await near_the_shelf(shelf, seconds=4)
    assert await shelf.column("select count(*) from zone_visits") == [0]
    for granted in (True, False):
        shelf.clock.forward(1000)
        event = shelf.event("consent", user_id="anna", device_id="phone-anna", consent={"proximity": granted})
        await shelf.journal.append_events([event])
        if granted:
            await near_the_shelf(shelf, seconds=4)
            assert await shelf.column("select left_at from visits") == [None]
    await shelf.folded()
    assert None not in await shelf.column("select left_at from visits")
    assert await shelf.column("select count(*) from presences") == [0]


ATTIC = "ibeacon:00000000-0000-0000-0000-0000000000ff:1:3"


@pytest.fixture
async def attic(shop):
    """A zone with a fixed beacon and no gateway, in a shop whose other zones have one."""

    def write(session) -> None:
        session.run("save_zone", store_id="s1", zone_id="attic", name="Attic", categories="[]")
        session.run("save_beacon", beacon_key=ATTIC, role="zone", store_id="s1", zone_id="attic")

    await shop.state.write(write)
    shop.fold.refresh()
    return shop


async def test_a_phone_in_a_zone_of_beacons_alone_outlives_the_process(attic, running):
    shop = attic
    async with running(shop.fold.run()):
        await shop.person("anna")
        await shop.folded()
        await near_the_shelf(shop, seconds=5, key=ATTIC)
    for seconds in (5, 0):  # as after a SIGKILL: nothing but the database is left
        shop.fold = shop.new_fold()
        await shop.fold.load()
        async with running(shop.fold.run()):
            await near_the_shelf(shop, seconds=seconds, key=ATTIC)
            [visit] = await shop.rows("select * from zone_visits")
            assert (visit["zone_id"], visit["left_at"]) == ("attic", None)
            if not seconds:
                await quiet(shop, 20)
    [visit] = await shop.rows("select * from zone_visits")
    assert visit["left_at"] == visit["entered_at"] + 9_000, "when it was last heard"


async def test_a_region_entered_and_left_is_a_visit(attic, running):
    async with running(attic.fold.run()):
        await attic.person("anna")
        await attic.folded()
        await near_the_shelf(attic, seconds=1, what="enter", rssi=None, key=ATTIC)
        entered_at = attic.clock()
        attic.clock.forward(4000)
        await attic.heartbeat("g-a")
        await near_the_shelf(attic, seconds=1, what="leave", rssi=None, key=ATTIC)
    [visit] = await attic.rows("select * from zone_visits")
    assert (visit["zone_id"], visit["entered_at"], visit["left_at"]) == ("attic", entered_at, attic.clock())


# Where nobody listens -------------------------------------------------------------------------------------


async def deaf(shop, seconds: int) -> None:
    """Time passes; no gateway is heard of."""
    for _ in range(seconds // 4 + 1):
        shop.clock.forward(4000)
        await shop.journal.append_events([shop.event("track", name="Somewhere", user_id="nobody")])
    await shop.folded()


async def come_back_campaign(shop) -> None:
    definition = {
        "campaign_id": "bye",
        "name": "Bye",
        "trigger": {"type": "store_left"},
        "offer": {"title": "Bye", "body": "Come back", "life_s": 3600},
        "guardrails": {"quiet_hours": None},
        "state": "live",
    }
    campaign = parse_campaign(msgspec.json.encode(definition))
    await shop.state.write(lambda s: campaign_rows.save_campaign(s, campaign, shop.clock()))
    shop.fold.refresh()


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_shop_without_network_does_not_empty(shop, running, restarts):
    """Nobody is told goodbye who stands in the shop, and a visit stays one visit."""
    await come_back_campaign(shop)
    async with running(shop.fold.run()):
        await shop.person("anna", ANNA)
        await shop.folded()
        await shop.hear(ANNA, "g-a", seconds=5)
        await deaf(shop, 30)
    if restarts:
        shop.fold = shop.new_fold()
        await shop.fold.load()
    async with running(shop.fold.run()):
        await deaf(shop, 600)
        await shop.hear(ANNA, "g-a", seconds=5)
        await shop.folded()
    assert await shop.rows("select * from decisions") == []
    [visit] = await shop.rows("select * from visits")
    assert (visit["left_at"], visit["idle_since"]) == (None, None)
    assert len(await shop.rows("select * from zone_visits")) == 2


async def test_who_is_gone_when_the_network_is_back_left_at_some_time(live_shop):
    shop = live_shop
    await come_back_campaign(shop)
    await shop.person("anna", ANNA)
    await shop.folded()
    await shop.hear(ANNA, "g-a", seconds=5)
    await deaf(shop, 600)
    await quiet(shop, AWAY_MS // 1000 + 8)
    [visit] = await shop.rows("select * from visits")
    [zone] = await shop.rows("select * from zone_visits")
    assert visit["left_at"] == zone["left_at"]
    assert await shop.column("select confidence from decisions") == ["low"]


async def test_reading_the_registry_anew_makes_nobody_less_sure(live_shop):
    """The gateways listened all along, whatever an operator changed meanwhile."""
    shop = live_shop
    await come_back_campaign(shop)
    await shop.person("anna", ANNA)
    await shop.folded()
    await shop.hear(ANNA, "g-a", seconds=5)
    await quiet(shop, 20)
    assert (await shop.rows("select * from visits"))[0]["idle_since"] is not None
    shop.fold.refresh()
    await quiet(shop, AWAY_MS // 1000 + 8)
    assert await shop.column("select confidence from decisions") == ["high"]


@pytest.mark.parametrize(("ours", "lost_in"), [(True, "a"), (False, None)])
def test_a_visit_to_a_store_that_another_replica_listens_to_ends_as_ever(ours, lost_in):
    """Nobody here would ever hear that its gateways are alive."""
    row = {"subject": ANNA, "store_id": "s1", "entered_at": 1, "idle_since": 2, "last_zone": "a"}
    partition = partition_of("s1") if ours else partition_of("s1") + 1
    assert visit_of(row, Holding({partition: 1})).lost_in == lost_in


async def test_what_a_phones_former_holder_saw_ends_nobodys_visit(shelf):
    shop = shelf
    await shop.person("anna")
    await shop.person("berta")
    await shop.folded()
    told = shop.event(
        "beacon_sighting",
        user_id="berta",
        device_id="phone-anna",
        sighting=BeaconSighting(SHELF, "range", -50),
    )
    await near_the_shelf(shop, seconds=6)
    late = msgspec.structs.replace(told, received_at=shop.clock())
    await shop.journal.append_events([late])
    await shop.folded()
    [visit] = await shop.rows("select * from visits")
    assert visit["left_at"] is None


@pytest.mark.parametrize("late_s", [11, 20, 29])
async def test_what_comes_late_moves_nobody_into_a_zone_and_out_of_it_again(live_shop, late_s):
    """A gateway of another make whose clock is slow, or one whose network stood still."""
    shop = live_shop
    await shop.person("anna", ANNA)
    await shop.folded()
    for _ in range(15):
        shop.clock.forward(1000)
        await shop.append(reading(ANNA, shop.clock() - late_s * 1000))
    await shop.folded()
    assert await shop.rows("select * from zone_visits") == []
    assert await shop.column("select count(*) from sightings") == [15], "history all the same"
    await shop.hear(ANNA, seconds=5)
    await shop.folded()
    assert await shop.column("select zone_id from zone_visits") == ["a"]
