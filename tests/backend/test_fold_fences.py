"""Geofences through a fold on real files: phones' locations, their systems' word, campaigns, consent."""

import msgspec
import pytest

from backend.campaigns.model import parse_campaign
from backend.proximity.fence_tracks import FenceTracks
from backend.proximity.fences import METRES_A_DEGREE, parse_fence
from backend.storage import campaigns as campaign_rows
from backend.storage import fences as fence_rows
from backend.storage.places import StoredPlaces
from sdk_bridge.wire.app_events import FenceTransition, Location
from sdk_bridge.wire.places import BeaconRegion, FenceRegion

LATITUDE, LONGITUDE = 48.2, 16.37


def fence(fence_id: str = "door", *, north_m: float = 0, radius_m: float = 150, **more):
    shape = {
        "type": "circle",
        "latitude": LATITUDE + north_m / METRES_A_DEGREE,
        "longitude": LONGITUDE,
        "radius_m": radius_m,
    }
    return parse_fence(msgspec.json.encode({"fence_id": fence_id, "name": "Door", "shape": shape, **more}))


@pytest.fixture
async def street(live_shop):
    shop = live_shop
    await shop.state.write(lambda s: fence_rows.put_fences(s, [fence(store_id="s1")], shop.clock()))
    shop.fold.refresh()
    await shop.person("anna")
    await shop.folded()
    return shop


async def be_at(shop, metres: float, *, user: str = "anna", accuracy: float = 10, **more) -> None:
    shop.clock.forward(10_000)
    where = Location(LATITUDE + metres / METRES_A_DEGREE, LONGITUDE, accuracy)
    event = shop.event("location", user_id=user, device_id=f"phone-{user}", location=where, **more)
    await shop.journal.append_events([event])
    await shop.folded()


async def offer(shop, trigger: dict, **more) -> None:
    definition = {
        "campaign_id": "c1",
        "name": "Come in",
        "trigger": trigger,
        "offer": {"title": "Hello", "body": "Come in", "life_s": 600},
        "guardrails": {"quiet_hours": None},
        "state": "live",
        **more,
    }
    campaign = parse_campaign(msgspec.json.encode(definition))
    await shop.state.write(lambda s: campaign_rows.save_campaign(s, campaign, shop.clock()))
    shop.fold.refresh()


async def decided(shop) -> list[tuple]:
    rows = await shop.rows("select verdict, reason, fence_id from decisions order by decision_id")
    return [(row["verdict"], row["reason"], row["fence_id"]) for row in rows]


@pytest.mark.parametrize(
    ("trigger", "way"),
    [
        ({"type": "fence_approached", "fence_id": "door"}, [640, 600, 500]),
        ({"type": "fence_entered", "fence_id": "door"}, [600, 50]),
        ({"type": "fence_dwelt", "fence_id": "door", "dwell_s": 15}, [600, 50, 40, 30]),
        ({"type": "fence_left", "fence_id": "door"}, [50, 900]),
    ],
)
async def test_each_transition_makes_one_offer(street, trigger, way):
    await offer(street, trigger)
    for metres in way[:-1]:
        await be_at(street, metres)
        assert await decided(street) == []
    await be_at(street, way[-1])
    assert await decided(street) == [("sent", "eligible", "door")]
    for metres in way:
        await be_at(street, metres)
    assert [verdict for verdict, *_ in await decided(street)].count("sent") == 1


async def test_nothing_is_remembered_of_a_phone_that_another_replica_follows(street):
    await be_at(street, 50)
    live = street.fold._live
    live.lose("phone:phone-anna")
    assert live.fence_tracks == FenceTracks()


async def test_whoever_left_too_soon_gets_nothing(street):
    await offer(street, {"type": "fence_dwelt", "fence_id": "door", "dwell_s": 60})
    for metres in (50, 40, 900, 900, 900, 900, 900, 900, 900):
        await be_at(street, metres)
    assert await decided(street) == []
    assert await street.column("select count(*) from campaign_waits") == [0]


async def test_what_the_phones_system_reports_counts(street):
    await offer(street, {"type": "fence_entered", "fence_id": "door"})
    event = street.event(
        "fence_transition", user_id="anna", device_id="phone-anna", fence=FenceTransition("door", "enter")
    )
    await street.journal.append_events([event])
    await street.folded()
    assert await decided(street) == [("sent", "eligible", "door")]
    [stay] = await street.rows("select * from fence_visits")
    assert (stay["fence_id"], stay["left_at"]) == ("door", None)


async def test_a_phone_that_changes_hands_takes_nobody_along(street):
    """Anna was in the fence; berta, who goes out of it with the same phone, never was."""
    await offer(street, {"type": "fence_left", "fence_id": "door"})
    await street.person("berta")
    await be_at(street, 50)
    where = Location(LATITUDE + 900 / METRES_A_DEGREE, LONGITUDE, 10)
    for ago, is_closed in ((60_000, False), (0, True)):  # what berta did before says nothing of now
        at = street.clock() - ago
        event = street.event(
            "location", user_id="berta", device_id="phone-anna", location=where, occurred_at=at
        )
        await street.journal.append_events([event])
        await street.folded()
        [stay] = await street.rows("select profile_id, left_at from fence_visits")
        assert (stay["left_at"] is not None) == is_closed
        street.clock.forward(10_000)
    [left] = await street.rows("select profile_id from decisions")
    assert left["profile_id"] == stay["profile_id"]
    names = "select id from profiles where id_type = 'user_id' and profile_id = '{}'"
    assert await street.column(names.format(stay["profile_id"])) == ["anna"]


@pytest.mark.parametrize("accuracy", [None, 20.0])
async def test_a_system_that_tells_no_place_is_believed_of_a_small_fence(street, accuracy):
    """Its fix is its own business; only one that it tells, and that is worse than the fence, says nothing."""
    small = fence("booth", radius_m=40)
    await street.state.write(lambda s: fence_rows.put_fences(s, [small], street.clock()))
    street.fold.refresh()
    await offer(street, {"type": "fence_entered", "fence_id": "booth"})
    where = None if accuracy is None else Location(LATITUDE, LONGITUDE, accuracy)
    said = FenceTransition("booth", "enter")
    event = street.event(
        "fence_transition", user_id="anna", device_id="phone-anna", fence=said, location=where
    )
    await street.journal.append_events([event])
    await street.folded()
    assert await decided(street) == [("sent", "eligible", "booth")]


async def test_without_consent_nothing_is_kept_of_where_somebody_was(street):
    await street.person("berta", consent={"proximity": False, "push": True})
    await be_at(street, 10, user="berta")
    assert await street.column("select count(*) from events where kind = 'location'") == [0]
    assert await street.column("select count(*) from fence_presences") == [0]


async def test_whoever_withdraws_is_out_of_every_fence_at_once(street):
    await be_at(street, 10)
    assert await street.column("select inside from fence_presences") == [1]
    street.clock.forward(1)
    event = street.event("consent", user_id="anna", device_id="phone-anna", consent={"proximity": False})
    await street.journal.append_events([event])
    await street.folded()
    assert await street.column("select count(*) from fence_presences") == [0]
    assert None not in await street.column("select left_at from fence_visits")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("here", []),
        ("yes here", [1]),
        ("here yes here", [2]),
        ("yes here no here", [1]),
        ("no here yes here here", [3, 4]),
        ("yes no here", []),
        ("yes here here no yes here no here", [1, 2, 5]),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_somebody_says_counts_for_what_comes_after_it(street, said, kept, at_once):
    """Also where all of it comes in one call, and so in one transaction."""
    events = []
    for number, word in enumerate(said.split()):
        street.clock.forward(1_000)
        who = {"user_id": "berta", "device_id": "phone-berta", "message_id": f"{number}"}
        if word == "here":
            events.append(street.event("location", location=Location(LATITUDE, LONGITUDE, 10.0), **who))
        else:
            events.append(street.event("consent", consent={"proximity": word == "yes"}, **who))
    for call in [events] if at_once else [[event] for event in events]:
        await street.journal.append_events(call)
        await street.folded()
    stored = await street.column("select message_id from events where kind = 'location' order by event_id")
    assert stored == [str(number) for number in kept]
    is_here = said.split()[-1] == "here" and len(events) - 1 in kept
    assert await street.column("select inside from fence_presences") == [1] * is_here


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_stranger_who_was_merged_takes_their_refusal_along(street, at_once):
    """A phone that refused before anybody knew whose it is refuses for its owner, in the same call too."""
    phone = {"device_id": "tablet"}
    here = Location(LATITUDE, LONGITUDE, 10.0)
    refused = street.event("consent", consent={"proximity": False}, **phone)
    if not at_once:
        await street.journal.append_events([refused])
        await street.folded()
    await be_at(street, 10)
    seen = street.event("location", user_id="anna", location=here, **phone)
    await street.journal.append_events([refused, seen] if at_once else [seen])
    await street.folded()
    assert await street.column("select count(*) from events where kind = 'location'") == [1]
    assert await street.column("select profile_id from fence_presences where subject = 'phone:tablet'") == []


async def test_who_turns_out_to_have_refused_is_nowhere(street):
    """A stranger agreed; then, in the same call, they are known to be somebody who refused."""
    await street.person("ben", consent={"proximity": False})
    visitor = {"anonymous_id": "x", "device_id": "tablet"}
    agreed = street.event("consent", consent={"proximity": True}, proven=False, **visitor)
    await street.journal.append_events([agreed])
    await street.folded()
    calls = [
        street.event("location", location=Location(LATITUDE, LONGITUDE, 10.0), proven=False, **visitor),
        street.event("consent", consent={"push": True}, proven=False, **visitor),
        street.event("identify", user_id="ben", **visitor),
    ]
    await street.journal.append_events(calls)
    await street.folded()
    assert await street.column("select count(*) from fence_presences") == [0]
    assert None not in await street.column("select left_at from fence_visits")


async def test_who_is_in_a_fence_and_turns_out_to_have_refused_leaves_at_once(street):
    await street.person("ben", consent={"proximity": False})
    visitor = {"anonymous_id": "x", "device_id": "tablet"}
    calls = [
        street.event("consent", consent={"proximity": True}, proven=False, **visitor),
        street.event("location", location=Location(LATITUDE, LONGITUDE, 10.0), proven=False, **visitor),
    ]
    await street.journal.append_events(calls)
    await street.folded()
    assert await street.column("select inside from fence_presences") == [1]
    await street.journal.append_events([street.event("identify", user_id="ben", **visitor)])
    await street.folded()
    assert await street.column("select count(*) from fence_presences") == [0]
    assert None not in await street.column("select left_at from fence_visits")


async def test_a_phone_after_its_logout_is_followed_as_one(street):
    """It is no account's any more, but the same phone with every fix."""
    phone = {"anonymous_id": "a", "device_id": "phone-anna"}
    agreed = street.event("consent", user_id="anna", consent={"proximity": True}, **phone)
    await street.journal.append_events([agreed, street.event("logout", proven=False, **phone)])
    for _ in range(4):
        street.clock.forward(10_000)
        where = Location(LATITUDE, LONGITUDE, 10.0)
        await street.journal.append_events([street.event("location", location=where, proven=False, **phone)])
        await street.folded()
    stays = await street.column("select left_at from fence_visits")
    assert stays in ([None], [])


async def test_an_old_location_is_history(street):
    await offer(street, {"type": "fence_entered", "fence_id": "door"})
    await be_at(street, 10, occurred_at=street.clock() - 3_600_000)
    assert await decided(street) == [("suppressed", "moment passed", "door")]


async def test_a_restart_forgets_nobody(street):
    await be_at(street, 10)
    again = street.new_fold()
    await again.load()
    assert again._live.fence_tracks.tracks["phone:phone-anna"]["door"].inside


async def test_phones_watch_what_is_near(street):
    def write(session) -> None:
        session.run(
            "save_beacon",
            beacon_key="ibeacon:00000000-0000-0000-0000-0000000000ff:1:2",
            role="zone",
            store_id="s1",
            zone_id="b",
        )
        more = [fence(f"f{number:03d}", north_m=1_000 * number) for number in range(1, 60)]
        fence_rows.put_fences(session, more, 0)

    await street.state.write(write)
    regions = await StoredPlaces(street.state, street.clock).nearest(LATITUDE, LONGITUDE, 20)
    assert len(regions) == 20
    assert [region.fence_id for region in regions if isinstance(region, FenceRegion)][:3] == [
        "door",
        "f001",
        "f002",
    ]
    assert [region.store_id for region in regions if isinstance(region, BeaconRegion)] == ["s1"]


async def test_beacon_regions_are_as_near_as_their_nearest_store_behind_however_many_fences(street):
    """A chain's own region is that of its nearest store; others' beacons are many, and far away."""
    chain, near, far = (f"{number:08d}-0000-0000-0000-000000000000" for number in range(3))

    def write(session) -> None:
        for uuid, store_id, count in ((chain, "s2", 1), (chain, "s9", 1), (near, "s3", 1), (far, "s9", 9)):
            for minor in range(count):
                key = f"ibeacon:{uuid}:{store_id[1:]}:{minor}"
                session.run("save_beacon", beacon_key=key, role="zone", store_id=store_id, zone_id="a")
        stores = [fence(f"store-{at}", store_id=f"s{at}", north_m=20_000 * at) for at in (2, 3, 9)]
        places = [fence(f"place-{number}", north_m=100 * number) for number in range(30)]
        fence_rows.put_fences(session, [*stores, *places], 0)

    await street.state.write(write)
    places = StoredPlaces(street.state, street.clock)
    for metres, expected in (
        (0, (chain, near, far)),
        (61_000, (near, chain, far)),
        (200_000, (far, chain, near)),  # of two as near, the fuller
    ):
        regions = await places.nearest(LATITUDE + metres / METRES_A_DEGREE, LONGITUDE, 20)
        found = [region.key for region in regions if isinstance(region, BeaconRegion)]
        assert found == [f"ibeacon:{uuid}" for uuid in expected], metres


@pytest.mark.parametrize("then_at", [0, 900])
async def test_nobody_is_taken_leave_of_because_a_fence_was_deleted(street, then_at):
    """They are not in it any more, but who knows where they are; a goodbye would be wrong."""
    shop = street
    await offer(shop, {"type": "fence_left", "fence_id": "door"})
    await be_at(shop, 0)
    await shop.state.write(lambda s: fence_rows.delete_fence(s, "door"))
    shop.fold.refresh()
    await be_at(shop, then_at)
    assert await decided(shop) == [("suppressed", "confidence: none", "door")]
    assert await shop.column("select count(*) from fence_presences") == [0]
    assert await shop.column("select left_at is null from fence_visits") == [0]
