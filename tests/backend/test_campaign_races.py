"""Whoever bought, said no, or signed out before a push was claimed never gets it, however the tasks run.

`RACES` in the environment says how many, `SEED` which; `make test-races` plays a hundred thousand.
"""

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import structlog

from backend.campaigns.model import parse_campaign
from backend.push.model import Accepted
from backend.push.sender import Guards, PushSender, Rim
from backend.storage import campaigns as campaign_rows
from backend.storage.offers import SendChecks
from backend.storage.pushes import PushStore

RACES = int(os.environ.get("RACES", "400"))
SEED = int(os.environ.get("SEED", "7"))
TOGETHER = 60  # people in the shop at once
BEHIND = (
    4  # entries, of many events each: behind a fold that is later than 200 ms nothing leaves, nobody races
)
TOLD_EVERY = 5_000
DRAIN_S = 300.0  # on a busy machine fold and sender lag behind the people
CAMPAIGN = {
    "campaign_id": "cart",
    "name": "Cart",
    "trigger": {"type": "event", "name": "Cart"},
    "offer": {"title": "Still in your cart", "body": "Come and see", "life_s": 3_600},
    "guardrails": {"quiet_hours": None},
    "holdout_percent": 5,
    "state": "live",
}


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """A line for each push costs as much as the race itself."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.configure(wrapper_class=before)


@dataclass
class Race:
    """What was answered to whom, what was claimed after that, and what left."""

    answered: set[str] = field(default_factory=set)
    """Push addresses of people whose purchase or refusal has been answered."""
    too_late: set[str] = field(default_factory=set)
    """Pushes that were claimed after that: none of them may leave."""
    left: dict[str, str] = field(default_factory=dict)

    async def send(self, push) -> Accepted:
        """The way to the phone."""
        assert push.address_value not in self.left, "twice"
        self.left[push.address_value] = push.push_id
        return Accepted("taken")


class WatchedStore(PushStore):
    """Notes what had been answered when a claim began."""

    def __init__(self, state, race: Race, chance: random.Random) -> None:
        super().__init__(state)
        self._race, self._chance = race, chance

    async def claim(self, owner, now, limit):
        answered = set(self._race.answered)
        pushes = await super().claim(owner, now, min(limit, self._chance.randrange(1, 30)))
        self._race.too_late |= {push.push_id for push in pushes if push.address_value in answered}
        await _stumble(self._chance)
        return pushes

    async def mark_sending(self, pushes, now):
        await _stumble(self._chance)
        return await super().mark_sending(pushes, now)


async def _stumble(chance: random.Random) -> None:
    """Lets others go first: some turns of the loop, or a moment of time."""
    if chance.random() < 0.3:
        await asyncio.sleep(chance.random() * 0.01)
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)


@asynccontextmanager
async def _sending(sender: PushSender):
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        sender.stop()
        await asyncio.wait_for(task, 10)


async def _time_passes(clock) -> None:
    while True:
        await asyncio.sleep(0.005)
        clock.forward(5)


async def _objects(shop, race: Race, user: str, chance: random.Random) -> None:
    """At some moment the person buys, on whichever device, or wants no more; then it was answered."""
    await asyncio.sleep(chance.random() * chance.choice((0.02, 0.1, 0.4)))
    shop.clock.forward(1)  # of a yes and a no in one millisecond nobody can say which came last
    how = chance.randrange(5)
    who = {"user_id": user} if how != 1 else {"anonymous_id": f"browser-{user}"}
    if how <= 2:
        if how == 2:
            who = {"anonymous_id": f"tablet-{user}"}
        await shop.journal.append_events([shop.event("track", name="Order Completed", source="web", **who)])
        if how == 2:  # only the login tells whose purchase it was
            login = shop.event("identify", user_id=user, anonymous_id=f"tablet-{user}", source="web")
            await shop.journal.append_events([login])
    elif how == 3:
        await shop.journal.append_events([shop.event("consent", user_id=user, consent={"push": False})])
    else:
        phone = f"phone-{user}"
        await shop.journal.append_events([shop.event("logout", user_id=user, device_id=phone)])
    race.answered.add(f"token-{user}")


async def _visit(shop, race: Race, user: str, chance: random.Random) -> None:
    await shop.person(user)
    login = shop.event("identify", user_id=user, anonymous_id=f"browser-{user}", source="web")
    await shop.journal.append_events([login])
    await _stumble(chance)

    cart = shop.event("track", name="Cart", user_id=user)  # it happened first, and may come last

    async def fill_the_cart() -> None:
        await asyncio.sleep(chance.random() * 0.03)
        await shop.journal.append_events([cart])

    await asyncio.gather(fill_the_cart(), _objects(shop, race, user, chance))


async def _all_visit(shop, race: Race, chance: random.Random) -> None:
    """Everybody, many at once: the next comes in when one has left and the fold keeps up."""
    began, room = time.monotonic(), asyncio.Semaphore(TOGETHER)

    async def visit(user: str) -> None:
        try:
            await _visit(shop, race, user, chance)
        finally:
            room.release()

    async with asyncio.TaskGroup() as people:
        for number in range(RACES):
            await room.acquire()
            while shop.fold.behind > BEHIND:  # noqa: ASYNC110 - as below
                await asyncio.sleep(0.002)
            people.create_task(visit(f"u{number}"))
            if number and number % TOLD_EVERY == 0:
                _tell(f"{(time.monotonic() - began) / 60:5.1f} min  {number} races")


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _settled(shop, store: PushStore, sender: PushSender) -> None:
    """Everything is folded, and every push has come to its end."""
    async with asyncio.timeout(DRAIN_S):
        while shop.fold.position != shop.journal.head:  # noqa: ASYNC110 - nobody tells when the last one is done
            await asyncio.sleep(0.01)
        while sender.status().in_hand or await store.next_due() is not None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


@pytest.mark.timeout(max(120, RACES // 20))
async def test_nothing_leaves_for_somebody_who_had_bought_or_said_no_before_it_was_claimed(
    live_shop, running
):
    shop, race, chance = live_shop, Race(), random.Random(SEED)
    campaign = parse_campaign(msgspec.json.encode(CAMPAIGN))
    await shop.state.write(lambda s: campaign_rows.save_campaign(s, campaign, shop.clock()))
    shop.fold.refresh()
    guards = Guards(SendChecks(shop.state), shop.fold)
    store = WatchedStore(shop.state, race, chance)
    sender = PushSender(store, race, guards, Rim("race", shop.clock, chance.random))
    shop.fold.on_pushes = sender.wake
    async with running(_time_passes(shop.clock)), _sending(sender):
        await _all_visit(shop, race, chance)
        await _settled(shop, store, sender)
    wrong = race.too_late & set(race.left.values())
    states = {
        (row["state"], row["reason"]): row["n"]
        for row in await shop.rows("select state, reason, count(*) as n from pushes group by state, reason")
    }
    _tell(
        f"races {RACES} wrong {len(wrong)} pushes {sum(states.values())} left {len(race.left)}"
        f" claimed after the answer {len(race.too_late)} seed {SEED}"
    )
    assert not wrong
    assert sum(states.values()) == len(set(await shop.column("select decision_id from pushes")))
    assert {state for state, _ in states} <= {"accepted", "suppressed"}
    assert states["suppressed", "goal reached: Order Completed"] > 0
    assert len(race.left) > RACES / 20
    assert len(race.too_late) > RACES / 50, "the race was none: everything was claimed before the answer"
    assert await shop.column("select count(*) from decisions where active = 1") == [0]
    held_out = await shop.column("select count(*) from decisions where verdict = 'held_out'")
    held_out_pushes = """select count(*) from pushes join decisions using (decision_id)
                         where verdict <> 'sent'"""
    assert held_out[0] > 0
    assert await shop.column(held_out_pushes) == [0]
