"""Rotating beacons in the database: registered with a wrapped key, read back for the tables of their ids."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from backend.proximity.eid_roll import Roll, SealedBeacon
from backend.storage.database import Database, Row, Session

T = TypeVar("T")
PAGE: Final = 4096  # rows in memory at once; a chain has a million tags
CLOCK_TOLD_S: Final = 60  # what a clock read off by hand and typed in may be wrong by
DRIFT_MS: Final = 4_000_000  # for one second of drift: 250 ppm, worse than any crystal in a tag


@dataclass(frozen=True, slots=True)
class Registration:
    """A beacon to register. `ahead_s` is its counter minus unix time, as it was at `told_at` (unix ms)."""

    beacon_key: str
    wrapped_key: bytes
    fingerprint: bytes
    exponent: int
    ahead_s: int
    told_at: int


def register(session: Session, new: Registration, now: int) -> tuple[str, bool]:
    """The key by which the beacon is known, and whether it is new; one known already keeps its own."""
    clock = {"exponent": new.exponent, "ahead_s": new.ahead_s, "told_at": new.told_at}
    known = session.row("eid_beacon_of_key", fingerprint=new.fingerprint)
    if known is not None:
        session.run("tell_eid_clock", number=known["number"], **clock)
        return str(known["beacon_key"]), False
    session.run(
        "add_eid_beacon",
        beacon_key=new.beacon_key,
        wrapped_key=new.wrapped_key,
        fingerprint=new.fingerprint,
        registered_at=now,
        **clock,
    )
    return new.beacon_key, True


def remove(session: Session, beacon_key: str) -> bool:
    """Forgets a beacon's key; whether there was one."""
    return session.run("remove_eid_beacon", beacon_key=beacon_key) > 0


def registered(session: Session, after: str, limit: int) -> list[dict[str, Any]]:
    """Beacons in the order of their keys, from behind one; for people."""
    return [dict(row) for row in session.rows("eid_beacons", after=after, limit=limit)]


def any_registered(session: Session) -> bool:
    """Whether there is any wrapped key, which a new secret could never open."""
    return bool(session.rows("eid_exponents"))


class EidRows:
    """What the desk needs. `roll` and `sealed` block; call them from a thread, off the event loop."""

    def __init__(self, state: Database) -> None:
        self._state = state

    def roll(self) -> Roll:
        """Every beacon's number and name. Raises StorageError."""
        return self._view(_roll)

    def sealed(self, exponent: int, use: Callable[[Iterator[SealedBeacon]], T]) -> T:
        """What `use` makes of the beacons of one exponent, in one consistent view. Raises StorageError."""
        return self._view(lambda session: use(_sealed(session, exponent)))

    async def save_clocks(self, ahead_s: Mapping[int, int], now: int) -> None:
        """Keeps what was learned of clocks, by number, within what a crystal can do. Raises StorageError."""
        fixed = {"at": now, "base_s": CLOCK_TOLD_S, "ms_per_s": DRIFT_MS}
        rows = [{"number": number, "ahead_s": ahead, **fixed} for number, ahead in ahead_s.items()]
        for start in range(0, len(rows), PAGE):
            await self._state.write(partial(_learn, rows[start : start + PAGE]))

    def _view(self, work: Callable[[Session], T]) -> T:
        """On a connection of its own: a table of many beacons must not hold up the state's reader."""
        return self._state.view(work)


def _learn(rows: list[dict[str, int]], session: Session) -> None:
    session.many("learn_eid_clock", rows)


def _roll(session: Session) -> Roll:
    counts = {row["exponent"]: row["beacons"] for row in session.rows("eid_exponents")}
    return Roll.of(((row["number"], row["beacon_key"]) for row in _pages(session, "eid_numbers")), counts)


def _sealed(session: Session, exponent: int) -> Iterator[SealedBeacon]:
    for row in _pages(session, "eid_keys", exponent=exponent):
        yield SealedBeacon(row["number"], row["beacon_key"], row["wrapped_key"], row["clock_ahead_s"])


def _pages(session: Session, query: str, **values: Any) -> Iterator[Row]:
    after = 0
    while rows := session.rows(query, after=after, limit=PAGE, **values):
        yield from rows
        after = rows[-1]["number"]
