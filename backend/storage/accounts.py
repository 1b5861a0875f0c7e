"""Accounts for testers: what a data folder or a PostgreSQL holds, read without disturbing who owns it."""

from dataclasses import dataclass
from pathlib import Path

from backend.storage.database import Session, view


@dataclass(frozen=True, slots=True)
class Accounts:
    """Totals of a data folder.

    `adverts` are stored ones and `forgotten` those counted and dropped, both by gateway: for want of consent,
    or (`unresolved` in all) because nobody registered the rotating id. `messages` says how often each app
    event's message id is stored.
    """

    adverts: dict[str, int]
    forgotten: dict[str, int]
    messages: dict[str, int]
    zone_entries: int
    pushes: dict[str, int]
    opened: int
    latencies_ms: list[int]
    unresolved: int = 0


@dataclass(frozen=True, slots=True)
class Offered:
    """A decision, and one of its pushes; None where it has none."""

    decision_id: int
    campaign_id: str
    verdict: str
    reason: str
    push_id: str | None
    state: str | None
    address: str | None


def read_accounts(folder: Path) -> Accounts:
    """Reads both files. Entries not folded yet are missing, so wait for the fold first."""
    forgotten, unresolved = view(folder / "journal.db", "journal", _forgotten)
    return view(folder / "state.db", "state", lambda s: _accounts(s, forgotten, unresolved))


def read_shared_accounts(url: str) -> tuple[Accounts, list[Offered]]:
    """The same of a PostgreSQL, and every decision. Raises StorageError while it is away."""
    from backend.storage.postgres.engine import PostgresDatabase  # noqa: PLC0415 - most shops have no asyncpg

    forgotten, unresolved = PostgresDatabase(url, "journal").view(_forgotten)
    state = PostgresDatabase(url, "state")
    return state.view(lambda s: (_accounts(s, forgotten, unresolved), _offered(s)))


def _offered(session: Session) -> list[Offered]:
    return [Offered(**dict(row)) for row in session.rows("decisions_with_pushes")]


def _forgotten(session: Session) -> tuple[dict[str, int], int]:
    """Adverts counted and dropped before the journal, by gateway; and how many were nobody's in all."""
    unresolved = session.row("unresolved_adverts")
    return _by_gateway(session, "forgotten_by_gateway"), int(unresolved[0]) if unresolved else 0


def _accounts(session: Session, forgotten: dict[str, int], unresolved: int) -> Accounts:
    states = session.rows("pushes_by_state")
    entries = session.row("zone_entries")
    for gateway, adverts in _by_gateway(session, "forgotten_late_by_gateway").items():
        forgotten[gateway] = forgotten.get(gateway, 0) + adverts
    return Accounts(
        adverts=_by_gateway(session, "adverts_by_gateway"),
        forgotten=forgotten,
        messages={row["message_id"]: row["times"] for row in session.rows("message_ids_stored")},
        zone_entries=int(entries[0]) if entries else 0,
        pushes={row["state"]: row["pushes"] for row in states},
        opened=sum(row["opened"] for row in states),
        latencies_ms=sorted(row["ms"] for row in session.rows("accepted_latencies")),
        unresolved=unresolved,
    )


def _by_gateway(session: Session, query: str) -> dict[str, int]:
    return {row["gateway"]: row["adverts"] for row in session.rows(query)}
