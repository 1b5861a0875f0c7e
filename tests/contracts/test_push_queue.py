"""The contract of a PushQueue, held over the store on both engines and over the fake of other tests."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import pytest

from backend.push.model import (
    Accepted,
    AddressVerdict,
    Claimed,
    Finish,
    NewPush,
    PushContent,
    PushState,
    Rejected,
    Requeue,
    Unknown,
    settle,
)
from backend.push.sender import PushQueue, Recovered
from backend.storage.pushes import PushStore, insert_pushes, record_receipt
from backend.storage.session import Database, Session
from simulators.push_queue import InMemoryPushes

NOW = 1_800_000_000_000
END = NOW + 600_000
ME, DEAD = "me", "dead"


@dataclass
class Seen:
    """A row, as both implementations can show it."""

    state: str
    reason: str | None
    next_try_at: int
    attempt: int
    resent: bool
    message_name: str | None
    finished_at: int | None


class Harness(Protocol):
    queue: PushQueue

    async def insert(self, *pushes: NewPush) -> int: ...
    async def bind(self, value: str, profile_id: str = "anna", last_seen_at: int = NOW - 1000) -> None: ...
    async def receipt(self, push_id: str, at: int) -> None: ...
    def row(self, push_id: str) -> Seen: ...
    def address(self, value: str) -> tuple[str, bool] | None: ...
    def alerts(self) -> list[str]: ...


class FakeHarness:
    def __init__(self) -> None:
        self.queue = InMemoryPushes()

    async def insert(self, *pushes: NewPush) -> int:
        return self.queue.insert(pushes)

    async def bind(self, value: str, profile_id: str = "anna", last_seen_at: int = NOW - 1000) -> None:
        self.queue.bind("fid", value, profile_id, last_seen_at)

    async def receipt(self, push_id: str, at: int) -> None:
        self.queue.receipt(push_id, at)

    def row(self, push_id: str) -> Seen:
        row = self.queue.rows[push_id]
        return Seen(
            row.state,
            row.reason,
            row.next_try_at,
            row.push.attempt,
            row.push.resent,
            row.message_name,
            row.finished_at,
        )

    def address(self, value: str) -> tuple[str, bool] | None:
        bound = self.queue.addresses.get(("fid", value))
        return None if bound is None else (bound.profile_id, bound.quarantined_at is not None)

    def alerts(self) -> list[str]:
        return [kind for kind, _, _ in self.queue.alerts]


class StoreHarness:
    def __init__(self, state: Database, raw: Callable[[Session, str], list[tuple]]) -> None:
        self.state = state
        self.queue = PushStore(state)
        self._raw = raw

    def ask(self, sql: str) -> list[tuple]:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self.state.view, lambda session: self._raw(session, sql)).result()

    async def tell(self, sql: str) -> None:
        await self.state.write(lambda session: self._raw(session, sql))

    async def insert(self, *pushes: NewPush) -> int:
        for push in pushes:
            await self.tell(
                "insert into decisions (decision_id, campaign_id, campaign_version, profile_id,"
                " store_id, zone_id, entered_at, due_at, completed_at, decided_at, verdict, reason)"
                f" values ({push.decision_id}, 'c', 1, '{push.profile_id}', 's', 'z', {push.decision_id},"
                " 0, 0, 0, 'sent', '') on conflict do nothing"
            )
        return await self.state.write(lambda session: insert_pushes(session, pushes))

    async def bind(self, value: str, profile_id: str = "anna", last_seen_at: int = NOW - 1000) -> None:
        await self.tell(
            "insert into push_addresses (kind, value, profile_id, bound_at, bound_hash, last_seen_at)"
            f" values ('fid', '{value}', '{profile_id}', 0, 0, {last_seen_at}) on conflict (kind, value)"
            " do update set profile_id = excluded.profile_id, last_seen_at = excluded.last_seen_at"
        )

    async def receipt(self, push_id: str, at: int) -> None:
        assert await self.state.write(lambda session: record_receipt(session, push_id, "received", at))

    def row(self, push_id: str) -> Seen:
        [row] = self.ask(
            "select state, reason, next_try_at, attempt, resent, message_name, finished_at"
            f" from pushes where push_id = '{push_id}'"
        )
        return Seen(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6])

    def address(self, value: str) -> tuple[str, bool] | None:
        rows = self.ask(f"select profile_id, quarantined_at from push_addresses where value = '{value}'")
        return (rows[0][0], rows[0][1] is not None) if rows else None

    def alerts(self) -> list[str]:
        return [kind for (kind,) in self.ask("select kind from alerts")]


@pytest.fixture(params=["fake", "sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_engine(engine: str, request: pytest.FixtureRequest) -> Callable | None:
    """None for the fake, for which no database is made."""
    return None if engine == "fake" else request.getfixturevalue("open_area")


@pytest.fixture
async def outbox(open_engine: Callable | None, raw: Callable) -> AsyncIterator[Harness]:
    if open_engine is None:
        yield FakeHarness()
        return
    async with open_engine("state") as state:
        yield StoreHarness(state, raw)


_numbers = itertools.count(1)


def new(push_id: str, **changes: Any) -> NewPush:
    content = {"title": "Coats", "body": "20 % off", "campaign_id": "coats", "expires_at": END}
    content |= {key: changes.pop(key) for key in ("expires_at", "resend_allowed") if key in changes}
    values: dict[str, Any] = {
        "push_id": push_id,
        "decision_id": next(_numbers),
        "profile_id": "anna",
        "address_kind": "fid",
        "address_value": "phone",
        "platform": "android",
        "content": PushContent(**content),
        "created_at": NOW,
        "not_before": NOW,
        "due_at": NOW,
        "completed_at": NOW,
    }
    return NewPush(**values | changes)


async def sending(outbox: Harness, push_id: str = "p1", owner: str = ME, **changes: Any) -> Claimed:
    """A push on its way since NOW."""
    await outbox.bind("phone")
    await outbox.insert(new(push_id, **changes))
    (push,) = await outbox.queue.mark_sending(await outbox.queue.claim(owner, NOW, 1), NOW)
    return push


async def test_a_decision_reaches_each_address_once(outbox: Harness) -> None:
    first = new("p1", decision_id=1)
    assert await outbox.insert(first, new("p2", decision_id=1, address_value="tablet")) == 2
    assert await outbox.insert(new("p3", decision_id=1), first) == 0, "the fold repeated itself"


async def test_claiming_takes_the_due_ones_longest_due_first_and_only_once(outbox: Harness) -> None:
    await outbox.insert(
        new("later", not_before=NOW + 1), new("second", not_before=NOW), new("first", not_before=NOW - 5)
    )
    assert await outbox.queue.next_due() == NOW - 5
    assert [push.push_id for push in await outbox.queue.claim(ME, NOW, 1)] == ["first"]
    assert [push.push_id for push in await outbox.queue.claim(ME, NOW, 9)] == ["second"]
    assert await outbox.queue.claim(ME, NOW, 9) == []
    assert await outbox.queue.next_due() == NOW + 1


async def test_an_empty_outbox_is_never_due(outbox: Harness) -> None:
    assert await outbox.queue.next_due() is None


async def test_what_was_queued_comes_back_as_it_was(outbox: Harness) -> None:
    wanted = new("p1", resend_allowed=True)
    await outbox.insert(wanted)
    (push,) = await outbox.queue.claim(ME, NOW, 1)
    assert (push.content, push.decision_id, push.platform) == (wanted.content, wanted.decision_id, "android")
    assert (push.attempt, push.resent, push.sending_at, push.owner) == (0, False, None, ME)


async def test_sending_is_marked_with_time_and_attempt(outbox: Harness) -> None:
    push = await sending(outbox)
    assert (push.attempt, push.sending_at) == (1, NOW)
    assert (outbox.row("p1").state, outbox.row("p1").attempt) == ("sending", 1)


async def test_an_accepted_push_ends(outbox: Harness) -> None:
    push = await sending(outbox)
    assert await outbox.queue.settle([settle(push, Accepted("m/1"), NOW + 9, 0.5)], NOW + 9) == 1
    row = outbox.row("p1")
    assert (row.state, row.message_name, row.finished_at) == ("accepted", "m/1", NOW + 9)


async def test_only_the_owner_in_the_right_state_can_settle(outbox: Harness) -> None:
    push = await sending(outbox)
    stranger = msgspec.structs.replace(push, owner="somebody")
    assert await outbox.queue.settle([Finish(stranger, PushState.ACCEPTED)], NOW) == 0
    claimed = msgspec.structs.replace(push, sending_at=None)
    assert await outbox.queue.settle([Finish(claimed, PushState.SUPPRESSED, "cap")], NOW) == 0
    assert outbox.row("p1").state == "sending"
    assert await outbox.queue.settle([Finish(push, PushState.ACCEPTED)], NOW) == 1
    assert await outbox.queue.settle([Finish(push, PushState.REJECTED)], NOW) == 0, "final is final"


async def test_marking_twice_sends_once(outbox: Harness) -> None:
    await outbox.bind("phone")
    await outbox.insert(new("p1"))
    claimed = await outbox.queue.claim(ME, NOW, 1)
    assert len(await outbox.queue.mark_sending(claimed, NOW)) == 1
    assert await outbox.queue.mark_sending(claimed, NOW) == []


async def test_a_requeued_push_comes_again_when_it_is_due(outbox: Harness) -> None:
    push = await sending(outbox)
    await outbox.queue.settle([Requeue(push, NOW + 2000, "Unavailable")], NOW)
    assert await outbox.queue.claim(ME, NOW + 1999, 9) == []
    (again,) = await outbox.queue.claim(ME, NOW + 2000, 9)
    assert (again.attempt, again.sending_at) == (1, None)
    (leaving,) = await outbox.queue.mark_sending([again], NOW + 2000)
    assert leaving.attempt == 2


@pytest.mark.parametrize("bound_to", [None, "bruno"])
async def test_an_address_that_is_no_longer_the_persons_gets_nothing(
    outbox: Harness, bound_to: str | None
) -> None:
    if bound_to:
        await outbox.bind("phone", bound_to)
    await outbox.insert(new("p1"))
    assert await outbox.queue.mark_sending(await outbox.queue.claim(ME, NOW, 1), NOW) == []
    assert (outbox.row("p1").state, outbox.row("p1").reason) == ("suppressed", "address_gone")


@pytest.mark.parametrize(
    ("last_seen_at", "survives"), [(NOW - 1, False), (NOW, True), (NOW + 5, True)], ids=str
)
async def test_a_dead_address_is_dropped_unless_the_app_showed_itself_since(
    outbox: Harness, last_seen_at: int, survives: bool
) -> None:
    push = await sending(outbox)
    await outbox.bind("phone", "anna", last_seen_at)
    result = Rejected("Unregistered", AddressVerdict.DROP)
    await outbox.queue.settle([settle(push, result, NOW + 9, 0.5)], NOW + 9)
    assert (outbox.address("phone") is not None) is survives
    assert outbox.row("p1").state == "rejected"


async def test_a_foreign_address_is_quarantined_with_an_alert_and_gets_no_more(outbox: Harness) -> None:
    push = await sending(outbox)
    result = Rejected("SenderIdMismatch", AddressVerdict.QUARANTINE)
    await outbox.queue.settle([settle(push, result, NOW + 9, 0.5)], NOW + 9)
    assert outbox.address("phone") == ("anna", True)
    assert outbox.alerts() == ["push_address_quarantined"]
    await outbox.insert(new("p2"))
    assert await outbox.queue.mark_sending(await outbox.queue.claim(ME, NOW, 9), NOW) == []


async def test_a_dead_claim_is_queued_again_and_our_own_is_left(outbox: Harness) -> None:
    await outbox.insert(new("p1"))
    await outbox.queue.claim(DEAD, NOW, 9)
    await outbox.insert(new("p2"))
    await outbox.queue.claim(ME, NOW, 9)
    assert await outbox.queue.recover(ME, NOW) == Recovered(requeued=1)
    assert (outbox.row("p1").state, outbox.row("p2").state) == ("queued", "claimed")
    assert [push.push_id for push in await outbox.queue.claim(ME, NOW, 9)] == ["p1"]


async def test_a_dead_send_is_unknown_and_stays_so(outbox: Harness) -> None:
    await sending(outbox, owner=DEAD)
    assert await outbox.queue.recover(ME, NOW) == Recovered(unknown=1)
    assert outbox.row("p1").state == "unknown"
    assert await outbox.queue.recover(ME, NOW) == Recovered()
    assert await outbox.queue.claim(ME, END, 9) == []


async def test_a_dead_send_is_resent_once_where_the_campaign_allows_it(outbox: Harness) -> None:
    await sending(outbox, owner=DEAD, resend_allowed=True)
    assert await outbox.queue.recover(ME, NOW) == Recovered(resends=1)
    (again,) = await outbox.queue.claim("next life", NOW + 60_000, 9)
    assert again.resent
    await outbox.queue.mark_sending([again], NOW + 60_000)
    assert await outbox.queue.recover(ME, NOW + 60_000) == Recovered(unknown=1)
    assert outbox.row("p1").state == "unknown"


async def test_no_resend_when_the_offer_is_over(outbox: Harness) -> None:
    await sending(outbox, owner=DEAD, resend_allowed=True)
    assert await outbox.queue.recover(ME, END) == Recovered(unknown=1)


async def test_no_resend_once_the_phone_reported_the_first(outbox: Harness) -> None:
    push = await sending(outbox, resend_allowed=True)
    await outbox.queue.settle([settle(push, Unknown("timeout"), NOW, 0.0)], NOW)
    assert outbox.row("p1").resent
    await outbox.receipt("p1", NOW + 500)
    claimed = await outbox.queue.claim(ME, NOW + 60_000, 9)
    assert await outbox.queue.mark_sending(claimed, NOW + 60_000) == []
    assert outbox.row("p1").state == "accepted"


async def test_a_resend_to_a_lost_address_stays_unknown(outbox: Harness) -> None:
    push = await sending(outbox, resend_allowed=True)
    await outbox.queue.settle([settle(push, Unknown("timeout"), NOW, 0.0)], NOW)
    await outbox.bind("phone", "bruno")
    claimed = await outbox.queue.claim(ME, NOW + 60_000, 9)
    assert await outbox.queue.mark_sending(claimed, NOW + 60_000) == []
    assert outbox.row("p1").state == "unknown"


async def test_alerts_are_kept(outbox: Harness) -> None:
    await outbox.queue.alert("push_circuit_open", "project", "401", NOW)
    assert outbox.alerts() == ["push_circuit_open"]


# What only the database knows ---------------------------------------------------------------------------
on_both = pytest.mark.parametrize("engine", ["sqlite", "postgres"])


@pytest.fixture
async def store(outbox: Harness) -> StoreHarness:
    assert isinstance(outbox, StoreHarness)
    return outbox


@on_both
@pytest.mark.parametrize(
    ("push_to", "address_of", "goes"),
    [("anna", "anna-web", True), ("anna-web", "anna", True), ("anna", "bruno", False)],
)
async def test_a_merge_of_profiles_does_not_lose_the_address(
    store: StoreHarness, push_to: str, address_of: str, goes: bool
) -> None:
    await store.tell(
        "insert into profiles (profile_id, id_type, created_at, merged_into) values"
        " ('anna', 'user_id', 0, null), ('anna-app', 'user_id', 0, 'anna'),"
        " ('anna-web', 'user_id', 0, 'anna-app'), ('bruno', 'user_id', 0, null)"
    )
    await store.bind("phone", address_of)
    await store.insert(new("p1", profile_id=push_to))
    assert len(await store.queue.mark_sending(await store.queue.claim(ME, NOW, 1), NOW)) == goes


@on_both
@pytest.mark.parametrize(
    ("address_of", "others", "goes_to"),
    [
        ("anna", (), "renewed"),
        ("anna-web", (), "renewed"),
        ("bruno", (), "phone"),
        ("anna", ("renewed",), "phone"),
    ],
    ids=["hers", "her browser's", "another's", "it has the offer already"],
)
async def test_a_renewed_address_is_where_the_push_goes(
    store: StoreHarness, address_of: str, others: tuple[str, ...], goes_to: str
) -> None:
    await store.tell(
        "insert into profiles (profile_id, id_type, created_at, merged_into) values"
        " ('anna', 'user_id', 0, null), ('anna-web', 'anonymous_id', 0, 'anna'),"
        " ('bruno', 'user_id', 0, null)"
    )
    await store.bind("phone")
    await store.bind("renewed", address_of)
    await store.tell("update push_addresses set device_id = 'd1'")
    await store.tell("update push_addresses set profile_id = null where value = 'phone'")
    await store.insert(new("p1", decision_id=1))
    await store.insert(*(new("p2", decision_id=1, address_value=value, not_before=END) for value in others))
    [push] = await store.queue.claim(ME, NOW, 1)
    assert push.address_value == goes_to
    assert store.ask("select address_value from pushes where push_id = 'p1'") == [(goes_to,)]


@on_both
async def test_receipts_keep_the_earliest_report(store: StoreHarness) -> None:
    await store.insert(new("p1"))
    for receipt, at in (("opened", 50), ("received", 40), ("opened", 60)):
        assert await store.state.write(lambda s, r=receipt, t=at: record_receipt(s, "p1", r, t))
    assert not await store.state.write(lambda session: record_receipt(session, "nobody's", "opened", 1))
    assert store.ask("select received_at, opened_at from pushes") == [(40, 50)]


@pytest.mark.parametrize(
    ("engine", "explain"),
    [("sqlite", "explain query plan"), ("postgres", "explain")],
    ids=["sqlite", "postgres"],
)
async def test_claiming_uses_the_index(store: StoreHarness, explain: str) -> None:
    plan = store.ask(
        f"{explain} select push_id from pushes where state = 'queued' and next_try_at <= 1"
        " order by next_try_at limit 1"
    )
    assert any("pushes_waiting" in step[-1] for step in plan)


@pytest.mark.parametrize("engine", ["postgres"])
async def test_two_senders_never_claim_the_same_and_never_wait_for_each_other(
    store: StoreHarness, open_area: Callable
) -> None:
    await store.insert(*(new(f"p{number}") for number in range(40)))
    async with open_area("state") as elsewhere:
        other = PushStore(elsewhere)
        claims = [
            queue.claim(owner, NOW, 7)
            for _ in range(3)
            for queue, owner in ((store.queue, ME), (other, DEAD))
        ]
        taken = [push.push_id for claim in await asyncio.gather(*claims) for push in claim]
    assert sorted(set(taken)) == sorted(taken)
    assert len(taken) == 40
