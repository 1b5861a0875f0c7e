"""Google's errors word for word, and the faults that a tester may order from the FCM simulator."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
MOST_FAULTS = 100  # a list of faults is written by hand


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as Google words it."""

    http: int
    status: str
    text: str
    fcm_code: str | None = None
    violations: tuple[tuple[str, str], ...] = ()

    def body(self) -> dict[str, Any]:
        details: list[dict[str, Any]] = []
        if self.fcm_code:
            details.append({"@type": FCM_ERROR, "errorCode": self.fcm_code})
        if self.violations:
            fields = [{"field": name, "description": text} for name, text in self.violations]
            details.append({"@type": BAD_REQUEST, "fieldViolations": fields})
        error = {"code": self.http, "message": self.text, "status": self.status}
        return {"error": error | ({"details": details} if details else {})}


_INVALID_TOKEN = "The registration token is not a valid FCM registration token"  # noqa: S105 - a message
_MISSING = "Requested entity was not found."
_LOGIN = "Request had invalid authentication credentials. Expected OAuth 2 access token."
ANSWERS: Mapping[str, Answer] = {
    "unregistered": Answer(404, "NOT_FOUND", _MISSING, "UNREGISTERED"),
    "not_found": Answer(404, "NOT_FOUND", _MISSING),
    "sender_id_mismatch": Answer(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"),
    "quota_exceeded": Answer(429, "RESOURCE_EXHAUSTED", "Quota exceeded for the device", "QUOTA_EXCEEDED"),
    "third_party_auth": Answer(
        401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", "THIRD_PARTY_AUTH_ERROR"
    ),
    "unauthenticated": Answer(401, "UNAUTHENTICATED", _LOGIN),
    "permission_denied": Answer(
        403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied on resource"
    ),
    "unavailable": Answer(503, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE"),
    "internal": Answer(500, "INTERNAL", "Internal error encountered.", "INTERNAL"),
    "invalid_argument": Answer(
        400, "INVALID_ARGUMENT", "Invalid value", None, (("message.android.ttl", "Invalid value"),)
    ),
    "invalid_token": Answer(400, "INVALID_ARGUMENT", _INVALID_TOKEN, "INVALID_ARGUMENT"),
}

FaultKind: TypeAlias = Literal[
    "unregistered",
    "not_found",
    "sender_id_mismatch",
    "quota_exceeded",
    "third_party_auth",
    "unauthenticated",
    "permission_denied",
    "unavailable",
    "internal",
    "invalid_argument",
    "invalid_token",
    "delay",
    "bad_gateway",
    "bad_gateway_delivered",
    "dropped",
    "dropped_delivered",
    "silent",
    "silent_delivered",
    "not_json_delivered",
    "oauth_refused",
    "oauth_unavailable",
    "oauth_not_json",
    "oauth_delay",
]
"""`…_delivered`: the message is accepted and delivered, but the sender cannot know."""
BAD_GATEWAY = "<!DOCTYPE html><html><title>Error 502 (Server Error)!!1</title></html>"


class Fault(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A fault to order: with `probability`, at most `count` times; `value` limits it to one address.

    `retry_after_form`: how Retry-After says `retry_after_s`, in seconds or as a date (RFC 9110, 10.2.3).
    """

    kind: FaultKind
    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0
    count: Annotated[int, Meta(ge=1)] | None = None
    value: str | None = None
    retry_after_s: Annotated[int, Meta(ge=0)] | None = None
    retry_after_form: Literal["seconds", "date"] = "seconds"
    delay_ms: Annotated[int, Meta(ge=0)] = 0


class Faults(Struct, forbid_unknown_fields=True):
    """The body of POST /sim/faults: replaces what was ordered before; an empty list ends all faults."""

    faults: Annotated[list[Fault], Meta(max_length=MOST_FAULTS)]


@dataclass
class FaultBox:
    """The ordered faults; chance comes from a seed, so a run repeats itself."""

    chance: random.Random
    faults: list[Fault] = field(default_factory=list)

    def draw(self, oauth: bool, value: str | None = None) -> Fault | None:
        """The first fault that strikes here, used up by one."""
        for fault in self.faults:
            here = fault.kind.startswith("oauth_") == oauth and fault.value in (None, value)
            if here and self.chance.random() < fault.probability:
                self._use(fault)
                return fault
        return None

    def _use(self, fault: Fault) -> None:
        if fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                self.faults.remove(fault)
