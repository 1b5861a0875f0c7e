"""The sources of events in the database: what each may do, its write keys, and the bridge's view of them."""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.storage.registry import hash_secret
from backend.storage.session import Database, Row, Session, StorageError
from sdk_bridge.server.ports import JournalBusy, Source
from sdk_bridge.server.rates import Rate

WRITE_KEY_PREFIX = "ffw_"
SHOWN_CHARS = len(WRITE_KEY_PREFIX) + 8  # of a key's 36: enough to tell keys apart, of no use to a thief


@dataclass(frozen=True, slots=True)
class SourceTerms:
    """What a source is called and may do. `rate` None: what the bridge grants everybody."""

    name: str
    proof: str
    origins: tuple[str, ...] = ()
    rate: Rate | None = None


class KeysOverlap(RuntimeError):
    """Two write keys live already; the text says which one ends when."""


def create_source(
    session: Session, source_id: str, name: str, kind: str, proof: str, now: int
) -> dict[str, str]:
    """A new source; its write key and its proof secret are shown once."""
    write_key, proof_secret = _new_key(), secrets.token_urlsafe(32)
    session.run(
        "add_source",
        source_id=source_id,
        name=name,
        kind=kind,
        key_hash=hash_secret(write_key),
        proof=proof,
        proof_secret=proof_secret,
        created_at=now,
    )
    _add_key(session, source_id, write_key, now)
    return {"source_id": source_id, "write_key": write_key, "proof_secret": proof_secret}


def change_source(session: Session, source_id: str, terms: SourceTerms) -> bool:
    """Sets what a source in use may do; False where there is none."""
    rate = terms.rate
    return bool(
        session.run(
            "change_source",
            source_id=source_id,
            name=terms.name,
            proof=terms.proof,
            origins=json.dumps(terms.origins),
            events_per_second=rate.per_second if rate else None,
            burst=rate.burst if rate else None,
        )
    )


def terms_of(session: Session, source_id: str) -> SourceTerms | None:
    """What a source in use may do; None where there is none."""
    row = session.row("source_by_id", source_id=source_id)
    if row is None or row["revoked_at"] is not None:
        return None
    return SourceTerms(row["name"], row["proof"], tuple(origins_of(row)), _rate_of(row))


def rotate_key(session: Session, source_id: str, overlap_ms: int, now: int) -> str:
    """A new write key, shown once; those before it end after the overlap. Raises KeysOverlap."""
    ending = [row for row in _live_keys(session, source_id, now) if row["expires_at"] is not None]
    if ending and overlap_ms:
        raise KeysOverlap(
            f"the key {ending[0]['key_id']} lives still, until {ending[0]['expires_at']}; revoke it first, "
            "or replace both at once with an overlap of 0"
        )
    if overlap_ms:
        session.run("end_source_keys", source_id=source_id, expires_at=now + overlap_ms)
    else:
        for row in _live_keys(session, source_id, now):
            session.run("revoke_source_key", source_id=source_id, key_id=row["key_id"], at=now)
    write_key = _new_key()
    _add_key(session, source_id, write_key, now)
    return write_key


def origins_of(row: Row) -> list[str]:
    """The origins that a source lists; none: pages of any may send."""
    found: list[str] = json.loads(row["origins"])
    return found


def source_of(session: Session, source_id: str) -> Source | None:
    """A source by its id, also a revoked one: what it sent before is still its own."""
    row = session.row("source_by_id", source_id=source_id)
    return None if row is None else _source_of(row)


class StoredSources:
    """The bridge's sources. A key that is not known is looked up each time, so that new ones act at once.

    One that was found is not looked up again for `known_for_ms`, for that takes a thread's turn, which a busy
    process gives late; whoever changes sources calls `forget`, and what another process changed acts after
    that time.
    """

    def __init__(self, state: Database, now_ms: Callable[[], int], known_for_ms: int = 0) -> None:
        self._state = state
        self._now_ms = now_ms
        self._known_for_ms = known_for_ms
        self._known: dict[str, tuple[Source, range]] = {}
        self._changes = 0

    async def source_for_key(self, write_key: str) -> Source | None:
        now, changes = self._now_ms(), self._changes
        known = self._known.get(write_key)
        if known is not None and now in known[1]:
            return known[0]
        asked = {"key_hash": hash_secret(write_key), "now": now}
        try:
            row = await self._state.read(lambda session: session.row("source_by_key", **asked))
        except StorageError as error:
            raise JournalBusy(f"the sources cannot be read: {error}") from error
        self._known.pop(write_key, None)
        if row is None:
            return None
        source = _source_of(row)
        if changes == self._changes:  # or what was read may be of before the change
            until = now + self._known_for_ms
            ends = until if row["expires_at"] is None else min(until, row["expires_at"])
            self._known[write_key] = (source, range(now, ends))
        return source

    def forget(self) -> None:
        """Sources were changed: every key is looked up again."""
        self._changes += 1
        self._known.clear()


def _source_of(row: Row) -> Source:
    return Source(
        row["source_id"],
        row["kind"],
        row["proof"],
        row["proof_secret"],
        frozenset(origins_of(row)),
        _rate_of(row),
    )


def _rate_of(row: Row) -> Rate | None:
    if row["events_per_second"] is None or row["burst"] is None:
        return None
    return Rate(row["events_per_second"], row["burst"])


def _live_keys(session: Session, source_id: str, now: int) -> Sequence[Row]:
    return [
        row
        for row in session.rows("source_keys", source_id=source_id)
        if row["revoked_at"] is None and (row["expires_at"] is None or row["expires_at"] > now)
    ]


def _new_key() -> str:
    return WRITE_KEY_PREFIX + secrets.token_urlsafe(24)


def _add_key(session: Session, source_id: str, write_key: str, now: int) -> None:
    key = {"key_id": write_key[:SHOWN_CHARS], "key_hash": hash_secret(write_key)}
    session.run("add_source_key", source_id=source_id, created_at=now, **key)
