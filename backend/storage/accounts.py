"""Accounts for testers: what a data folder holds, read without disturbing the backend that owns it."""

from dataclasses import dataclass, replace
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


def read_accounts(folder: Path) -> Accounts:
    """Reads both files. Entries not folded yet are missing, so wait for the fold first."""
    forgotten = view(folder / "journal.db", "journal", lambda s: _by_gateway(s, "forgotten_by_gateway"))
    unresolved = view(folder / "journal.db", "journal", lambda s: s.row("unresolved_adverts"))
    accounts = view(folder / "state.db", "state", lambda s: _accounts(s, forgotten))
    return replace(accounts, unresolved=int(unresolved[0]) if unresolved else 0)


def _accounts(session: Session, forgotten: dict[str, int]) -> Accounts:
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
    )


def _by_gateway(session: Session, query: str) -> dict[str, int]:
    return {row["gateway"]: row["adverts"] for row in session.rows(query)}
