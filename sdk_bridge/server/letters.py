"""Dead letters: what of a batch could not be understood, packed so that it can be read once more."""

from collections.abc import Callable, Sequence

import msgspec

from sdk_bridge.server.batches import read_batch
from sdk_bridge.server.bodies import OpenBatch, open_batch
from sdk_bridge.server.normalise import Arrival, Reject
from sdk_bridge.server.ports import DeadLetter, Source
from sdk_bridge.wire.app_events import AppEvent


def letters_of(rejects: Sequence[Reject], opened: OpenBatch, arrival: Arrival) -> list[DeadLetter]:
    """One letter for each reason, a batch of its own: 2,500 bad events make no 2,500 commits."""
    if not rejects:
        return []
    by_reason: dict[str, list[bytes]] = {}
    for reject in rejects:
        by_reason.setdefault(reject.reason, []).append(reject.raw)
    around = _around(opened)
    return [
        DeadLetter(
            arrival.source.source_id,
            reason,
            b'{"batch":[' + b",".join(raws) + b"]" + around,
            len(raws),
            arrival.received_at,
        )
        for reason, raws in by_reason.items()
    ]


def read_again(
    payload: bytes, source: Source, received_at: int, new_id: Callable[[], str]
) -> tuple[list[AppEvent], list[DeadLetter]]:
    """A letter's events as if they came for the first time, at the time when they did; and what is still not
    understood. Raises Refusal for what is no letter.
    """
    opened, arrival = open_batch(payload), Arrival(source, received_at, new_id)
    kept, rejects = read_batch(opened, arrival)
    return kept.events, letters_of(rejects, opened, arrival)


def _around(opened: OpenBatch) -> bytes:
    """What the batch said for all of its events, as the end of a JSON object."""
    sent_at = b"" if opened.sent_at is None else b',"sentAt":' + msgspec.json.encode(opened.sent_at)
    context = bytes(opened.context)
    return sent_at + (b"" if context == b"null" else b',"context":' + context) + b"}"
