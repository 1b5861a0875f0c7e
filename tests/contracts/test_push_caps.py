"""Two senders hold two offers to one person at once: caps hold all the same, on both engines."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import msgspec
import pytest

from backend.campaigns.model import parse_campaign
from backend.fold import Fold
from backend.push.model import Claimed
from backend.storage import campaigns as campaign_rows
from backend.storage.journal import Journal
from backend.storage.offers import SendChecks, objection_to
from backend.storage.pushes import PushStore
from backend.storage.session import Database
from sdk_bridge.wire.app_events import AppEvent, PushAddress

NOON = 1_750_075_200_000
PEOPLE = 12
SPOTS = ("shop", "web")


def campaign(name: str) -> dict[str, object]:
    return {
        "campaign_id": name,
        "name": name,
        "state": "live",
        "trigger": {"type": "event", "name": name},
        "offer": {"title": name, "body": "One a day", "life_s": 3_600},
        "guardrails": {"quiet_hours": None, "max_per_day": 1, "cooldown_s": 0},
    }


@dataclass
class Sender:
    """What a sender does, step by step."""

    name: str
    store: PushStore
    checks: SendChecks

    async def claim(self) -> list[Claimed]:
        return await self.store.claim(self.name, NOON + 1000, PEOPLE)

    async def mark(self, pushes: list[Claimed]) -> list[Claimed]:
        return await self.store.mark_sending(pushes, NOON + 1000)


@dataclass
class Town:
    """People who each are two strangers still: a user with a phone, and a visitor with another."""

    state: Database
    journal: Journal
    fold: Fold
    senders: list[Sender]
    raw: Callable
    numbers: int = 0

    async def tell(self, kind: str, **more: object) -> None:
        self.numbers += 1
        at = NOON + self.numbers
        told = {"source": "app", "occurred_at": at, "original_at": at, "received_at": at, "proven": True}
        await self.journal.append_events([AppEvent(kind, f"m{self.numbers}", **{**told, **more})])

    async def offer_to(self, number: int) -> None:
        for spot, who in zip(SPOTS, ({"user_id": f"u{number}"}, {"anonymous_id": f"v{number}"}), strict=True):
            device = f"{spot}-{number}"
            address = PushAddress("token", f"token-{device}")
            await self.tell("device", device_id=device, platform="android", push_address=address, **who)
            await self.tell("consent", consent={"proximity": True, "push": True}, **who)
            await self.tell("track", name=spot, **who)

    async def become_one(self, number: int) -> None:
        who = {"user_id": f"u{number}", "anonymous_id": f"v{number}", "device_id": f"web-{number}"}
        await self.tell("identify", **who)

    async def folded(self) -> None:
        assert await self.fold.caught_up("", 30)

    async def rows(self, sql: str) -> list[tuple]:
        return await self.state.read(lambda session: self.raw(session, sql))


@pytest.fixture
async def town(state: Database, journal: Journal, open_area, engine: str, raw) -> AsyncIterator[Town]:
    def set_up(session) -> None:
        for spot in SPOTS:
            chosen = parse_campaign(msgspec.json.encode(campaign(spot)))
            campaign_rows.save_campaign(session, chosen, NOON)

    await state.write(set_up)
    async with AsyncExitStack() as stack:
        others = state if engine == "sqlite" else await stack.enter_async_context(open_area("state"))
        senders = [
            Sender(name, PushStore(its, objection_to), SendChecks(its))
            for name, its in (("one", state), ("two", others))
        ]
        fold = Fold(journal, state, lambda: NOON + 1000, on_listening=lambda _: None)
        await fold.load()
        task = asyncio.create_task(fold.run())
        yield Town(state, journal, fold, senders, raw)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def claimed_apart(town: Town) -> list[list[Claimed]]:
    """One sender has the offers of the shop, the other those of the web; both have asked, and may go on."""
    for number in range(PEOPLE):
        await town.offer_to(number)
    await town.folded()
    pushes = [push for sender in town.senders for push in await sender.claim()]
    assert len(pushes) == 2 * PEOPLE
    shares = []
    for sender, spot in zip(town.senders, SPOTS, strict=True):
        mine = [push for push in pushes if push.campaign_id == spot]
        ids = ",".join(f"'{push.push_id}'" for push in mine)
        await town.state.write(
            lambda s, ids=ids, name=sender.name: town.raw(
                s, f"update pushes set owner = '{name}' where push_id in ({ids})"
            )
        )
        shares.append([msgspec.structs.replace(push, owner=sender.name) for push in mine])
    return shares


async def both_may_go(town: Town, shares: list[list[Claimed]]) -> bool:
    asked = [
        await sender.checks.may_send(push, NOON + 1000)
        for sender, share in zip(town.senders, shares, strict=True)
        for push in share
    ]
    return not any(asked)


@pytest.mark.parametrize("at_once", [False, True])
async def test_who_became_one_person_after_both_senders_asked_gets_one_offer_a_day(
    town: Town, at_once: bool
) -> None:
    shares = await claimed_apart(town)
    for number in range(PEOPLE):
        await town.become_one(number)
    await town.folded()
    assert await both_may_go(town, shares), "neither has left yet, so neither objects"
    one, two = town.senders
    if at_once:  # person after person, or one transaction would do all of it
        left = [
            push
            for mine, other in zip(*shares, strict=True)
            for marked in await asyncio.gather(one.mark([mine]), two.mark([other]))
            for push in marked
        ]
    else:
        left = [*await one.mark(shares[0]), *await two.mark(shares[1])]
    names = dict(await town.rows("select push_id, address_value from pushes"))
    people = Counter(names[push.push_id].rpartition("-")[2] for push in left)
    assert people == Counter(str(number) for number in range(PEOPLE))
    ended = await town.rows(
        "select state, reason, count(*) from pushes group by state, reason order by state"
    )
    assert [tuple(row) for row in ended] == [
        ("sending", None, PEOPLE),
        ("suppressed", "cap: day", PEOPLE),
    ]
    assert await town.rows("select count(*) from decisions where active = 1") == [(PEOPLE,)]


async def test_strangers_do_not_stop_each_other(town: Town) -> None:
    shares = await claimed_apart(town)
    assert await both_may_go(town, shares)
    marked = await asyncio.gather(
        *(sender.mark(share) for sender, share in zip(town.senders, shares, strict=True))
    )
    assert [len(pushes) for pushes in marked] == [PEOPLE, PEOPLE]
