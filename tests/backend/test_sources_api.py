"""Sources of events: their keys are replaced with an overlap and revoked at once; origins and rates act."""

import json

import pytest
from aiohttp.test_utils import TestClient, TestServer

from backend.api.host import Host
from backend.api.server import build
from backend.storage.database import StorageError
from backend.storage.places import FRESH_MS, StoredPlaces
from backend.storage.sources import StoredSources
from sdk_bridge.server.app import Bridge
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire.places import BeaconRegion

HOUR = 3_600_000
TRACK = {"event": "x", "anonymousId": "a1"}


class Shop:
    """The API and the bridge, for one admin."""

    def __init__(self, state, journal_file, journal, clock) -> None:
        self.sources = StoredSources(state, clock, known_for_ms=1_000)
        host = Host(state, journal_file, clock, self.sources.forget, lambda: {"status": "ok"})
        self.app = build(host, Bridge(journal, self.sources, clock).add_to)
        self.state = state

    async def call(self, method: str, path: str, **more):
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.client.request(method, f"/api/sources{path}", headers=headers, **more) as answer:
            return answer.status, await answer.json()

    async def make(self, source: str = "site", **more) -> str:
        body = {"name": "Site", "kind": "web", **more}
        status, made = await self.call("PUT", f"/{source}", json=body)
        assert status == 201, made
        return made["write_key"]

    async def view(self, source: str = "site") -> dict:
        _, answer = await self.call("GET", "")
        return next(view for view in answer["sources"] if view["source_id"] == source)

    async def send(self, key: str, **headers: str) -> int:
        async with self.client.post("/v1/track", json={**TRACK, "writeKey": key}, headers=headers) as answer:
            return answer.status


@pytest.fixture
async def shop(state, journal_file, journal, clock, make_token):
    made = Shop(state, journal_file, journal, clock)
    made.token = await make_token("admin")
    async with TestClient(TestServer(made.app)) as client:
        made.client = client
        yield made


async def test_a_new_key_and_the_old_one_live_side_by_side_until_the_overlap_is_over(shop, clock):
    old = await shop.make()
    status, made = await shop.call("POST", "/site/keys", json={"overlap_hours": 48})
    assert (status, made["source_id"]) == (201, "site")
    new = made["write_key"]
    assert [await shop.send(key) for key in (old, new)] == [200, 200]
    clock.forward(48 * HOUR - 1)
    assert [await shop.send(key) for key in (old, new)] == [200, 200]
    clock.forward(1)
    assert [await shop.send(key) for key in (old, new)] == [401, 200]
    clock.forward(1)
    assert await shop.send(old) == 401
    ends = {key["key_id"]: key["expires_at"] for key in (await shop.view())["keys"]}
    assert ends == {old[:12]: clock() - 1, new[:12]: None}


async def test_while_two_keys_live_there_is_no_third_unless_both_end(shop):
    old = await shop.make()
    _, made = await shop.call("POST", "/site/keys")  # a week, where nothing is said
    status, answer = await shop.call("POST", "/site/keys", json={"overlap_hours": 1})
    assert (status, old[:12] in answer["error"]["message"]) == (409, True)
    status, leaked = await shop.call("POST", "/site/keys", json={"overlap_hours": 0})
    assert status == 201
    assert [await shop.send(key) for key in (old, made["write_key"], leaked["write_key"])] == [401, 401, 200]


async def test_a_revoked_key_is_refused_at_once_and_the_other_goes_on(shop):
    old = await shop.make()
    _, made = await shop.call("POST", "/site/keys")
    assert await shop.call("DELETE", f"/site/keys/{old[:12]}") == (200, {"revoked": old[:12]})
    assert [await shop.send(key) for key in (old, made["write_key"])] == [401, 200]
    assert (await shop.call("DELETE", f"/site/keys/{old[:12]}"))[0] == 404
    assert (await shop.call("DELETE", "/other/keys/ffw_nothing0"))[0] == 404


async def test_what_another_process_revoked_ends_within_a_second(shop, clock):
    key = await shop.make()
    assert await shop.send(key) == 200
    await shop.state.write(
        lambda s: s.run("revoke_source_key", source_id="site", key_id=key[:12], at=clock())
    )
    clock.forward(999)
    assert await shop.send(key) == 200
    clock.forward(1)
    assert await shop.send(key) == 401


async def test_a_change_while_a_key_is_looked_up_is_not_missed(shop, clock):
    key = await shop.make()
    read, revoked = shop.state.read, []

    class Meanwhile:
        async def read(self, work):
            found = await read(work)
            if not revoked:
                revoked.append(await shop.call("DELETE", f"/site/keys/{key[:12]}"))
            return found

    shop.sources._state = Meanwhile()
    assert [await shop.send(key) for _ in range(2)] == [200, 401]


async def test_a_revoked_source_has_no_keys_and_gets_none(shop):
    key = await shop.make()
    await shop.call("DELETE", "/site")
    assert await shop.send(key) == 401
    for method, path, body in (("POST", "/site/keys", {}), ("PATCH", "/site", {"name": "New"})):
        assert (await shop.call(method, path, json=body))[0] == 404


async def test_neither_key_nor_secret_is_ever_shown_again(shop):
    key = await shop.make()
    rotated = (await shop.call("POST", "/site/keys"))[1]["write_key"]
    shown = json.dumps((await shop.call("GET", ""))[1])
    audit = await shop.state.read(lambda s: [dict(row) for row in s.rows("newest_audit", limit=100)])
    stored = await shop.state.read(
        lambda s: str([[tuple(row) for row in s.rows("source_keys", source_id=None)], audit])
    )
    for secret in (key, rotated):
        assert secret not in shown
        assert secret not in stored
        assert secret[:12] in shown
    assert [row["action"] for row in audit][:2] == ["write key rotated", "source created"]


async def test_origins_and_rates_can_be_changed_and_act_at_once(shop, clock):
    key = await shop.make(origins=["https://shop.example"])
    elsewhere = {"Origin": "https://other.example"}
    assert await shop.send(key, **elsewhere) == 403
    status, view = await shop.call(
        "PATCH", "/site", json={"origins": ["https://shop.example", "https://other.example"]}
    )
    assert (status, view["name"], view["proof"]) == (200, "Site", "required")
    assert await shop.send(key, **elsewhere) == 200
    await shop.call("PATCH", "/site", json={"rate": {"events_per_second": 0.5, "burst": 1}})
    assert [await shop.send(key) for _ in range(2)] == [200, 429]
    assert (await shop.call("PATCH", "/site", json={"rate": None, "name": "New"}))[1]["rate"] is None
    clock.forward(1_000)
    assert await shop.send(key) == 200
    assert (await shop.view())["name"] == "New"


@pytest.mark.parametrize(
    "body",
    [
        {"origins": ["shop.example"]},
        {"origins": ["https://shop.example/path"]},
        {"origins": ["https://SHOP.example"]},
        {"origins": ["*"]},
        {"origins": ["https://a.example"] * 51},
        {"rate": {"events_per_second": 0, "burst": 1}},
        {"rate": {"events_per_second": 1, "burst": 1e9}},
        {"proof": "sometimes"},
        {"kind": "app"},
    ],
)
async def test_what_makes_no_sense_is_refused(shop, body):
    await shop.make()
    assert (await shop.call("PATCH", "/site", json=body))[0] == 400


async def test_a_database_that_is_away_is_503_and_never_401(shop, monkeypatch):
    key = await shop.make()

    async def away(_):
        raise StorageError("disk I/O error")

    monkeypatch.setattr(shop.state, "read", away)
    assert await shop.send(key) == 503


# The shops' own beacons -----------------------------------------------------------------------------------

UUID, OTHER = "2f234454-cf6d-4a0f-adf2-f4911ba9ffa6", "f7826da6-4fa2-4e98-8024-bc5b71e0893e"


async def test_beacons_of_places_are_ours_and_tags_and_strangers_are_not(state, clock):
    def register(session) -> None:
        for key, role, store in (
            (f"ibeacon:{UUID}:1:1", "zone", "s1"),
            (f"ibeacon:{UUID}:1:2", "zone", "s1"),
            (f"ibeacon:{OTHER}:1:1", "zone", "s1"),
            (f"ibeacon:{OTHER}:2:1", "zone", "s2"),
            (f"ibeacon:{OTHER}:2:2", "zone", "s2"),
            ("altbeacon:" + "01" * 20, "asset", None),
            ("altbeacon:" + "02" * 20, "tag", None),
        ):
            session.run("save_beacon", beacon_key=key, role=role, store_id=store, zone_id="a")

    places = StoredPlaces(state, clock)
    assert await places.nearest(48.2, 16.4, 20) == []
    await state.write(register)
    assert await places.ours({f"ibeacon:{UUID}:1:1"}) == set(), "known for some seconds yet"
    clock.forward(FRESH_MS + 1)
    asked = {
        f"ibeacon:{UUID}:1:1",
        f"ibeacon:{UUID}:1:3",
        f"ibeacon:{UUID}",
        f"ibeacon:{UUID}:1",
        f"ibeacon:{UUID}:2",
        "altbeacon:" + "01" * 20,
        "altbeacon:" + "02" * 20,
    }
    assert await places.ours(asked) == asked - {
        f"ibeacon:{UUID}:1:3",
        f"ibeacon:{UUID}:2",
        "altbeacon:" + "02" * 20,
    }
    regions = [BeaconRegion(f"ibeacon:{OTHER}"), BeaconRegion(f"ibeacon:{UUID}", "s1")]
    assert await places.nearest(48.2, 16.4, 20) == regions
    assert await places.nearest(48.2, 16.4, 1) == regions[:1]


async def test_a_registry_that_cannot_be_read_is_busy(state, clock, monkeypatch):
    async def away(_):
        raise StorageError("disk I/O error")

    monkeypatch.setattr(state, "read", away)
    with pytest.raises(JournalBusy):
        await StoredPlaces(state, clock).ours({"altbeacon:" + "01" * 20})
