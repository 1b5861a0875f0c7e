"""The bridge's paths as OpenAPI tells of them; whoever mounts the bridge adds them to its own document."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from sdk_bridge.server.answers import PartsTaken, Taken, Watch
from sdk_bridge.server.bodies import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_DEPTH, MAX_EVENT_BYTES
from sdk_bridge.server.calls import (
    MAX_PARTS,
    ConsentCall,
    DeviceCall,
    LocationCall,
    LogoutCall,
    MessageId,
    Object,
    ReceiptCall,
    SegmentCall,
    SightingPart,
    SightingsCall,
    TransitionPart,
    TransitionsCall,
)
from sdk_bridge.server.links import LinkAnswer, LinkCall, RedeemCall
from sdk_bridge.server.refusals import RefusalBody
from sdk_bridge.server.requests import BODY_SECONDS
from sdk_bridge.server.times import Timestamp

Spec: TypeAlias = dict[str, Any]
TAG: Final = "events"
LONGEST_PIXEL: Final = (
    2_000  # characters; they may be percent-encoded, and no request line exceeds 8,190 bytes
)
ABOUT_TAG: Final = (
    "Events from apps, sites and servers, as Segment's SDKs send them, and our own calls.\n\n"
    f"A call may have {MAX_EVENT_BYTES // 1024} KB and {MAX_DEPTH} levels, a body {MAX_BATCH_BYTES // 1024} "
    "KB once unpacked. It may be packed with gzip, which is told by its first bytes as well as by "
    "`Content-Encoding: gzip`. `Content-Type` may be anything. The write key may also stand in the body, as "
    "`writeKey`. Every path is taken with a slash at its end, too."
)


class BatchCall(Struct, rename="camel"):
    """Many calls in one body. A call that cannot be understood is kept apart; the others are taken."""

    batch: Annotated[list[SegmentCall], Meta(max_length=MAX_BATCH_EVENTS)]
    write_key: str | None = None
    message_id: MessageId | None = None
    sent_at: Timestamp = None
    context: Object = None


class BeaconSightings(SightingsCall, rename="camel", kw_only=True):
    """What a phone heard of beacons. Those that are not ours are counted and forgotten."""

    sightings: Annotated[list[SightingPart], Meta(min_length=1, max_length=MAX_PARTS)]  # type: ignore[assignment]


class FenceTransitions(TransitionsCall, rename="camel", kw_only=True):
    """What a phone's system said of the fences that it watches."""

    transitions: Annotated[list[TransitionPart], Meta(min_length=1, max_length=MAX_PARTS)]  # type: ignore[assignment]


class SegmentIo(Struct, rename="camel"):
    """Where Segment's SDKs send their events."""

    api_key: str
    api_host: str


class Integrations(Struct):
    """The one integration that there is, by the name that SDKs look for."""

    segment: SegmentIo = msgspec.field(name="Segment.io")


class SdkMetrics(Struct, rename="camel"):
    """That SDKs should not report on themselves."""

    sample_rate: float


class SdkSettings(Struct):
    """What Segment's browser and mobile SDKs ask before they send."""

    integrations: Integrations
    metrics: SdkMetrics


SECURITY_SCHEMES: Final[dict[str, Spec]] = {
    "writeKeyBasic": {
        "type": "http",
        "scheme": "basic",
        "description": "A source's write key as the user's name, without a password; as Segment's SDKs do.",
    },
    "writeKeyBearer": {"type": "http", "scheme": "bearer", "description": "A source's write key."},
}
_PIXEL_DATA: Final[Spec] = {"pattern": "^[A-Za-z0-9_-]*=*$", "maxLength": LONGEST_PIXEL}
_SECURITY: Final[list[Spec]] = [{"writeKeyBasic": []}, {"writeKeyBearer": []}, {}]

_ERRORS: Final[dict[int, str]] = {
    400: "The body cannot be used: too large, damaged, not JSON, or not such a call. Do not send it again.",
    401: "No source has this write key, or none was given.",
    403: "The source lists the origins whose pages may send, and this page's is not among them; or a source "
    "of this kind makes no link tokens, or redeems none.",
    404: "This bridge makes no link tokens.",
    409: "The link token was redeemed already.",
    408: f"The body took longer than {BODY_SECONDS} s. Send it again.",
    429: "Too many events from this source. Send it again after `Retry-After` seconds.",
    503: "The journal is busy. Send it again after `Retry-After` seconds.",
}
_COMES_AGAIN: Final = (429, 503)
_RETRY_AFTER: Final[Spec] = {
    "Retry-After": {
        "description": "Seconds.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}


@dataclass(frozen=True, slots=True)
class Told:
    """One path: its method, what it is for, what it takes and answers."""

    path: str
    name: str
    summary: str
    body: Any = None
    answer: Any = Taken
    errors: tuple[int, ...] = ()

    def named(self, path: str) -> "Told":
        """The same under another path."""
        name = f"{self.name}_at{path.replace('/', '_')}"
        return replace(self, path=path, name=name, summary=f"{self.summary} The same as `{self.path}`.")


_SEGMENT: Final = {
    "identify": "Says who somebody is, and what is known of them.",
    "track": "Says what somebody did.",
    "page": "Says which page of a site somebody looked at.",
    "screen": "Says which screen of an app somebody looked at.",
    "group": "Says which group somebody belongs to.",
    "alias": "Says that two identifiers are one person's.",
}
_BATCH = Told("/v1/batch", "batch", "Takes many calls at once.", BatchCall)
_OWN: Final = (
    Told(
        "/v1/devices",
        "register_device",
        "Registers a device: where pushes reach it, and whose beacon it goes with.",
        DeviceCall,
    ),
    Told("/v1/devices/logout", "log_device_out", "Says that nobody holds the device any more.", LogoutCall),
    Told("/v1/consent", "consent", "Says what somebody agrees to, by purpose.", ConsentCall),
    Told("/v1/push/received", "push_received", "Says that a push was shown.", ReceiptCall),
    Told("/v1/push/opened", "push_opened", "Says that a push was opened.", ReceiptCall),
    Told(
        "/v1/beacons",
        "beacon_sightings",
        "Says which of the shops' beacons a phone heard.",
        BeaconSightings,
        PartsTaken,
    ),
    Told(
        "/v1/geofences",
        "fence_transitions",
        "Says which fences a phone crossed.",
        FenceTransitions,
        PartsTaken,
    ),
    Told(
        "/v1/location",
        "location",
        "Says where a phone is; answers the nearest 20 fences and beacon regions.",
        LocationCall,
        Watch,
    ),
    Told(
        "/v1/link",
        "make_link",
        "Makes a short-lived token by which an app becomes this visitor's; with its QR code.",
        LinkCall,
        LinkAnswer,
        errors=(404,),
    ),
    Told(
        "/v1/link/redeem",
        "redeem_link",
        "Spends a link token, from the app that scanned it.",
        RedeemCall,
        errors=(404, 409),
    ),
)


def _posts() -> list[Told]:
    calls = [Told(f"/v1/{kind}", kind, summary, SegmentCall) for kind, summary in _SEGMENT.items()]
    short = [told.named(f"/v1/{told.name[0]}") for told in calls]
    batches = [_BATCH.named(path) for path in ("/v1/b", "/v1/import", "/batch", "/import")]
    return [_BATCH, *batches, *calls, *short, *_OWN]


TYPES: Final = (
    BatchCall,
    SegmentCall,
    DeviceCall,
    LogoutCall,
    ConsentCall,
    ReceiptCall,
    BeaconSightings,
    FenceTransitions,
    LocationCall,
    LinkCall,
    RedeemCall,
    LinkAnswer,
    Taken,
    PartsTaken,
    Watch,
    SdkSettings,
    RefusalBody,
)
"""Every type that `paths` refers to."""


def paths(ref: Callable[[Any], Spec]) -> dict[str, Spec]:
    """OpenAPI path items by path; `ref` gives the schema of one of `TYPES`."""
    items = {told.path: {"post": _post(told, ref)} for told in _posts()}
    return {**items, **_gets(ref)}


def _post(told: Told, ref: Callable[[Any], Spec]) -> Spec:
    return {
        "operationId": told.name,
        "tags": [TAG],
        "summary": told.summary,
        "security": _SECURITY,
        "x-role": "public",
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref(told.body)}}},
        "responses": {
            "200": _json("The events are on the disk.", ref(told.answer)),
            **_errors(*sorted((400, 401, 403, 408, 429, 503, *told.errors))),
        },
    }


def _gets(ref: Callable[[Any], Spec]) -> dict[str, Spec]:
    return {
        "/v1/pixel/{method}": _get(
            "pixel",
            "Takes one call from a mail or a page without scripts; always answers the image.",
            [
                _parameter("method", "path", f"One of {', '.join(_SEGMENT)}, or its first letter.", {}),
                _parameter("data", "query", "The call as JSON in base64url.", _PIXEL_DATA, False),
            ],
            {
                "200": _binary("A transparent picture of one pixel.", "image/gif"),
                "400": _binary("The URL is longer than any URL may be.", "text/plain"),
            },
        ),
        "/v1/projects/{write_key}/settings": _get(
            "sdk_settings",
            "What Segment's SDKs ask before they send: where to.",
            [_parameter("write_key", "path", "The source's write key.", {"minLength": 1})],
            {
                "200": _json("The settings.", ref(SdkSettings)),
                "400": _json("The Host header is not a host.", ref(RefusalBody)),
                "404": _json("No source has this write key.", ref(RefusalBody)),
                **_errors(403, 503),
            },
        ),
        "/v1/footfall.js": _get(
            "footfall_js",
            "Our own snippet for web pages.",
            [],
            {
                "200": _binary(
                    "JavaScript, packed where the browser says that it may be.", "text/javascript"
                ),
                "304": {"description": "The browser has it already."},
            },
        ),
    }


def _get(name: str, summary: str, parameters: list[Spec], responses: Spec) -> Spec:
    about = {"operationId": name, "tags": [TAG], "summary": summary, "security": [], "x-role": "public"}
    return {"get": {**about, "parameters": parameters, "responses": responses}}


def _parameter(name: str, place: str, about: str, schema: Spec, required: bool = True) -> Spec:
    return {
        "name": name,
        "in": place,
        "required": required,
        "description": about,
        "schema": {"type": "string", **schema},
    }


def _json(about: str, schema: Spec) -> Spec:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _binary(about: str, media: str) -> Spec:
    return {"description": about, "content": {media: {"schema": {"type": "string"}}}}


def _errors(*statuses: int) -> Spec:
    return {str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in statuses}


def responses(ref: Callable[[Any], Spec]) -> dict[str, Spec]:
    """The answers that `paths` refers to, by the names they have among the document's components."""
    return {f"Refused{status}": _error(status, ref(RefusalBody)) for status in _ERRORS}


def _error(status: int, schema: Spec) -> Spec:
    answer = _json(_ERRORS[status], schema)
    return {**answer, "headers": _RETRY_AFTER} if status in _COMES_AGAIN else answer
