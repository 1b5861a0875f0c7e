"""A kiosk: fifty people one after the other on one device, through the real bridge and the real fold."""

import json
from dataclasses import dataclass, field

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from backend.storage import profiles
from backend.storage.sources import StoredSources, create_source
from sdk_bridge.server.app import Bridge
from sdk_bridge.server.proof import user_hash

PEOPLE = 50
TOKEN = "kiosk-token"


@dataclass
class Kiosk:
    """One device, one browser storage, one push address; `doings` are message ids by who did it."""

    shop: object
    client: TestClient
    write_key: str
    secret: str
    doings: dict[str, set[str]] = field(default_factory=dict)
    guests: set[str] = field(default_factory=set)
    sent: int = 0

    async def say(self, path: str, who: str | None, **fields) -> None:
        """A call from the kiosk's browser; `who` did it, whether it says so or not."""
        self.sent += 1
        self.shop.clock.forward(1_000)
        message_id = f"m{self.sent}"
        (self.guests if who is None else self.doings.setdefault(who, set())).add(message_id)
        body = {"messageId": message_id, "anonymousId": "kiosk-browser", "writeKey": self.write_key, **fields}
        async with self.client.post(path, data=json.dumps(body)) as answer:
            assert answer.status == 200, await answer.text()

    async def visit(self, user: str, *, logs_out: bool) -> None:
        proof = {"userId": user, "userHash": user_hash(self.secret, user)}
        device = {"device": {"id": "kiosk", "type": "android", "token": TOKEN}}
        await self.say("/v1/page", None, name="Welcome", context=device)
        await self.say("/v1/identify", user, **proof, traits={"name": user}, context=device)
        await self.say("/v1/track", user, **proof, event="Product Viewed")
        await self.say("/v1/track", None, userId=user, event="Claimed Without Proof")
        await self.shop.folded()
        assert await self.owner() == await self.person(user), "the push address is of who logged in last"
        if logs_out:
            await self.say("/v1/devices/logout", None, deviceId="kiosk")
            await self.say("/v1/page", None, name="Goodbye", context={"device": {"id": "kiosk"}})
            await self.shop.folded()
            assert await self.owner() is None

    async def person(self, user: str) -> str | None:
        return await self.shop.state.read(lambda s: profiles.resolve(s, "user_id", user))

    async def owner(self) -> str | None:
        """The identified person whom a push to the kiosk would reach."""

        def read(session) -> set[str]:
            known = {user: profiles.resolve(session, "user_id", user) for user in self.doings}
            return {
                person
                for person in known.values()
                if person and any(one.value == TOKEN for one in profiles.push_addresses_of(session, person))
            }

        owners = await self.shop.state.read(read)
        assert len(owners) <= 1
        return next(iter(owners), None)

    async def seen_of(self, user: str) -> set[str]:
        """The message ids of the person's timeline."""

        def read(session) -> set[str]:
            person = profiles.resolve(session, "user_id", user) or ""
            rows = session.rows("events_of_person", profile_id=person, before=2**53, limit=10_000)
            return {_message_id(row) for row in rows}

        return await self.shop.state.read(read)

    async def wrong(self) -> dict[str, set[str]]:
        """By user, the events on their profile that were another's, or nobody's."""
        found = {user: await self.seen_of(user) - mine for user, mine in self.doings.items()}
        return {user: events for user, events in found.items() if events}


def _message_id(row) -> str:
    return msgspec.msgpack.decode(row["body"])["message_id"]


@pytest.fixture
async def kiosk(live_shop, clock):
    shop = live_shop
    made = await shop.state.write(
        lambda s: create_source(s, "kiosk-site", "Kiosk", "web", "required", clock())
    )
    app = web.Application()
    Bridge(shop.journal, StoredSources(shop.state, clock), clock).add_to(app)
    async with TestClient(TestServer(app)) as client:
        yield Kiosk(shop, client, made["write_key"], made["proof_secret"])


@pytest.mark.parametrize("logs_out", [True, False], ids=["each logs out", "nobody logs out"])
async def test_fifty_people_on_one_device_stay_fifty_people(kiosk, logs_out):
    for number in range(PEOPLE):
        await kiosk.visit(f"u{number}", logs_out=logs_out)
        if logs_out and number == 0:
            until_logout = {"m1", "m4", "m5"}  # nobody else had been there, so it was theirs
            assert (await kiosk.wrong()).get("u0", set()) <= until_logout
    assert await kiosk.wrong() == {}
    for user, mine in kiosk.doings.items():
        assert await kiosk.seen_of(user) == mine
    people = {await kiosk.person(user) for user in kiosk.doings}
    assert len(people) == PEOPLE
    visitor = await kiosk.shop.state.read(lambda s: profiles.resolve(s, "anonymous_id", "kiosk-browser"))
    assert visitor not in people
    shared = await kiosk.shop.column("select id_type from profiles where shared = 1 order by 1")
    assert shared == ["anonymous_id", "device_id"]


async def test_the_same_events_in_any_order_leave_the_same_kiosk(kiosk):
    """Custody may deliver a day late: what the kiosk's queue held comes after all others."""
    for number in range(6):
        await kiosk.visit(f"u{number}", logs_out=number % 2 == 0)
    late = f"u{PEOPLE}"
    await kiosk.say(
        "/v1/track", late, userId=late, userHash=user_hash(kiosk.secret, late), event="From Yesterday",
        timestamp="2025-06-15T10:00:00Z", sentAt=None,
    )  # fmt: skip
    await kiosk.shop.folded()
    assert await kiosk.wrong() == {}
