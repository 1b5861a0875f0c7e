"""What a profile's kept events say again and again: which browsers and phones go with it.

ProfileRows leaves it to them when that was last, as long as nobody asks.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

from backend.profiles.model import Identifier, Stamp
from backend.storage.entries import HOUR_MS
from backend.storage.session import Session
from sdk_bridge.wire.app_events import AppEvent

MAX_RECALLED: Final = 5_000
"""Events of one profile in one hour: a robot's; of more the last proof may be left out."""


class _Body(Struct):
    """What an event's body tells of browsers."""

    kind: str
    anonymous_id: str | None = None
    device_id: str | None = None


_body = msgspec.msgpack.Decoder(_Body)


def told_in(session: Session, profile_id: str, from_at: int) -> dict[Identifier, Stamp]:
    """When browsers were last claimed for a profile, in the hour from `from_at`, unix milliseconds."""
    asked = {"profile_id": profile_id, "from_at": from_at, "before": from_at + HOUR_MS}
    told: dict[Identifier, Stamp] = {}
    for row in session.rows("kept_events_of_profile", **asked, limit=MAX_RECALLED):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # nobody can read it any more
            for identifier in _seen_by(_body.decode(row["body"])):
                told.setdefault(identifier, Stamp(row["occurred_at"], row["event_hash"]))
    return told


def write_seen_by(session: Session, profile_id: str, event: AppEvent, event_hash: int) -> None:
    """Writes what a kept event claims for its profile, before the event goes or its names."""
    for id_type, name in _seen_by(event):
        told = {"at": event.occurred_at, "hash": event_hash}
        session.run("widen_seen_claim", id_type=id_type, id=name, profile_id=profile_id, **told)


def _seen_by(event: _Body | AppEvent) -> Iterator[Identifier]:
    """The browsers that an event claims for the profile it is kept under; links, logouts claim otherwise."""
    if event.kind not in ("link", "logout"):
        if event.anonymous_id is not None:
            yield "anonymous_id", event.anonymous_id
        if event.device_id is not None:
            yield "device_id", event.device_id
