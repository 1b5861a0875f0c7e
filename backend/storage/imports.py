"""What imports have brought already, and the built-in source in whose name they speak."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from backend.storage.session import Session


class Said(Protocol):
    """What a row says of its subject, as hashes."""

    @property
    def subject_hash(self) -> int: ...
    @property
    def content_hash(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ImportSource:
    """The built-in source. Nobody knows its write key; its secret keys what is derived from identifiers."""

    secret: str
    is_ours: bool
    is_revoked: bool


def source(session: Session, source_id: str) -> ImportSource | None:
    """The source; None before the first import."""
    row = session.row("source_by_id", source_id=source_id)
    if row is None:
        return None
    is_ours = row["kind"] == "server" and row["proof"] == "off"
    return ImportSource(row["proof_secret"], is_ours, row["revoked_at"] is not None)


def make_source(session: Session, source_id: str, key_hash: bytes, secret: str, now: int) -> ImportSource:
    """Makes the source, unless another import was quicker; the one that is there."""
    found = source(session, source_id)
    if found is not None:
        return found
    session.run(
        "add_source",
        source_id=source_id,
        name="Imported files",
        kind="server",
        key_hash=key_hash,
        proof="off",
        proof_secret=secret,
        created_at=now,
    )
    return ImportSource(secret, is_ours=True, is_revoked=False)


def known(session: Session, subjects: Iterable[int]) -> dict[int, int]:
    """What was last said of each subject, where anything was."""
    found = ((subject, session.row("imported_content", subject_hash=subject)) for subject in subjects)
    return {subject: row["content_hash"] for subject, row in found if row is not None}


def remember(session: Session, said: Iterable[Said], now: int) -> None:
    """Keeps what was said; of two about one subject the last."""
    rows = [
        {"subject_hash": each.subject_hash, "content_hash": each.content_hash, "imported_at": now}
        for each in said
    ]
    session.many("remember_imported", sorted(rows, key=lambda row: row["subject_hash"]))
