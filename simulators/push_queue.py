"""The push outbox in memory, for tests that need no database. Held to the same contract."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    settle,
    step,
)
from backend.push.sender import Recovered


@dataclass
class Row:
    """One push as the outbox keeps it; times are unix ms."""

    push: Claimed
    next_try_at: int
    state: PushState = PushState.QUEUED
    reason: str | None = None
    message_name: str | None = None
    finished_at: int | None = None
    received_at: int | None = None


@dataclass
class BoundAddress:
    """Whose address it is, and when it was last seen (unix ms)."""

    profile_id: str
    last_seen_at: int
    quarantined_at: int | None = None


class InMemoryPushes:
    """Satisfies the sender's PushQueue; its attributes are open for tests to look at."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.addresses: dict[tuple[str, str], BoundAddress] = {}
        self.alerts: list[tuple[str, str, str]] = []
        self._seen: set[tuple[int, str, str]] = set()

    def insert(self, pushes: Sequence[NewPush]) -> int:
        """Queues; once per decision and address."""
        return sum(self._insert(push) for push in pushes)

    def bind(self, kind: str, value: str, profile_id: str, last_seen_at: int) -> None:
        """The address becomes this person's."""
        self.addresses[kind, value] = BoundAddress(profile_id, last_seen_at)

    def receipt(self, push_id: str, at: int) -> None:
        """The phone reports the push."""
        self.rows[push_id].received_at = at

    async def recover(self, owner: str, now: int) -> Recovered:
        dead = [row for row in self.rows.values() if row.push.owner not in ("", owner)]
        claims = [row for row in dead if row.state is PushState.CLAIMED]
        for row in claims:
            row.state = PushState.QUEUED
        sends = [row.push for row in dead if row.state is PushState.SENDING]
        ends = [settle(push, Unknown("the sender died"), now, 0.0) for push in sends]
        await self.settle(ends, now)
        resends = sum(isinstance(end, Requeue) for end in ends)
        return Recovered(len(claims), len(ends) - resends, resends)

    async def claim(self, owner: str, now: int, limit: int) -> list[Claimed]:
        due = [row for row in self.rows.values() if row.state is PushState.QUEUED and row.next_try_at <= now]
        due.sort(key=lambda row: (row.next_try_at, row.push.push_id))
        for row in due[:limit]:
            row.state = step(row.state, PushState.CLAIMED)
            row.push = msgspec.structs.replace(row.push, owner=owner, sending_at=None)
        return [row.push for row in due[:limit]]

    async def mark_sending(self, pushes: Sequence[Claimed], now: int) -> list[Claimed]:
        ours = [row for push in pushes if (row := self._held(push, PushState.CLAIMED)) is not None]
        return [row.push for row in ours if self._mark(row, now)]

    async def settle(self, settlements: Sequence[Settlement], now: int) -> int:
        return sum(self._settle(settlement, now) for settlement in settlements)

    async def next_due(self) -> int | None:
        queued = (row.next_try_at for row in self.rows.values() if row.state is PushState.QUEUED)
        return min(queued, default=None)

    async def alert(self, kind: str, subject: str, detail: str, now: int) -> None:
        self.alerts.append((kind, subject, detail))

    def _insert(self, new: NewPush) -> bool:
        key = (new.decision_id, new.address_kind, new.address_value)
        if key in self._seen or new.push_id in self.rows:
            return False
        self._seen.add(key)
        push = Claimed(
            push_id=new.push_id,
            decision_id=new.decision_id,
            profile_id=new.profile_id,
            address_kind=new.address_kind,
            address_value=new.address_value,
            platform=new.platform,
            content=new.content,
            owner="",
        )
        self.rows[new.push_id] = Row(push, new.not_before)
        return True

    def _held(self, push: Claimed, state: PushState) -> Row | None:
        row = self.rows.get(push.push_id)
        return row if row and row.state is state and row.push.owner == push.owner else None

    def _mark(self, row: Row, now: int) -> bool:
        address = self.addresses.get((row.push.address_kind, row.push.address_value))
        gone = not address or address.profile_id != row.push.profile_id or address.quarantined_at is not None
        if not gone and row.received_at is None:
            row.state, row.push = step(row.state, PushState.SENDING), row.push.leaving(now)
            return True
        refused = PushState.UNKNOWN if row.push.resent else PushState.SUPPRESSED
        row.state = PushState.ACCEPTED if row.received_at is not None else refused
        row.reason = "address_gone" if row.received_at is None else "the phone reported the first send"
        row.finished_at = now
        return False

    def _settle(self, settlement: Settlement, now: int) -> bool:
        push = settlement.push
        row = self._held(push, push.state)
        if isinstance(settlement, Requeue):
            step(push.state, PushState.QUEUED)
            if row is not None:
                row.state, row.next_try_at, row.reason = (
                    PushState.QUEUED,
                    settlement.next_try_at,
                    settlement.reason,
                )
                row.push = msgspec.structs.replace(row.push, resent=settlement.resent)
            return row is not None
        step(push.state, settlement.state)
        if row is not None:
            row.state, row.reason, row.finished_at = settlement.state, settlement.reason, now
            row.message_name = settlement.message_name
        self._judge_address(settlement, now)
        return row is not None

    def _judge_address(self, finish: Finish, now: int) -> None:
        key = (finish.push.address_kind, finish.push.address_value)
        address, sent_at = self.addresses.get(key), finish.push.sending_at
        if address is None or sent_at is None or address.last_seen_at >= sent_at:
            return
        if finish.address is AddressVerdict.DROP:
            del self.addresses[key]
        elif finish.address is AddressVerdict.QUARANTINE and address.quarantined_at is None:
            address.quarantined_at = now
            self.alerts.append(("push_address_quarantined", finish.push.push_id, finish.reason or ""))
