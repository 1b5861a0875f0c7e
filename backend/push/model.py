"""What a push is: its states, its content, and what follows from each answer of the service. Pure.

The rules, from which the tables below follow:
- At most once per (push, address): `sending` is committed before the first byte leaves.
- A push whose fate was ever in doubt ends as `accepted` or `unknown`, never as anything that claims more.
- Nothing is sent or retried at or after `expires_at`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct


class PushState(StrEnum):
    """Where a push stands; the values are those of `pushes.state`."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    SENDING = "sending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"


TRANSITIONS: Mapping[PushState, frozenset[PushState]] = {
    PushState.QUEUED: frozenset({PushState.CLAIMED}),
    PushState.CLAIMED: frozenset(
        {
            PushState.QUEUED,  # put off, or its owner died
            PushState.SENDING,
            PushState.ACCEPTED,  # waiting for its resend, the phone reported the first one
            PushState.UNKNOWN,  # in doubt since an earlier send, and there will be no other
            PushState.EXPIRED,
            PushState.SUPPRESSED,
        }
    ),
    PushState.SENDING: frozenset(
        {
            PushState.QUEUED,  # surely not taken; or in doubt, and the campaign allows one resend
            PushState.ACCEPTED,
            PushState.REJECTED,
            PushState.UNKNOWN,
            PushState.EXPIRED,  # not taken, and the offer is over before the next try
        }
    ),
    PushState.ACCEPTED: frozenset(),
    PushState.REJECTED: frozenset(),
    PushState.UNKNOWN: frozenset(),
    PushState.EXPIRED: frozenset(),
    PushState.SUPPRESSED: frozenset(),
}


class IllegalStep(RuntimeError):
    """Our own fault: a push was about to go from one state to another that the table does not allow."""


def step(before: PushState, after: PushState) -> PushState:
    """`after`, if the table allows it. Raises IllegalStep."""
    if after not in TRANSITIONS[before]:
        raise IllegalStep(f"a push cannot go from {before} to {after}")
    return after


# What is sent, and to where -----------------------------------------------------------------------------
AddressKind: TypeAlias = Literal["token", "fid"]
CollapseGroup: TypeAlias = Literal["offers", "reminders", "service", "news"]
"""The fixed collapse keys: a phone keeps four, and with a fifth it is undefined which survive."""


class PushContent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the phone shows and gets; stored as JSON in `pushes.content`.

    `expires_at` is unix ms: the offer's end. `data` reaches the app beside the fields of our own.
    `resend_allowed`: after an ambiguous answer, one more send under the same tag.
    """

    title: str
    body: str
    campaign_id: str
    expires_at: int
    image: str | None = None
    deeplink: str | None = None
    collapse: CollapseGroup = "offers"
    data: dict[str, str] = {}
    resend_allowed: bool = False


_content_decoder = msgspec.json.Decoder(PushContent)


def encode_content(content: PushContent) -> bytes:
    """The content as it is stored."""
    return msgspec.json.encode(content)


def decode_content(blob: bytes) -> PushContent:
    """Stored content. Raises msgspec.ValidationError for what `encode_content` never wrote."""
    return _content_decoder.decode(blob)


class NewPush(Struct, frozen=True, kw_only=True):
    """A decision's message to one address. Times are unix ms; not sent before `not_before`."""

    push_id: str
    decision_id: int
    profile_id: str
    address_kind: AddressKind
    address_value: str
    platform: str | None
    content: PushContent
    created_at: int
    not_before: int
    due_at: int
    completed_at: int


class Claimed(Struct, frozen=True, kw_only=True):
    """A push in the hands of `owner`. `attempt` counts sends; `sending_at` (unix ms) is None until the first
    byte may leave; `resent` says that an earlier send's fate is unknown."""

    push_id: str
    decision_id: int
    profile_id: str
    address_kind: AddressKind
    address_value: str
    platform: str | None
    content: PushContent
    owner: str
    attempt: int = 0
    resent: bool = False
    sending_at: int | None = None

    @property
    def campaign_id(self) -> str:
        return self.content.campaign_id

    @property
    def expires_at(self) -> int:
        """Unix ms."""
        return self.content.expires_at

    @property
    def state(self) -> PushState:
        return PushState.CLAIMED if self.sending_at is None else PushState.SENDING

    def leaving(self, now: int) -> "Claimed":
        """This push in `sending` since `now` (unix ms), on its next attempt."""
        return msgspec.structs.replace(self, attempt=self.attempt + 1, sending_at=now)


# What the service answered ------------------------------------------------------------------------------
class AddressVerdict(StrEnum):
    """What an answer says about the address itself."""

    KEEP = "keep"
    DROP = "drop"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Accepted:
    """Taken by the service under this name; not yet delivered."""

    name: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Surely not taken; try again, not before `after_s` seconds from now."""

    reason: str
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Rejected:
    """Never to be taken."""

    reason: str
    address: AddressVerdict = AddressVerdict.KEEP


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been delivered, or not."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not taken, and nothing else of the same scope will be until somebody repairs the credentials."""

    reason: str
    scope: Literal["project", "platform"] = "project"


Outcome: TypeAlias = Accepted | Retry | Rejected | Unknown | Refused


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed send in firebase-admin's words: `error` is the class name of its exception, `fcm_code` the
    errorCode of an FcmError, `violated` the fields a BadRequest names, `retry_after_s` the server's wish."""

    error: str
    text: str = ""
    fcm_code: str | None = None
    violated: tuple[str, ...] = ()
    retry_after_s: float = 0.0


QUOTA_WAIT_S = 60.0  # Google's own advice; sooner only spends more of the quota that is gone


def outcome(failure: Failure) -> Outcome:
    """What a failure means for the push and its address. What we do not know may have been delivered."""
    return _OUTCOMES.get(failure.error, _doubt)(failure)


def _doubt(failure: Failure) -> Outcome:
    return Unknown(_reason(failure))


def _later(failure: Failure) -> Outcome:
    return Retry(_reason(failure), failure.retry_after_s)


def _quota(failure: Failure) -> Outcome:
    return Retry(_reason(failure), max(failure.retry_after_s, QUOTA_WAIT_S))


def _never(failure: Failure) -> Outcome:
    return Rejected(_reason(failure))


def _invalid(failure: Failure) -> Outcome:
    dead = AddressVerdict.DROP if _blames_the_address(failure) else AddressVerdict.KEEP
    return Rejected(_reason(failure), dead)


_OUTCOMES: Mapping[str, Callable[[Failure], Outcome]] = {
    "UnregisteredError": lambda failure: Rejected(_reason(failure), AddressVerdict.DROP),
    "NotFoundError": _never,  # a wrong project answers 404 too: that must not empty the address book
    "SenderIdMismatchError": lambda failure: Rejected(_reason(failure), AddressVerdict.QUARANTINE),
    "QuotaExceededError": _quota,
    "ResourceExhaustedError": _quota,
    "ThirdPartyAuthError": lambda failure: Refused(_reason(failure), "platform"),
    "UnauthenticatedError": lambda failure: Refused(_reason(failure)),
    "PermissionDeniedError": lambda failure: Refused(_reason(failure)),
    "UnavailableError": _later,
    "InternalError": _later,
    "InvalidArgumentError": _invalid,
    "FailedPreconditionError": _never,
    "OutOfRangeError": _never,
    "AlreadyExistsError": _never,
    "ConflictError": _never,
    # DeadlineExceeded, Unknown, Cancelled, Aborted, DataLoss and whatever comes: in doubt
}
_ADDRESS_FIELDS = frozenset({"message.token", "message.fid"})
_REASON_CHARACTERS = 200  # an error page of HTML must not fill the table


def _reason(failure: Failure) -> str:
    name = failure.error.removesuffix("Error")
    return f"{name}: {failure.text}"[:_REASON_CHARACTERS] if failure.text else name


def _blames_the_address(failure: Failure) -> bool:
    """A bad field is also a 400, and says nothing about the phone."""
    if failure.fcm_code != "INVALID_ARGUMENT":
        return False
    if failure.violated:
        return _ADDRESS_FIELDS.issuperset(failure.violated)
    return "registration token" in failure.text.lower()


def retry_after_s(header: str | None, now_ms: int) -> float:
    """A Retry-After header in seconds from now, 0 when absent or senseless (RFC 9110, 10.2.3)."""
    if not header:
        return 0.0
    text = header.strip()
    if text.isdecimal():
        return min(float(text), _LONGEST_WISH_S)
    try:
        at = parsedate_to_datetime(header)
        at_s = (
            at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        ).timestamp()  # asctime's form says none
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, at_s - now_ms / 1000), _LONGEST_WISH_S)


_LONGEST_WISH_S = 86_400.0  # beyond any offer's life; keeps a senseless number out of the arithmetic


# When to try again --------------------------------------------------------------------------------------
FIRST_WAIT_S = 2.0  # a service that just failed is not asked again at once
LONGEST_WAIT_S = 120.0  # an offer lives for minutes: a longer back-off would only let it expire
SPREAD = 0.1  # all who were told "in 60 seconds" must not come back in the same one


def wait_ms(attempt: int, random: float, asked_s: float = 0.0) -> int:
    """How long to wait after failed send number `attempt` (from 1), for a `random` in [0, 1)."""
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(max(attempt - 1, 0), 16))
    return math.ceil(1000 * max(ceiling * (1 + random) / 2, asked_s * (1 + SPREAD * random)))


# What happens to the push -------------------------------------------------------------------------------
class Finish(Struct, frozen=True):
    """The push has come to a final state."""

    push: Claimed
    state: PushState
    reason: str | None = None
    message_name: str | None = None
    address: AddressVerdict = AddressVerdict.KEEP


class Requeue(Struct, frozen=True):
    """The push waits again, until `next_try_at` (unix ms)."""

    push: Claimed
    next_try_at: int
    reason: str
    resent: bool = False


Settlement: TypeAlias = Finish | Requeue


def settle(push: Claimed, result: Outcome, now: int, random: float) -> Settlement:
    """What an answer to this push, in `sending`, leads to; `now` is unix ms, `random` in [0, 1)."""
    match result:
        case Accepted(name):
            return Finish(push, PushState.ACCEPTED, message_name=name)
        case Rejected(reason, address):
            return give_up(push, PushState.REJECTED, reason, address)
        case Retry(reason, after_s):
            return postpone(push, now + wait_ms(push.attempt, random, after_s), reason)
        case Refused(reason):
            return postpone(push, now + wait_ms(push.attempt, random), reason)
        case Unknown(reason):
            return _in_doubt(push, reason, now + wait_ms(push.attempt, random))


def postpone(push: Claimed, until: int, reason: str) -> Settlement:
    """Back to the queue until then (unix ms); the end, if the offer is over by then."""
    if until >= push.expires_at:
        return give_up(push, PushState.EXPIRED, reason)
    return Requeue(push, until, reason, push.resent)


def give_up(
    push: Claimed, state: PushState, reason: str, address: AddressVerdict = AddressVerdict.KEEP
) -> Finish:
    """The final state `state`; `unknown` for a push whose earlier send may have arrived."""
    if push.resent:
        return Finish(push, PushState.UNKNOWN, f"resend {state}: {reason}", address=address)
    return Finish(push, state, reason, address=address)


def _in_doubt(push: Claimed, reason: str, until: int) -> Settlement:
    if push.content.resend_allowed and not push.resent and until < push.expires_at:
        return Requeue(push, until, reason, resent=True)
    return Finish(push, PushState.UNKNOWN, reason)
