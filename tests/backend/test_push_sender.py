"""The sender: what is asked before a push leaves, in which order, what is never sent, and how it stops."""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backend.push.circuit import FIRST_PAUSE_MS
from backend.push.fcm import FcmSettings, open_fcm
from backend.push.model import (
    Accepted,
    AddressVerdict,
    Claimed,
    NewPush,
    Outcome,
    PushContent,
    PushState,
    Refused,
    Rejected,
    Retry,
    Unknown,
)
from backend.push.sender import Guards, PushSender, Rim, waves
from backend.storage.database import SqliteFile
from backend.storage.pushes import PushStore, insert_pushes
from simulators.fcm_process import FcmProcess
from simulators.push_queue import InMemoryPushes

START = 1_800_000_000_000


def new(number: int, profile: str | None = None, decision: int | None = None, **changes: Any) -> NewPush:
    now = changes.pop("now", START)
    return NewPush(
        push_id=changes.pop("push_id", f"p{number}"),
        decision_id=decision or number,
        profile_id=profile or f"person-{number}",
        address_kind="fid",
        address_value=changes.pop("address", f"phone-{number}"),
        platform=changes.pop("platform", "android"),
        content=PushContent(
            title="Coats",
            body="20 % off",
            campaign_id="coats",
            expires_at=now + changes.pop("life_ms", 600_000),
            resend_allowed=changes.pop("resend_allowed", False),
        ),
        created_at=now,
        not_before=now + changes.pop("after_ms", 0),
        due_at=now,
        completed_at=now,
    )


@dataclass
class World:
    """A queue, a service and guards that do as they are told; time moves by hand."""

    queue: InMemoryPushes = field(default_factory=InMemoryPushes)
    answers: dict[str, list[Outcome]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    behind: set[str] = field(default_factory=set)
    now: int = START
    sent: list[str] = field(default_factory=list)
    states_at_send: list[str] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def send(self, push: Claimed) -> Outcome:
        self.sent.append(push.push_id)
        self.states_at_send.append(self.queue.rows[push.push_id].state)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self.gate.wait()
        self.in_flight -= 1
        answers = self.answers.get(push.push_id) or self.answers.get("*")
        return answers.pop(0) if answers else Accepted(f"m/{push.push_id}")

    async def may_send(self, claimed: Claimed, now: int) -> str | None:
        await asyncio.sleep(0)
        return self.refusals.get(claimed.push_id)

    async def caught_up(self, profile_id: str) -> bool:
        await asyncio.sleep(0)
        return profile_id not in self.behind

    def queue_up(self, *pushes: NewPush) -> None:
        self.queue.insert(pushes)
        for push in pushes:
            self.queue.bind("fid", push.address_value, push.profile_id, START - 1)

    def sender(self, **options: Any) -> PushSender:
        return PushSender(
            self.queue, self, Guards(self, self), Rim("me", lambda: self.now, lambda: 0.0), **options
        )

    def states(self) -> Counter[str]:
        return Counter(str(row.state) for row in self.queue.rows.values())

    def row(self, number: int) -> Any:
        return self.queue.rows[f"p{number}"]


@asynccontextmanager
async def running(sender: PushSender) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(sender.run())
    try:
        yield task
    finally:
        sender.stop()
        await asyncio.wait_for(task, 10)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the conditions are other people's plain values
            await asyncio.sleep(0.005)


async def test_what_is_due_is_sent_once_and_accepted() -> None:
    world = World()
    world.queue_up(*(new(number) for number in range(50)))
    async with running(world.sender(slots=8)):
        await until(lambda: world.states() == {"accepted": 50})
    assert Counter(world.sent) == Counter(f"p{number}" for number in range(50))
    assert world.most_in_flight <= 8
    assert world.row(7).message_name == "m/p7"


async def test_sending_is_committed_before_the_first_byte() -> None:
    world = World()
    world.queue_up(*(new(number) for number in range(20)))
    async with running(world.sender()):
        await until(lambda: world.states() == {"accepted": 20})
    assert set(world.states_at_send) == {PushState.SENDING}


async def test_a_wake_finds_what_was_queued_meanwhile() -> None:
    world = World()
    sender = world.sender()
    async with running(sender):
        await asyncio.sleep(0.02)
        world.queue_up(new(1))
        sender.wake()
        await until(lambda: world.states() == {"accepted": 1})


async def test_a_push_waits_for_its_time() -> None:
    world = World()
    world.queue_up(new(1, after_ms=60_000), new(2))
    sender = world.sender()
    async with running(sender):
        await until(lambda: world.states() == {"accepted": 1, "queued": 1})
        world.now += 60_000
        sender.wake()
        await until(lambda: world.states() == {"accepted": 2})
    assert world.sent == ["p2", "p1"]


async def test_nothing_is_claimed_before_anything_is_due() -> None:
    claims: list[int] = []

    class Watched(InMemoryPushes):
        async def claim(self, owner: str, now: int, limit: int) -> list[Claimed]:
            claims.append(now)
            return await super().claim(owner, now, limit)

    world = World(queue=Watched())
    world.queue_up(new(1, after_ms=60_000))
    sender = world.sender()
    async with running(sender):
        sender.wake()
        await until(lambda: not sender._nudge.is_set())
        world.now += 60_000
        sender.wake()
        await until(lambda: world.states() == {"accepted": 1})
    assert set(claims) == {START + 60_000}


async def test_the_next_due_time_wakes_by_itself() -> None:
    world = World()
    started = time.monotonic()
    world.queue_up(new(1, after_ms=100))
    sender = PushSender(
        world.queue,
        world,
        Guards(world, world),
        Rim("me", lambda: START + int(1000 * (time.monotonic() - started)), lambda: 0.0),
    )
    async with running(sender):
        await until(lambda: world.states() == {"accepted": 1})


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        ("refused", "suppressed", "bought meanwhile"),
        ("expired", "expired", "expired before it was sent"),
        ("moved", "suppressed", "address_gone"),
    ],
)
async def test_what_must_not_leave_does_not(change: str, state: str, reason: str) -> None:
    world = World()
    world.queue_up(new(1))
    if change == "refused":
        world.refusals["p1"] = "bought meanwhile"
    elif change == "expired":
        world.now = START + 600_000
    else:
        world.queue.bind("fid", "phone-1", "somebody else", START)
    async with running(world.sender()):
        await until(lambda: world.row(1).finished_at is not None)
    assert (world.row(1).state, world.row(1).reason) == (state, reason)
    assert world.sent == []


async def test_while_the_fold_is_behind_on_a_person_the_push_waits_and_others_go() -> None:
    world = World(behind={"person-1"})
    world.queue_up(new(1), new(2))
    sender = world.sender()
    async with running(sender):
        await until(lambda: world.row(2).state == "accepted" and world.row(1).state == "queued")
        world.refusals["p1"] = "bought"
        world.behind.clear()
        world.now += 200
        sender.wake()
        await until(lambda: world.row(1).state == "suppressed")
    assert world.sent == ["p2"]


async def test_failures_are_tried_again_later_and_counted() -> None:
    world = World(answers={"p1": [Retry("Unavailable", 30)]})
    world.queue_up(new(1))
    sender = world.sender()
    async with running(sender):
        await until(lambda: world.row(1).state == "queued" and world.sent == ["p1"])
        assert world.row(1).next_try_at == START + 30_000
        world.now += 30_000
        sender.wake()
        await until(lambda: world.row(1).state == "accepted")
    assert world.row(1).push.attempt == 2


async def test_an_ambiguous_answer_is_final_or_resent_once() -> None:
    world = World(answers={"p1": [Unknown("timeout")], "p2": [Unknown("timeout")], "p3": [Unknown("x")] * 2})
    world.queue_up(new(1), new(2, resend_allowed=True), new(3, resend_allowed=True))
    sender = world.sender()
    async with running(sender):
        await until(lambda: world.states() == {"unknown": 1, "queued": 2})
        world.now += 60_000
        sender.wake()
        await until(lambda: world.states() == {"unknown": 2, "accepted": 1})
    assert Counter(world.sent) == {"p1": 1, "p2": 2, "p3": 2}


async def test_a_dead_address_is_dropped_and_later_pushes_to_it_do_not_leave() -> None:
    world = World(answers={"p1": [Rejected("Unregistered", AddressVerdict.DROP)]})
    world.queue_up(new(1, "anna", address="phone"))
    sender = world.sender()
    async with running(sender):
        await until(lambda: world.row(1).state == "rejected")
        world.queue.insert([new(2, "anna", address="phone")])
        sender.wake()
        await until(lambda: world.row(2).state == "suppressed")
    assert world.sent == ["p1"]


async def test_two_offers_to_one_person_are_asked_about_one_after_the_other() -> None:
    """Else both would find the cap of one a day free."""
    world = World()
    world.queue_up(new(1, "anna", address="phone"), new(2, "anna", address="phone"))

    class Capped(World):
        async def may_send(self, claimed: Claimed, now: int) -> str | None:
            on_its_way = [row for row in world.queue.rows.values() if row.state in ("sending", "accepted")]
            return "cap" if on_its_way else None

    guard = Capped()
    sender = PushSender(world.queue, world, Guards(guard, world), Rim("me", lambda: START, lambda: 0.0))
    async with running(sender):
        await until(lambda: world.states() == {"accepted": 1, "suppressed": 1})


def test_waves_hold_one_decision_a_person() -> None:
    world = World()
    pushes = [
        new(1, "anna", decision=1, address="phone"),
        new(2, "anna", decision=1, address="tablet"),
        new(3, "anna", decision=2),
        new(4, "bruno", decision=3),
        new(5, "anna", decision=4),
    ]
    world.queue_up(*pushes)
    claimed = [row.push for row in world.queue.rows.values()]
    rounds = [[push.push_id for push in wave] for wave in waves(claimed)]
    assert rounds == [["p1", "p2", "p4"], ["p3"], ["p5"]]


# The circuits -------------------------------------------------------------------------------------------
async def test_refused_credentials_stop_everything_until_a_probe_succeeds() -> None:
    world = World(answers={"*": [Refused("401")] * 10})
    world.queue_up(*(new(number) for number in range(10)))
    sender = world.sender()
    async with running(sender):
        await until(lambda: len(world.sent) == 10 and world.states() == {"queued": 10})
        assert sender.status().open_circuits == {"project": "401"}
        assert [kind for kind, *_ in world.queue.alerts] == ["push_circuit_open"], "once, not ten times"
        sender.wake()
        await asyncio.sleep(0.05)
        assert len(world.sent) == 10
        world.answers["*"] = [Refused("401")]
        world.now += FIRST_PAUSE_MS
        sender.wake()
        await until(lambda: len(world.sent) == 11 and world.states() == {"queued": 10})
        sender.wake()
        await asyncio.sleep(0.05)
        assert len(world.sent) == 11, "one probe, then twice the pause"
        world.now += 2 * FIRST_PAUSE_MS
        sender.wake()
        await until(lambda: world.states() == {"accepted": 10})
    assert sender.status().open_circuits == {}


async def test_a_broken_apple_key_does_not_stop_android() -> None:
    world = World(answers={"p1": [Refused("ThirdPartyAuth", "platform")]})
    world.queue_up(new(1, platform="ios"))
    sender = world.sender()
    async with running(sender):
        await until(lambda: bool(sender.status().open_circuits))
        assert sender.status().open_circuits == {"ios": "ThirdPartyAuth"}
        world.queue_up(new(2, platform="ios"), new(3))
        sender.wake()
        await until(lambda: world.row(3).state == "accepted")
        assert world.row(2).state == "queued"
        world.now += FIRST_PAUSE_MS
        sender.wake()
        await until(lambda: world.states()["accepted"] >= 2)
        world.now += 60_000
        sender.wake()
        await until(lambda: world.states() == {"accepted": 3})
    assert sender.status().open_circuits == {}


# Life and death -----------------------------------------------------------------------------------------
async def test_stopping_settles_what_is_on_its_way_and_leaves_the_rest_queued() -> None:
    world = World()
    world.gate.clear()
    world.queue_up(*(new(number) for number in range(10)))
    sender = world.sender(slots=4)
    task = asyncio.create_task(sender.run())
    await until(lambda: world.in_flight == 4)
    sender.stop()
    await asyncio.sleep(0.02)
    assert not task.done(), "answers are still awaited"
    world.gate.set()
    await asyncio.wait_for(task, 5)
    assert world.states() == {"accepted": 4, "queued": 6}
    assert sender.status().in_hand == 0


async def test_a_killed_sender_leaves_what_recovery_understands() -> None:
    world = World()
    world.gate.clear()
    world.queue_up(*(new(number, resend_allowed=number == 0) for number in range(3)))
    task = asyncio.create_task(world.sender().run())
    await until(lambda: world.in_flight == 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.states() == {"sending": 3}
    world.gate.set()
    successor = PushSender(
        world.queue, world, Guards(world, world), Rim("next", lambda: world.now, lambda: 0.0)
    )
    async with running(successor):
        await until(lambda: world.states() == {"unknown": 2, "queued": 1})
        world.now += 60_000
        successor.wake()
        await until(lambda: world.states() == {"unknown": 2, "accepted": 1})
    assert Counter(world.sent) == {"p0": 2, "p1": 1, "p2": 1}


async def test_a_queue_that_fails_ends_the_sender() -> None:
    class Broken(InMemoryPushes):
        async def claim(self, owner: str, now: int, limit: int) -> list[Claimed]:
            raise sqlite3.OperationalError("disk full")

    world = World(queue=Broken())
    world.queue_up(new(1))
    with pytest.raises(ExceptionGroup, match="unhandled"):
        await asyncio.wait_for(world.sender().run(), 5)


# With the real queue and the real client -----------------------------------------------------------------
class Yes:
    """Every guard agrees."""

    async def may_send(self, claimed: Claimed, now: int) -> str | None:
        return None

    async def caught_up(self, profile_id: str) -> bool:
        return True


async def queue_in_database(state: SqliteFile, pushes: Iterable[NewPush]) -> None:
    rows = list(pushes)
    with sqlite3.connect(state.path) as sql:
        sql.executemany(
            "insert into decisions (decision_id, campaign_id, campaign_version, profile_id, store_id,"
            " zone_id, entered_at, due_at, completed_at, decided_at, verdict, reason)"
            " values (?, 'coats', 1, ?, 's', 'z', 0, 0, 0, 0, 'sent', '')",
            [(push.decision_id, push.profile_id) for push in rows],
        )
        sql.executemany(
            "insert into push_addresses (kind, value, profile_id, bound_at, bound_hash, last_seen_at)"
            " values (?, ?, ?, 0, 0, 0)",
            [(push.address_kind, push.address_value, push.profile_id) for push in rows],
        )
    sql.close()
    await state.write(lambda session: insert_pushes(session, rows))


def ends(state: SqliteFile) -> Counter[str]:
    sql = sqlite3.connect(state.path)
    try:
        return Counter(row[0] for row in sql.execute("select state from pushes"))
    finally:
        sql.close()


async def test_through_sqlite_and_http_every_push_arrives_once_whatever_the_service_does(
    tmp_path: Path,
) -> None:
    now = int(time.time() * 1000)
    pushes = [new(number, now=now) for number in range(200)]
    with FcmProcess(tmp_path / "fcm") as fcm:
        fcm.call("/sim/register", [{"value": push.address_value, "kind": "fid"} for push in pushes[:190]])
        faults = [
            {"kind": "dropped_delivered", "count": 5},
            {"kind": "dropped", "count": 5},
            {"kind": "unavailable", "count": 5},
        ]
        fcm.call("/sim/faults", {"faults": faults})
        async with SqliteFile(tmp_path / "state.db", "state") as state:
            await queue_in_database(state, pushes)
            settings = FcmSettings(Path(fcm.where.service_account), send_url=fcm.where.send_url)
            rim = Rim("me", lambda: int(time.time() * 1000), lambda: 0.0)
            async with open_fcm(settings) as client:
                sender = PushSender(PushStore(state), client, Guards(Yes(), Yes()), rim, slots=32)
                async with running(sender):
                    await until(lambda: set(ends(state)) <= {"accepted", "rejected", "unknown"}, 30)
            assert ends(state)["unknown"] == 10
            assert 180 <= ends(state)["accepted"] <= 190
        delivered = Counter(line["push_id"] for line in fcm.call("/sim/messages"))
    assert set(delivered.values()) == {1}
    assert len(delivered) == ends(state)["accepted"] + 5
