"""Takes due pushes from the queue to FCM: claim, wait for the fold, ask, commit `sending`, send, settle.

Three tasks share the work. The claimer fills the free slots; each claimed push waits by itself until the
fold has caught up with its person; the dispatcher asks `may_send` of all who are ready, commits `sending` for
all of them in one transaction and starts their sends; the settler commits the answers in batches.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
from msgspec import Struct

from backend.push.circuit import CLOSED, Circuit
from backend.push.model import (
    Accepted,
    AddressVerdict,
    Claimed,
    Finish,
    Outcome,
    PushState,
    Refused,
    Rejected,
    Requeue,
    Settlement,
    give_up,
    postpone,
    settle,
)

T = TypeVar("T")
log = structlog.get_logger(__name__)

LONGEST_NAP_S = 30.0  # a clock that was set back must not let due pushes sleep for hours
STRIDE = 16  # 200 messages encoded in one turn of the loop held it for 60 ms
BEHIND_MS = 200  # the fold usually catches up within milliseconds; sooner would only spin


class Recovered(Struct, frozen=True):
    """What was found in the hands of dead senders: put back, ended as unknown, and to be resent once."""

    requeued: int = 0
    unknown: int = 0
    resends: int = 0


class PushQueue(Protocol):
    """The durable outbox. Every change is a compare-and-set on owner and state, committed on return."""

    async def recover(self, owner: str, now: int) -> Recovered:
        """Frees what dead owners (all but this) hold: `claimed` is queued, `sending` unknown or resent."""

    async def claim(self, owner: str, now: int, limit: int) -> list[Claimed]:
        """Up to `limit` queued pushes that are due at `now`, the longest due first."""

    async def mark_sending(self, pushes: Sequence[Claimed], now: int) -> list[Claimed]:
        """Commits `sending` and returns those that may now be sent, with their new attempt.

        Ends the others: the address no longer belongs to the person, or a first send was reported.
        """

    async def settle(self, settlements: Sequence[Settlement], now: int) -> int:
        """Finishes or requeues all in one transaction, and judges their addresses; how many it did."""

    async def next_due(self) -> int | None:
        """When the next queued push is due, in unix ms."""

    async def alert(self, kind: str, subject: str, detail: str, now: int) -> None:
        """Tells the operators."""


class MaySend(Protocol):
    """Asked right before `sending`: consent, purchase, quiet hours, caps."""

    async def may_send(self, claimed: Claimed, now: int) -> str | int | None:
        """None to go, the reason of the suppression, or until when (unix ms) it has to wait."""


class CaughtUp(Protocol):
    """Whether all that the person's identifiers had journalled is folded, so that `may_send` can know."""

    async def caught_up(self, profile_id: str) -> bool:
        """Waits for it, 200 ms at most."""


class FcmGateway(Protocol):
    """The way to the phone."""

    async def send(self, push: Claimed) -> Outcome:
        """One attempt; never raises for what the network or the service do."""


@dataclass(frozen=True, slots=True)
class Guards:
    """Whom to ask before a push may leave."""

    may_send: MaySend
    caught_up: CaughtUp


@dataclass(frozen=True, slots=True)
class Rim:
    """Clock (unix ms), chance ([0, 1)) and this process's unique name."""

    owner: str
    now: Callable[[], int]
    random: Callable[[], float]


@dataclass(frozen=True, slots=True)
class SenderStatus:
    """For health and metrics. `open_circuits` maps a scope (`project` or a platform) to its reason."""

    in_hand: int
    counts: dict[str, int]
    open_circuits: dict[str, str]


PROJECT = "project"  # the circuit that all platforms share


class PushSender:
    """The worker. `run` returns after `stop`, when nothing is in hand any more."""

    def __init__(
        self,
        queue: PushQueue,
        gateway: FcmGateway,
        guards: Guards,
        rim: Rim,
        *,
        slots: int = 200,
        recover_every_s: float | None = None,
    ) -> None:
        """`slots`: messages in hand at once, so also sends at once: no `sending` row waits for its turn.

        `recover_every_s`: there are other senders, who may die while this one lives.
        """
        self._recover_every_s = recover_every_s
        self._queue = queue
        self._gateway = gateway
        self._guards = guards
        self._rim = rim
        self._slots = slots
        self._in_hand = 0
        self._stopping = False
        self._nudge = asyncio.Event()
        self._ready: asyncio.Queue[Claimed] = asyncio.Queue(slots)
        self._done: asyncio.Queue[Settlement] = asyncio.Queue(slots)
        self._circuits: dict[str, Circuit] = {}
        self._counts: Counter[str] = Counter()
        self._tasks = asyncio.TaskGroup()

    def wake(self) -> None:
        """Pushes were queued: look now."""
        self._nudge.set()

    def stop(self) -> None:
        """Claim no more; send no more; settle what is on its way."""
        self._stopping = True
        self._nudge.set()

    def status(self) -> SenderStatus:
        """How it stands."""
        circuits = {scope: circuit.reason for scope, circuit in self._circuits.items() if circuit.is_open}
        return SenderStatus(self._in_hand, dict(self._counts), circuits)

    async def run(self) -> None:
        """Recovers what dead senders left, then works until `stop`. Storage errors end it."""
        await self._recover()
        async with self._tasks as tasks:
            workers = [tasks.create_task(self._dispatch()), tasks.create_task(self._settle())]
            if self._recover_every_s is not None:
                workers.append(tasks.create_task(self._recover_again(self._recover_every_s)))
            await self._claim()
            for worker in workers:
                worker.cancel()

    async def _recover(self) -> Recovered:
        recovered = await self._queue.recover(self._rim.owner, self._rim.now())
        log.info("push.recovered", **{name: getattr(recovered, name) for name in recovered.__struct_fields__})
        return recovered

    async def _recover_again(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            if await self._recover() != Recovered():
                self.wake()

    # The claimer ----------------------------------------------------------------------------------------
    async def _claim(self) -> None:
        """Until stopped and empty-handed. A wake during the claim is kept by the event."""
        while not (self._stopping and self._in_hand == 0):
            self._nudge.clear()
            nap_s = LONGEST_NAP_S if self._stopping else await self._claim_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(nap_s):
                    await self._nudge.wait()

    async def _claim_once(self) -> float:
        """Claims what the free slots take; seconds until there may be more."""
        now = self._rim.now()
        project = self._circuit(PROJECT)
        if (until := project.blocked_until(now)) is not None:
            return _seconds(until - now)
        room = self._slots - self._in_hand
        if room < max(1, self._slots // 8):  # many tiny claims would each pay a commit
            return LONGEST_NAP_S
        if project.is_open and self._in_hand:  # one probe at a time
            return LONGEST_NAP_S
        due = await self._queue.next_due()
        if due is None or due > now:  # a look; to claim nothing would be a transaction
            return LONGEST_NAP_S if due is None else _seconds(due - now)
        for push in await self._queue.claim(self._rim.owner, now, 1 if project.is_open else room):
            self._take(push)
        return 0.0

    def _take(self, push: Claimed) -> None:
        self._in_hand += 1
        self._tasks.create_task(self._prepare(push))

    async def _prepare(self, push: Claimed) -> None:
        if await self._guards.caught_up.caught_up(push.profile_id):
            self._ready.put_nowait(push)
        else:
            self._finish(postpone(push, self._rim.now() + BEHIND_MS, "the fold is behind"))

    # The dispatcher -------------------------------------------------------------------------------------
    async def _dispatch(self) -> None:
        while True:
            for wave in waves(await _drain(self._ready, self._slots)):
                await self._start(await self._permitted(wave))

    async def _permitted(self, wave: Sequence[Claimed]) -> list[Claimed]:
        """Those that may go; the others are settled."""
        now = self._rim.now()
        refusals = await asyncio.gather(*(self._refusal(push, now) for push in wave))
        for settlement in refusals:
            if settlement is not None:
                self._finish(settlement)
        return [push for push, refusal in zip(wave, refusals, strict=True) if refusal is None]

    async def _refusal(self, push: Claimed, now: int) -> Settlement | None:
        """Why not, or None. The circuits are asked last, because they count the one they let through."""
        if push.expires_at <= now:
            return give_up(push, PushState.EXPIRED, "expired before it was sent")
        if self._stopping:
            return postpone(push, now, "the sender stopped")
        objection = await self._guards.may_send.may_send(push, now)
        if isinstance(objection, int):
            return postpone(push, objection, "held back")
        if objection is not None:
            return give_up(push, PushState.SUPPRESSED, objection)
        return self._held_by_circuit(push, now)

    def _held_by_circuit(self, push: Claimed, now: int) -> Settlement | None:
        scopes = _scopes(push)
        for scope in scopes:
            if (until := self._circuit(scope).blocked_until(now)) is not None:
                return postpone(push, until, f"{scope}: {self._circuit(scope).reason}")
        for scope in scopes:
            self._circuits[scope] = self._circuit(scope).admitted(now)
        return None

    async def _start(self, pushes: Sequence[Claimed]) -> None:
        """Commits `sending`, then sends."""
        if not pushes:
            return
        sending = await self._queue.mark_sending(pushes, self._rim.now())
        for number, push in enumerate(sending, 1):
            self._tasks.create_task(self._send(push))
            if number % STRIDE == 0:
                await asyncio.sleep(0)
        ended = len(pushes) - len(sending)
        self._counts["ended before sending"] += ended
        self._release(ended)

    async def _send(self, push: Claimed) -> None:
        result = await self._gateway.send(push)
        now = self._rim.now()
        if isinstance(result, Refused):
            await self._trip(push, result, now)
        elif isinstance(result, Accepted | Rejected):
            self._close_circuits(push)
        self._finish(settle(push, result, now, self._rim.random()))

    # The circuits ---------------------------------------------------------------------------------------
    def _circuit(self, scope: str) -> Circuit:
        return self._circuits.get(scope, CLOSED)

    async def _trip(self, push: Claimed, refused: Refused, now: int) -> None:
        scope = PROJECT if refused.scope == "project" else _platform(push)
        before = self._circuit(scope)
        self._circuits[scope] = before.failed(push.sending_at or now, now, refused.reason)
        if not before.is_open:
            log.error("push.circuit_opened", scope=scope, reason=refused.reason)
            await self._queue.alert("push_circuit_open", scope, refused.reason, now)

    def _close_circuits(self, push: Claimed) -> None:
        for scope in _scopes(push):
            before = self._circuit(scope)
            if before.is_open:
                self._circuits[scope] = before.succeeded(push.sending_at or 0)
                self._nudge.set()

    # The settler ----------------------------------------------------------------------------------------
    def _finish(self, settlement: Settlement) -> None:
        self._count(settlement)
        self._done.put_nowait(settlement)

    async def _settle(self) -> None:
        while True:
            settlements = await _drain(self._done, self._slots)
            await self._queue.settle(settlements, self._rim.now())
            self._release(len(settlements))

    def _count(self, settlement: Settlement) -> None:
        match settlement:
            case Requeue(push, _, reason):
                self._counts["requeued"] += 1
                log.debug("push.requeued", push_id=push.push_id, reason=reason)
            case Finish(push, state, reason, _, address):
                self._counts[state.value] += 1
                if state is not PushState.ACCEPTED:  # a line for each of 1,000 a second would halve the rate
                    write = log.warning if address is AddressVerdict.QUARANTINE else log.debug
                    write("push.ended", push_id=push.push_id, state=state, reason=reason, address=address)

    def _release(self, pushes: int) -> None:
        self._in_hand -= pushes
        self._nudge.set()


def waves(pushes: Iterable[Claimed]) -> list[list[Claimed]]:
    """The pushes in rounds in which each person has one decision at most.

    Two offers asked about in the same round would each find the frequency cap free.
    """
    rounds: list[dict[str, list[Claimed]]] = []
    for push in pushes:
        for one in rounds:
            mates = one.setdefault(push.profile_id, [])
            if not mates or mates[0].decision_id == push.decision_id:
                mates.append(push)
                break
        else:
            rounds.append({push.profile_id: [push]})
    return [[push for mates in one.values() for push in mates] for one in rounds]


async def _drain(queue: "asyncio.Queue[T]", limit: int) -> list[T]:
    """Waits for one item, and takes all that are there."""
    items = [await queue.get()]
    while len(items) < limit and not queue.empty():
        items.append(queue.get_nowait())
    return items


def _platform(push: Claimed) -> str:
    return push.platform or "other"


def _scopes(push: Claimed) -> tuple[str, str]:
    return PROJECT, _platform(push)


def _seconds(milliseconds: int) -> float:
    return min(LONGEST_NAP_S, max(0, milliseconds) / 1000)
