"""What FCM's HTTP v1 API takes for a message, and how it complains. Pure.

Shapes and limits: firebase.google.com/docs/reference/fcm/rest/v1/projects.messages. Where Google would
overlook something (camelCase names, numbers as text) this refuses: never kinder than the real one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Struct

PAYLOAD_BYTES = 4096
LONGEST_TTL_S = 28 * 86_400
COLLAPSE_ID_BYTES = 64
LONGEST_ADDRESS = 4096
ANALYTICS_LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")
TTL = re.compile(r"(\d{1,12})(\.\d{1,9})?s")
TOPIC = re.compile(r"[A-Za-z0-9_\-]{1,32}")
RESERVED = re.compile(r"from|message_type|(google|gcm)(\..*)?")
ADDRESS = re.compile(rf"[A-Za-z0-9_:.\-]{{1,{LONGEST_ADDRESS}}}")


class Strict(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A proto message: an unknown name is an error."""


class Notification(Strict):
    title: str | None = None
    body: str | None = None
    image: str | None = None


class Options(Strict):
    analytics_label: str | None = None


class AndroidNotification(Strict):
    title: str | None = None
    body: str | None = None
    icon: str | None = None
    color: str | None = None
    sound: str | None = None
    tag: str | None = None
    click_action: str | None = None
    body_loc_key: str | None = None
    body_loc_args: list[str] | None = None
    title_loc_key: str | None = None
    title_loc_args: list[str] | None = None
    channel_id: str | None = None
    ticker: str | None = None
    sticky: bool | None = None
    event_time: str | None = None
    local_only: bool | None = None
    notification_priority: str | None = None
    default_sound: bool | None = None
    default_vibrate_timings: bool | None = None
    default_light_settings: bool | None = None
    vibrate_timings: list[str] | None = None
    visibility: str | None = None
    notification_count: int | None = None
    light_settings: dict[str, Any] | None = None
    image: str | None = None
    proxy: str | None = None


class AndroidConfig(Strict):
    collapse_key: str | None = None
    priority: Literal["HIGH", "NORMAL", "high", "normal"] | None = None
    ttl: str | None = None
    restricted_package_name: str | None = None
    data: dict[str, str] | None = None
    notification: AndroidNotification | None = None
    fcm_options: Options | None = None
    direct_boot_ok: bool | None = None
    bandwidth_constrained_ok: bool | None = None
    restricted_satellite_ok: bool | None = None


class WebpushOptions(Strict):
    link: str | None = None
    analytics_label: str | None = None


class WebpushConfig(Strict):
    headers: dict[str, str] | None = None
    data: dict[str, str] | None = None
    notification: dict[str, Any] | None = None
    fcm_options: WebpushOptions | None = None


class ApnsOptions(Strict):
    analytics_label: str | None = None
    image: str | None = None


class ApnsConfig(Strict):
    headers: dict[str, str] | None = None
    payload: dict[str, Any] | None = None
    fcm_options: ApnsOptions | None = None
    live_activity_token: str | None = None


class Message(Strict):
    name: str | None = None
    data: dict[str, str] | None = None
    notification: Notification | None = None
    android: AndroidConfig | None = None
    webpush: WebpushConfig | None = None
    apns: ApnsConfig | None = None
    fcm_options: Options | None = None
    token: str | None = None
    fid: str | None = None
    topic: str | None = None
    condition: str | None = None


class SendRequest(Strict):
    message: Message
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """A field that is wrong, by its path, and what is wrong with it."""

    field: str
    description: str


class BadMessage(ValueError):
    """The request is refused with 400 and BadRequest details."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__(violations[0].description)
        self.violations = violations


class TooBig(ValueError):
    """The payload of one platform exceeds 4,096 bytes; refused with 400 and an FcmError."""


class BadAddress(ValueError):
    """The token or installation id cannot be one; refused with 400 and an FcmError."""


_decoder = msgspec.json.Decoder(SendRequest)
_AT = re.compile(r" - at (?:key in )?`\$\.?(.*?)`$")


def read_request(body: bytes) -> SendRequest:
    """The request of a send, checked as Google does. Raises BadMessage, TooBig, BadAddress."""
    try:
        request = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        path = _AT.search(str(error))
        raise BadMessage([Violation(path[1] if path else "", f"Invalid value: {error}")]) from error
    message = request.message
    violations = [violation for check in _CHECKS for violation in check(message)]
    if violations:
        raise BadMessage(violations)
    _check_sizes(message)
    kind, value = address(message)
    if kind in ("token", "fid") and not ADDRESS.fullmatch(value):
        raise BadAddress("The registration token is not a valid FCM registration token")
    return request


def address(message: Message) -> tuple[str, str]:
    """The kind and value of the message's only target."""
    return next((kind, value) for kind, value in _targets(message).items() if value)


def _targets(message: Message) -> dict[str, str | None]:
    return {
        "token": message.token,
        "fid": message.fid,
        "topic": message.topic,
        "condition": message.condition,
    }


def _one_target(message: Message) -> Iterator[Violation]:
    if sum(bool(value) for value in _targets(message).values()) != 1:
        yield Violation("message", "Recipient of the message is not set, or set more than once.")


def _data_keys(message: Message) -> Iterator[Violation]:
    for path, data in (
        ("message.data", message.data),
        ("message.android.data", message.android.data if message.android else None),
        ("message.webpush.data", message.webpush.data if message.webpush else None),
    ):
        for key in data or {}:
            if not key or RESERVED.fullmatch(key):
                yield Violation(path, f"Invalid data payload key: {key}")


def _labels(message: Message) -> Iterator[Violation]:
    for path, options in (
        ("message.fcm_options", message.fcm_options),
        ("message.android.fcm_options", message.android.fcm_options if message.android else None),
        ("message.apns.fcm_options", message.apns.fcm_options if message.apns else None),
    ):
        if options and options.analytics_label and not ANALYTICS_LABEL.fullmatch(options.analytics_label):
            yield Violation(f"{path}.analytics_label", "Invalid analytics label")


def _android(message: Message) -> Iterator[Violation]:
    ttl = message.android.ttl if message.android else None
    if ttl is None:
        return
    duration = TTL.fullmatch(ttl)
    if not duration:
        yield Violation("message.android.ttl", "Illegal duration format; duration must end with 's'")
    elif int(duration[1]) > LONGEST_TTL_S:
        yield Violation("message.android.ttl", f"The TTL must be at most {LONGEST_TTL_S} seconds")


def _images(message: Message) -> Iterator[Violation]:
    image = message.notification.image if message.notification else None
    if image and not image.startswith(("https://", "http://")):
        yield Violation("message.notification.image", "Invalid image URL")


_APNS_HEADERS: dict[str, Callable[[str], bool]] = {
    "apns-priority": lambda value: value in ("1", "5", "10"),
    "apns-expiration": lambda value: value.isdecimal(),
    "apns-collapse-id": lambda value: 0 < len(value.encode()) <= COLLAPSE_ID_BYTES,
    "apns-push-type": lambda value: value in ("alert", "background", "liveactivity", "location", "voip"),
}
_WEBPUSH_HEADERS: dict[str, Callable[[str], bool]] = {
    "ttl": lambda value: value.isdecimal() and int(value) <= LONGEST_TTL_S,
    "urgency": lambda value: value in ("very-low", "low", "normal", "high"),
    "topic": lambda value: TOPIC.fullmatch(value) is not None,
}


def _headers(message: Message) -> Iterator[Violation]:
    for path, headers, rules in (
        ("message.apns.headers", message.apns.headers if message.apns else None, _APNS_HEADERS),
        ("message.webpush.headers", message.webpush.headers if message.webpush else None, _WEBPUSH_HEADERS),
    ):
        for name, value in (headers or {}).items():
            rule = rules.get(name.lower())
            if rule is not None and not rule(value):
                yield Violation(f"{path}[{name}]", f"Invalid value of header {name}")


def _apns_payload(message: Message) -> Iterator[Violation]:
    payload = message.apns.payload if message.apns else None
    if payload is not None and not isinstance(payload.get("aps", {}), dict):
        yield Violation("message.apns.payload.aps", "Invalid JSON payload: aps must be an object")


def _web_link(message: Message) -> Iterator[Violation]:
    options = message.webpush.fcm_options if message.webpush else None
    if options and options.link and not options.link.startswith("https://"):
        yield Violation("message.webpush.fcm_options.link", "The link must be an HTTPS URL")


_CHECKS: tuple[Callable[[Message], Iterator[Violation]], ...] = (
    _one_target,
    _data_keys,
    _labels,
    _android,
    _images,
    _headers,
    _apns_payload,
    _web_link,
)


def _check_sizes(message: Message) -> None:
    """What each platform's phone would get: the common part with its own part over it. Raises TooBig."""
    common = {"notification": message.notification, "data": message.data}
    android, apns, webpush = message.android, message.apns, message.webpush
    for platform, own in (
        ("Android", {"n": android.notification, "d": android.data} if android else {}),
        ("APNs", {"payload": apns.payload} if apns else {}),
        ("Web Push", {"n": webpush.notification, "d": webpush.data} if webpush else {}),
    ):
        if len(msgspec.json.encode(common | own)) > PAYLOAD_BYTES:
            raise TooBig(f"{platform} message is too big")
