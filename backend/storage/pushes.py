"""The outbox of pushes: compare-and-set on owner and state, one transaction a batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from backend.push.model import (
    AddressVerdict,
    Claimed,
    Finish,
    NewPush,
    PushState,
    Requeue,
    Settlement,
    Unknown,
    decode_content,
    encode_content,
    give_up,
    postpone,
    settle,
    step,
)
from backend.push.sender import Recovered
from backend.storage import profiles
from backend.storage.database import Database, Row, Session
from backend.storage.segment_facts import as_json

Objection: TypeAlias = Callable[[Session, Claimed, int], str | int | None]
"""As the sender's MaySend, inside a transaction."""
LATELY_MS = 600_000  # between asking and marking lie milliseconds; two machines' clocks may be minutes apart


class PushStore:
    """Satisfies the sender's PushQueue.

    `objection`: asked again for whoever has other offers on their way, for another sender may have let one
    go since the first time. Caps would be exceeded by one.
    """

    def __init__(self, state: Database, objection: Objection | None = None) -> None:
        self._state = state
        self._objection = objection

    async def recover(self, owner: str, now: int) -> Recovered:
        """Of the dead: whoever else held a push, but for replicas that gave a sign within ten seconds."""
        return await self._state.write(lambda session: _recover(session, owner, now))

    async def claim(self, owner: str, now: int, limit: int) -> list[Claimed]:
        return await self._state.write(lambda session: _claim(session, owner, now, limit))

    async def mark_sending(self, pushes: Sequence[Claimed], now: int) -> list[Claimed]:
        return await self._state.write(lambda session: _mark_sending(session, pushes, now, self._objection))

    async def settle(self, settlements: Sequence[Settlement], now: int) -> int:
        return await self._state.write(
            lambda session: sum(_settle(session, settlement, now) for settlement in settlements)
        )

    async def next_due(self) -> int | None:
        row = await self._state.read(lambda session: session.row("next_push_due"))
        return None if row is None else row[0]

    async def alert(self, kind: str, subject: str, detail: str, now: int) -> None:
        await self._state.write(lambda session: _alert(session, kind, subject, detail, now))


def insert_pushes(session: Session, pushes: Sequence[NewPush]) -> int:
    """Queues what the fold decided, in its transaction; how many were new (a repeated fold adds none)."""
    return sum(session.changed("insert_push", [_row(push) for push in pushes]))


def record_receipt(session: Session, push_id: str, receipt: Literal["received", "opened"], at: int) -> bool:
    """The app's report, `at` unix ms; False for a push that we do not know."""
    query = "record_push_opened" if receipt == "opened" else "record_push_received"
    return session.run(query, push_id=push_id, at=at) > 0


def _claim(session: Session, owner: str, now: int, limit: int) -> list[Claimed]:
    """Each under the person of now: limits are theirs, also where two profiles have become one since."""
    rows = session.rows("claim_pushes", owner=owner, now=now, limit=limit)
    person_of = {
        profile_id: profiles.resolve(session, "profile_id", profile_id) or profile_id
        for profile_id in {row["profile_id"] for row in rows}
    }
    rows = sorted(rows, key=lambda row: (row["next_try_at"], row["push_id"]))
    claimed = [
        msgspec.structs.replace(_claimed(row), profile_id=person_of[row["profile_id"]]) for row in rows
    ]
    return _where_phones_are(session, claimed)


def _where_phones_are(session: Session, claimed: Sequence[Claimed]) -> list[Claimed]:
    """The pushes, each to the address that its phone has by now, unless the phone is another person's."""
    if not claimed:
        return []
    person_of = {push.push_id: push.profile_id for push in claimed}
    moved: dict[str, Row] = {}
    for row in session.rows("replaced_addresses", pushes=as_json(list(person_of))):
        theirs = profiles.resolve(session, "profile_id", row["profile_id"]) == person_of[row["push_id"]]
        if theirs and session.run("readdress_push", **_address_of(row), push_id=row["push_id"]):
            moved[row["push_id"]] = row
    return [_readdressed(push, moved.get(push.push_id)) for push in claimed]


def _readdressed(push: Claimed, row: Row | None) -> Claimed:
    if row is None:
        return push
    return msgspec.structs.replace(
        push, address_kind=row["kind"], address_value=row["value"], platform=row["platform"]
    )


def _address_of(row: Row) -> Mapping[str, Any]:
    return {name: row[name] for name in ("kind", "value", "platform")}


def _recover(session: Session, owner: str, now: int) -> Recovered:
    requeued = session.run("requeue_dead_claims", owner=owner)
    dead = [_claimed(row) for row in session.rows("dead_sends", owner=owner)]
    ends = [settle(push, Unknown("the sender died"), now, 0.0) for push in dead]
    for end in ends:
        _settle(session, end, now)
    resends = sum(isinstance(end, Requeue) for end in ends)
    return Recovered(requeued, len(ends) - resends, resends)


def _mark_sending(
    session: Session, pushes: Sequence[Claimed], now: int, objection: Objection | None
) -> list[Claimed]:
    marked: list[Claimed] = []
    for push in pushes:
        step(push.state, PushState.SENDING)
        stopped = None if objection is None else _stopped_meanwhile(session, push, now, objection)
        if stopped is not None:
            _settle(session, stopped, now)
        elif session.run(
            "mark_push_sending",
            now=now,
            push_id=push.push_id,
            owner=push.owner,
            address_kind=push.address_kind,
            address_value=push.address_value,
        ):
            marked.append(push.leaving(now))
        else:
            session.run("end_unmarked_push", now=now, push_id=push.push_id, owner=push.owner)
            session.run("end_decision", decision_id=push.decision_id)
    return marked


def _stopped_meanwhile(session: Session, push: Claimed, now: int, objection: Objection) -> Settlement | None:
    """How the push ends, or goes back, because of another offer to the person; None where it may go."""
    others = session.rows(
        "touch_other_offers", push_id=push.push_id, decision_id=push.decision_id, since=now - LATELY_MS
    )
    match objection(session, push, now) if others else None:
        case None:
            return None
        case int(until):
            return postpone(push, until, "held back")
        case reason:
            return give_up(push, PushState.SUPPRESSED, reason)


def _settle(session: Session, settlement: Settlement, now: int) -> int:
    push = settlement.push
    key = {"push_id": push.push_id, "owner": push.owner, "before": push.state}
    if isinstance(settlement, Requeue):
        step(push.state, PushState.QUEUED)
        return session.run(
            "requeue_push",
            next_try_at=settlement.next_try_at,
            reason=settlement.reason,
            resent=settlement.resent,
            **key,
        )
    changed = session.run(
        "finish_push",
        state=step(push.state, settlement.state),
        reason=settlement.reason,
        message_name=settlement.message_name,
        now=now,
        **key,
    )
    session.run("end_decision", decision_id=push.decision_id)
    _judge_address(session, settlement, now)
    return changed


def _judge_address(session: Session, finish: Finish, now: int) -> None:
    push = finish.push
    if finish.address is AddressVerdict.KEEP or push.sending_at is None:
        return
    address = {"kind": push.address_kind, "value": push.address_value, "sending_at": push.sending_at}
    if finish.address is AddressVerdict.DROP:
        session.run("drop_push_address", **address)
    elif session.run("quarantine_push_address", now=now, **address):
        _alert(session, "push_address_quarantined", push.push_id, finish.reason or "", now)


def _alert(session: Session, kind: str, subject: str, detail: str, now: int) -> None:
    session.run("raise_push_alert", kind=kind, subject=subject, detail=detail, now=now)


def _row(push: NewPush) -> Mapping[str, Any]:
    return {
        "push_id": push.push_id,
        "decision_id": push.decision_id,
        "campaign_id": push.content.campaign_id,
        "profile_id": push.profile_id,
        "address_kind": push.address_kind,
        "address_value": push.address_value,
        "platform": push.platform,
        "content": encode_content(push.content),
        "not_before": push.not_before,
        "expires_at": push.content.expires_at,
        "created_at": push.created_at,
        "due_at": push.due_at,
        "completed_at": push.completed_at,
    }


def _claimed(row: Row) -> Claimed:
    return Claimed(
        push_id=row["push_id"],
        decision_id=row["decision_id"],
        profile_id=row["profile_id"],
        address_kind=row["address_kind"],
        address_value=row["address_value"],
        platform=row["platform"],
        content=decode_content(row["content"]),
        owner=row["owner"],
        attempt=row["attempt"],
        resent=bool(row["resent"]),
        sending_at=row["sending_at"],
    )
