"""What came of it: what the simulators sent against what the database and the FCM server hold. Pure."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.storage.accounts import Accounts
from simulators.demo.ledger import Ledger, balance


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen from outside the product.

    `acknowledged`: message ids that the bridge answered 200; `delivered`: (push id, address) of every
    message the FCM server accepted, in its own durable log; `promised`: (campaign, address) likewise, each
    of which the demo's campaigns allow once.
    """

    ledger: Ledger
    acknowledged: Collection[str]
    delivered: Sequence[tuple[str, str]]
    promised: Sequence[tuple[str, str]]


def summary(evidence: Evidence, accounts: Accounts) -> dict[str, Any]:
    """The figures of the demo; `lost` and `duplicates` must be 0."""
    held = Counter(accounts.adverts) + Counter(accounts.forgotten)
    adverts = balance(evidence.ledger, dict(held))
    events_lost = sum(1 for message in evidence.acknowledged if message not in accounts.messages)
    events_doubled = _repeats(accounts.messages)
    pushes_doubled = max(_extra(evidence.delivered), _extra(evidence.promised))
    return {
        "adverts": evidence.ledger.total,
        "sightings_committed": sum(accounts.adverts.values()),
        "forgotten_without_consent": sum(accounts.forgotten.values()) - accounts.unresolved,
        "eid_unresolved": accounts.unresolved,
        "in_hand_at_kill": evidence.ledger.in_hand.total(),
        "zone_entries": accounts.zone_entries,
        "app_events": len(evidence.acknowledged),
        "pushes_accepted": accounts.pushes.get("accepted", 0),
        "pushes_unknown": accounts.pushes.get("unknown", 0),
        "pushes_opened": accounts.opened,
        "pushes_by_state": accounts.pushes,
        "delivered_by_fcm": len(evidence.delivered),
        "lost": adverts.lost + events_lost,
        "duplicates": adverts.duplicates + events_doubled + pushes_doubled,
        "enter_to_accepted_ms": {
            "p50": percentile(accounts.latencies_ms, 50),
            "p95": percentile(accounts.latencies_ms, 95),
        },
    }


def percentile(ordered: Sequence[int], percent: int) -> int | None:
    """The nearest-rank percentile of an ordered list; None for an empty one."""
    if not ordered:
        return None
    return ordered[max(1, -(-len(ordered) * percent // 100)) - 1]


def read_deliveries(log: Path) -> list[dict[str, Any]]:
    """The FCM server's own log, a JSON object a line; a line cut off by a kill was never answered."""
    if not log.exists():
        return []
    lines = log.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _repeats(times: dict[str, int]) -> int:
    return sum(count - 1 for count in times.values())


def _extra(items: Iterable[object]) -> int:
    return _repeats({str(key): count for key, count in Counter(items).items()})
