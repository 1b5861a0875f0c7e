"""Which app events were taken in before: the ids that the journal knows, each once within seven days."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend.storage.session import Row, Session, StorageRetry
from backend.storage.table_filter import TableFilter

NewIds: TypeAlias = Mapping[tuple[int, int], Sequence[int]]
"""Hashes by the hour of the client's clock and the hour of ours, since 1970."""
Hashes: TypeAlias = dict[int, set[int]]
"""By the hour of the client's clock."""
Values: TypeAlias = dict[str, Any]

RECENT_IDS: Final = (
    64_000  # three to a page where an hour has three million; twice as many take 30 ms to sort
)
RECENT_RUNS: Final = 2_000  # of few ids each; to sort 5,000 takes 40 ms, in which no sender is answered
PORTION: Final = 4_096  # ids moved at once: some milliseconds, in which no sender is answered
_BYTES: Final = 8


class MessageIds(Protocol):
    """What one commit of the journal asks and tells. All of it inside the commit's transaction."""

    def known(self, session: Session, asked: Mapping[int, Sequence[int]]) -> Hashes:
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

    def known(self, session: Session, asked: Mapping[int, Sequence[int]]) -> Hashes:
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
    """A table, and before it a log of runs, for a file, to which one process writes at a time.

    Hashes are spread over the table at random: each one that is put there by itself has a page of its own
    written. So a commit appends its ids to the log, as one run. When there are many, they are sorted, in one
    transaction, and then moved to the table, a portion in each: at every moment an id is in the log, among
    the sorted, or in the table.

    What the table may not have yet is known in memory as well. It is read from the log, run by run and only
    before a transaction writes, so it is never of what was rolled back, and another process's runs are among
    it. Whoever sorts takes runs away and appends an empty one: so it shows in the numbers where something is
    missing that we have not read. What leaves this memory because the table has it is told to the filter:
    whoever asks for new ids is answered without the table.
    """

    def __init__(self) -> None:
        self._recent = _Held()
        """Of the runs behind `_sorted_upto`, up to `_seen`."""
        self._moving = _Held()
        """Of the runs up to `_sorted_upto`."""
        self._filter = TableFilter()
        self._sorted_upto = self._seen = 0
        self.due = False
        self.pressing = 0

    def known(self, session: Session, asked: Mapping[int, Sequence[int]]) -> Hashes:
        """Asks memory and the table."""
        self._follow(session)
        return {
            hour: self._moved(session, hour, hashes).union(
                self._recent.among(hour, hashes), self._moving.among(hour, hashes)
            )
            for hour, hashes in asked.items()
        }

    def remember(self, session: Session, new: NewIds) -> None:
        """Appends a run for each hour."""
        session.many("append_recent_ids", [_run(key, array("q", hashes)) for key, hashes in new.items()])

    def settle(self, session: Session, *, whole: bool = False) -> bool:
        """Moves what is sorted, else sorts what is not."""
        if moving := session.rows("next_sorted_ids", bytes=PORTION * _BYTES):
            _move(session, moving)
            return True
        log = session.row("recent_ids_size")
        if log is None or log["first"] is None or log["first"] > self._sorted_upto:
            self._let_go()
        if log is not None and _is_worth_it(log, whole):
            self._follow(session)
            self._sort(session, log["last"])
            return True
        self.due = False
        return False

    def _sort(self, session: Session, last: int) -> None:
        session.many("append_sorted_ids", list(_sorted(session.rows("recent_ids_after", run=0))))
        session.run("drop_recent_ids", run=last)
        session.many("append_recent_ids", [_run((0, 0), array("q"))])
        self._recent.take(self._moving)  # of a transaction that was rolled back
        self._moving, self._recent = self._recent, _Held()
        self._sorted_upto = self._seen = last

    def _moved(self, session: Session, hour: int, hashes: Sequence[int]) -> set[int]:
        """Those that the table has."""
        if hour in self._filter:
            possible = self._filter.possible(hashes)
            return _in_table(session, hour, possible) if possible else set()
        if session.rows("any_message_of", hour=hour):
            return _in_table(session, hour, hashes)
        self._filter.begin(hour)
        return set()

    def _let_go(self) -> None:
        """Of what was sorted: by now the table has it."""
        for hour, hashes in self._moving.runs.items():
            self._filter.add(hour, hashes)
        self._moving = _Held()

    def _follow(self, session: Session) -> None:
        rows = session.rows("recent_ids_after", run=self._seen)
        if rows and rows[0]["run"] != self._seen + 1:
            rows = self._begin(session)
        came = 0
        for row in rows:
            hashes = array("q", row["hashes"])
            self._recent.add(row["hour"], hashes)
            came += len(hashes)
            self._seen = row["run"]
        ids = len(self._recent)
        self.due = bool(self._moving) or _is_much(self._seen - self._sorted_upto, ids)
        self.pressing = 1 + 2 * came // PORTION if ids >= 2 * RECENT_IDS else 0

    def _begin(self, session: Session) -> list[Row]:
        """What is sorted is known, and the whole log is to be read."""
        self._filter.clear()
        self._recent, self._moving = _Held(), _Held()
        for row in session.rows("all_sorted_ids"):
            self._moving.add(row["hour"], array("q", row["hashes"]))
        rows = session.rows("recent_ids_after", run=0)
        self._sorted_upto = rows[0]["run"] - 1
        return rows


class _Held:
    """Ids by the hour of the client's clock: as sets, to ask; as they came, for whoever is told of all."""

    def __init__(self) -> None:
        self._sets: Hashes = defaultdict(set)
        self.runs: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))

    def __len__(self) -> int:
        return sum(map(len, self._sets.values()))

    def among(self, hour: int, hashes: Sequence[int]) -> set[int]:
        """Those of the hashes that are here."""
        return self._sets[hour].intersection(hashes) if hour in self._sets else set()

    def add(self, hour: int, hashes: "array[int]") -> None:
        self._sets[hour].update(hashes)
        self.runs[hour].extend(hashes)

    def take(self, other: "_Held") -> None:
        for hour, hashes in other.runs.items():
            self.add(hour, hashes)


def _in_table(session: Session, hour: int, hashes: Sequence[int]) -> set[int]:
    return {row[0] for row in session.rows("known_messages", hour=hour, hashes=_listed(hashes))}


def _listed(hashes: Sequence[int]) -> str:
    return msgspec.json.encode(hashes).decode()


def _is_worth_it(log: Row, whole: bool) -> bool:
    if not log["bytes"]:
        return False
    return whole or _is_much(log["last"] - log["first"] + 1, log["bytes"] // _BYTES)


def _is_much(runs: int, ids: int) -> bool:
    return ids >= RECENT_IDS or runs >= RECENT_RUNS


def _sorted(rows: Iterable[Row]) -> Iterator[Values]:
    """The hashes of many runs in the table's order, in portions."""
    together: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
    for row in rows:
        together[row["hour"], row["received_hour"]].append(row["hashes"])
    for key in sorted(together):
        hashes = np.sort(np.frombuffer(b"".join(together[key]), np.int64))  # others may run meanwhile
        for start in range(0, len(hashes), PORTION):
            yield _run(key, hashes[start : start + PORTION])


def _run(key: tuple[int, int], hashes: "array[int] | NDArray[np.int64]") -> Values:
    hour, received_hour = key
    return {"hour": hour, "received_hour": received_hour, "hashes": hashes.tobytes()}


def _move(session: Session, runs: Sequence[Row]) -> None:
    for run in runs:
        hashes = array("q", run["hashes"]).tolist()
        told = {"hour": run["hour"], "received_hour": run["received_hour"]}
        session.run("remember_messages", **told, hashes=_listed(hashes))
    session.run("drop_sorted_ids", portion=runs[-1]["portion"])
