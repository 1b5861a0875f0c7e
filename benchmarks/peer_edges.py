"""The peer of bench_identity.py: the least that a login with a merge takes in SQLite.

A table of profiles, one of edges from identifiers to them and one of traits, as identity graphs are drawn;
plain statements of Python's sqlite3 for each login. None of our rules: no proof, no order of arrival, no
undo, no crowds, nothing shared. The same logins in the same batches, committed with synchronous=FULL.
"""

import itertools
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sdk_bridge.wire.app_events import AppEvent

_SCHEMA = """
create table profiles (profile_id integer primary key, created_at integer not null);
create table edges (
  id_type text not null, id text not null, profile_id integer not null, since integer not null,
  primary key (id_type, id)
) without rowid;
create index edges_of_profile on edges (profile_id);
create table merges (child integer not null, root integer not null, at integer not null);
create table traits (
  profile_id integer not null, name text not null, value text not null, at integer not null,
  primary key (profile_id, name)
) without rowid;
"""


class Edges:
    """Use `apply` with one batch after the other."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript("pragma journal_mode = wal; pragma synchronous = full;" + _SCHEMA)
        self._numbers = itertools.count(1)

    def apply(self, batch: Sequence[AppEvent]) -> None:
        run = self._connection.execute
        run("begin immediate")
        for event in batch:
            visitor = self._profile("anonymous_id", event.anonymous_id or "", event.occurred_at)
            if event.user_id is None:
                continue
            user = self._profile("user_id", event.user_id, event.occurred_at)
            if visitor != user:
                run("update edges set profile_id = ? where profile_id = ?", (user, visitor))
                run("insert into merges values (?, ?, ?)", (visitor, user, event.occurred_at))
            for name, value in event.traits.items():
                run(
                    "insert into traits values (?, ?, ?, ?) on conflict do update"
                    " set value = excluded.value, at = excluded.at where excluded.at >= at",
                    (user, name, json.dumps(value), event.occurred_at),
                )
        run("commit")

    def close(self) -> None:
        self._connection.close()

    def _profile(self, id_type: str, name: str, at: int) -> int:
        """The identifier's profile, made where there is none."""
        run = self._connection.execute
        known = run("select profile_id from edges where id_type = ? and id = ?", (id_type, name)).fetchone()
        if known is not None:
            return int(known[0])
        number = next(self._numbers)
        run("insert into profiles values (?, ?)", (number, at))
        run("insert into edges values (?, ?, ?, ?)", (id_type, name, number, at))
        return number
