"""Batches to events: all at once where that can be done, or one by one, so that a bad one loses no others."""

import msgspec

from sdk_bridge.server.bodies import MAX_EVENT_BYTES, OpenBatch, Rejected, decode
from sdk_bridge.server.calls import SegmentCall, plain_batch, segment_call
from sdk_bridge.server.normalise import (
    Arrival,
    Reject,
    Storable,
    finished,
    object_of,
    segment_event,
    usual_reader,
)
from sdk_bridge.wire.app_events import AppEvent


def read_batch(opened: OpenBatch, arrival: Arrival) -> tuple[Storable, list[Reject]]:
    """Every event of a batch that can be understood, and the others with their reasons."""
    events = all_at_once(opened, arrival)
    rejects: list[Reject] = []
    if events is None:
        events, rejects = one_by_one(opened, arrival)
    return finished(events, holds_nul=opened.holds_nul), rejects


def all_at_once(opened: OpenBatch, arrival: Arrival) -> list[AppEvent] | None:
    """What `one_by_one` finds, with a third of the work; None where not every event is plain and good."""
    body = opened.strict
    if body is None:
        return None
    if len(body) > MAX_EVENT_BYTES and max(map(len, opened.batch), default=0) > MAX_EVENT_BYTES:
        return None
    events: list[AppEvent] = []
    usual = usual_reader(arrival, opened.sent_at)
    try:
        for index, call in enumerate(plain_batch.decode(body).batch):
            _inherit(call, opened)
            events.append(usual(call, call.type, index) or segment_event(call, call.type, arrival, index))
    except (msgspec.DecodeError, UnicodeDecodeError, Rejected):
        return None
    return events


def one_by_one(opened: OpenBatch, arrival: Arrival) -> tuple[list[AppEvent], list[Reject]]:
    """Each event judged by itself: those that can be understood, and the others with their reasons."""
    events: list[AppEvent] = []
    rejects: list[Reject] = []
    for index, part in enumerate(opened.batch):
        raw = bytes(part)
        try:
            call = decode(raw, segment_call)
            _inherit(call, opened)
            events.append(segment_event(call, call.type, arrival, index))
        except Rejected as error:
            rejects.append(Reject(str(error), raw, index))
    return events, rejects


def _inherit(call: SegmentCall, opened: OpenBatch) -> None:
    """What a batch says once counts for each event that does not say otherwise."""
    if call.sent_at is None or call.sent_at == "":
        call.sent_at = opened.sent_at
    if opened.shared:
        call.context = {**opened.shared, **object_of(call.context, "context")}
