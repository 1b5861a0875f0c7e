"""Which app events were taken in before: the ids that the journal knows, each once within seven days."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.storage.session import Row, Session, StorageRetry

NewIds: TypeAlias = Mapping[tuple[int, int], Sequence[int]]
"""Hashes by the hour of the client's clock and the hour of ours, since 1970."""
Values: TypeAlias = dict[str, Any]

RECENT_IDS: Final = 128_000  # twelve megabytes of memory; where an hour has three million, six to each page
RECENT_RUNS: Final = 5_000  # of few ids each: the next start reads them all before its first commit
PORTION: Final = 2_048  # ids moved at once: some milliseconds, in which no sender is answered
_BYTES: Final = 8


class MessageIds(Protocol):
    """What one commit of the journal asks and tells. All of it inside the commit's transaction."""

    def known(self, session: Session, asked: Mapping[int, Sequence[int]]) -> dict[int, set[int]]:
        """By hour of the clients' clocks, those of the hashes asked about that were taken in before."""
        ...

    def remember(self, session: Session, new: NewIds) -> None:
        """Keeps what is not known yet. Raises StorageRetry where another process keeps it at this moment."""
        ...

    @property
    def due(self) -> bool:
        """Whether there is enough to `settle`."""
        ...

    @property
    def pressing(self) -> int:
        """How many portions of it are due even though senders wait."""
        ...

    def settle(self, session: Session, *, whole: bool = False) -> bool:
        """Puts a portion in order, in a transaction of its own; whether to come again.

        `whole`: begins also where there is little to be done.
        """
        ...


class TableOfIds:
    """One table, for several processes that append at once."""

    due = False
    pressing = 0

    def known(self, session: Session, asked: Mapping[int, Sequence[int]]) -> dict[int, set[int]]:
        """Asks the table, hour by hour."""
        return {hour: _in_table(session, hour, hashes) for hour, hashes in asked.items()}

    def remember(self, session: Session, new: NewIds) -> None:
        """In the table's order, so that two processes do not wait for each other. Raises StorageRetry."""
        for (hour, received_hour), hashes in sorted(new.items()):
            told = {"hour": hour, "received_hour": received_hour, "hashes": _listed(sorted(hashes))}
            if session.run("remember_messages", **told) != len(hashes):
                raise StorageRetry("another process took in one of these messages meanwhile")

    def settle(self, session: Session, *, whole: bool = False) -> bool:
        """Every id is where it belongs."""
        del session, whole
        return False


class RecentFirst:
    """A table, and before it a log of runs, for a database that nobody else appends to at the same time.

    Hashes are spread over the table at random: each one that is put there by itself has a page of its own
    written. So a commit appends its ids to the log, as one run. When there are many, they are sorted, in one
    transaction, and then moved to the table, a portion in each; at every moment an id is in the log or in the
    table. What is in the log is known in memory as well, read from there by number, never from what a
    transaction was about to write: so memory holds what is committed, also after another process wrote or
    after a transaction was rolled back. It may hold more than the log for a while, which the table has then.
    """

    def __init__(self) -> None:
        self._recent: defaultdict[int, set[int]] = defaultdict(set)
        self._seen = 0
        self._runs = 0
        self.due = False
        self.pressing = 0

    def known(self, session: Session, asked: Mapping[int, Sequence[int]]) -> dict[int, set[int]]:
        """Asks memory and the table."""
        self._follow(session)
        return {
            hour: _in_table(session, hour, hashes) | self._recent.get(hour, _NONE).intersection(hashes)
            for hour, hashes in asked.items()
        }

    def remember(self, session: Session, new: NewIds) -> None:
        """Appends a run for each hour."""
        session.many("append_recent_ids", [_run(key, array("q", hashes)) for key, hashes in new.items()])

    def settle(self, session: Session, *, whole: bool = False) -> bool:
        """Moves what is sorted, else sorts what is not; at the end memory is to be read anew."""
        if moving := session.rows("next_sorted_ids", bytes=PORTION * _BYTES):
            _move(session, moving)
            return True
        if _is_worth_it(session, whole):
            session.many("append_recent_ids", list(_sorted_runs(session.rows("unsorted_ids"))))
            session.run("drop_unsorted_ids")
            return True
        self._recent.clear()
        self._seen = self._runs = self.pressing = 0
        self.due = False
        return False

    def _follow(self, session: Session) -> None:
        rows, came = session.rows("recent_ids_after", run=self._seen), 0
        for row in rows:
            hashes = array("q", row["hashes"])
            self._recent[row["hour"]].update(hashes)
            self._seen = row["run"]
            came += 0 if row["is_sorted"] else len(hashes)
        self._runs += len(rows)
        ids = sum(map(len, self._recent.values()))
        self.due = ids >= RECENT_IDS or self._runs >= RECENT_RUNS
        self.pressing = 1 + 2 * came // PORTION if ids >= 2 * RECENT_IDS else 0


_NONE: Final[frozenset[int]] = frozenset()


def _in_table(session: Session, hour: int, hashes: Sequence[int]) -> set[int]:
    return {row[0] for row in session.rows("known_messages", hour=hour, hashes=_listed(hashes))}


def _listed(hashes: Sequence[int]) -> str:
    return msgspec.json.encode(hashes).decode()


def _is_worth_it(session: Session, whole: bool) -> bool:
    size = session.row("unsorted_size")
    if size is None or not size["runs"]:
        return False
    return whole or size["bytes"] >= RECENT_IDS * _BYTES or bool(size["runs"] >= RECENT_RUNS)


def _sorted_runs(rows: Iterable[Row]) -> Iterator[Values]:
    """The hashes of many runs in the table's order, in portions."""
    together: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
    for row in rows:
        together[row["hour"], row["received_hour"]].append(row["hashes"])
    for key in sorted(together):
        hashes = np.sort(np.frombuffer(b"".join(together[key]), np.int64))  # others may run meanwhile
        for start in range(0, len(hashes), PORTION):
            yield _run(key, hashes[start : start + PORTION], is_sorted=1)


def _run(key: tuple[int, int], hashes: "array[int] | NDArray[np.int64]", is_sorted: int = 0) -> Values:
    hour, received_hour = key
    return {
        "hour": hour,
        "received_hour": received_hour,
        "is_sorted": is_sorted,
        "hashes": hashes.tobytes(),
    }


def _move(session: Session, runs: Sequence[Row]) -> None:
    for run in runs:
        hashes = array("q", run["hashes"]).tolist()
        told = {"hour": run["hour"], "received_hour": run["received_hour"]}
        session.run("remember_messages", **told, hashes=_listed(hashes))
    session.run("drop_sorted_ids", run=runs[-1]["run"])
