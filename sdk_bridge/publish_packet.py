"""A PUBLISH as MQTT 5 has it on the wire (section 3.3): topic, packet id, user properties, payload. Pure."""

from typing import Final, NamedTuple

_PUBLISH: Final = 0x30  # with the flags in the lower half
_USER_PROPERTY: Final = 0x26
_SUBSCRIPTION_ID: Final = 0x0B
_BYTES: Final = {0x01: 1, 0x02: 4, 0x23: 2}  # payload format, message expiry, topic alias
_SIZED: Final = frozenset({0x03, 0x08, 0x09})  # content type, response topic, correlation data
_LONGEST_VARIABLE: Final = 4  # bytes of a variable byte integer


class MalformedPublish(ValueError):
    """The bytes are no PUBLISH."""


class Publish(NamedTuple):
    """What one carries; `mid` is 0 at QoS 0. A topic that is no UTF-8 is empty."""

    topic: str
    mid: int
    properties: tuple[tuple[str, str], ...]
    payload: bytes


def pack_publish(topic: str, payload: bytes, *, retain: bool) -> bytes:
    """A whole packet of QoS 0, without properties. Raises ValueError for what nobody may publish to."""
    name = topic.encode()
    if not name or "+" in topic or "#" in topic:
        raise ValueError(f"{topic!r} is no topic to publish to")
    length = 2 + len(name) + 1 + len(payload)
    header = bytes([_PUBLISH | retain]) + _packed(length)
    return b"".join((header, len(name).to_bytes(2, "big"), name, b"\0", payload))


def whole_publish(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the PUBLISH that begins there lies; None where it is another packet, or not all of it
    is there yet.
    """
    if at >= len(data) or data[at] & 0xF0 != _PUBLISH:
        return None
    try:
        length, begins = _variable(data, at + 1)
    except MalformedPublish:
        return None
    ends = begins + length
    return (begins, ends) if ends <= len(data) else None


def parse_publish(qos: int, body: bytes) -> Publish:
    """The packet behind its fixed header. Raises MalformedPublish."""
    topic, at = _sized(body, 0)
    mid = 0
    if qos:
        mid, at = int.from_bytes(body[at : at + 2], "big"), at + 2
    length, at = _variable(body, at)
    end = at + length
    if end > len(body):
        raise MalformedPublish("the properties end behind the packet")
    return Publish(_topic(topic), mid, _pairs(body, at, end), body[end:])


def _pairs(body: bytes, at: int, end: int) -> tuple[tuple[str, str], ...]:
    """The user properties among the properties; the others are passed over."""
    pairs = []
    try:
        while at < end:
            kind = body[at]
            if kind == _USER_PROPERTY:  # all that ever comes, and six of it with each batch: hence by hand
                name = at + 3
                value = name + (body[at + 1] << 8 | body[at + 2]) + 2
                at = value + (body[value - 2] << 8 | body[value - 1])
                pairs.append((body[name : value - 2].decode(), body[value:at].decode()))
            else:
                at = _behind(body, kind, at + 1)
    except (IndexError, UnicodeDecodeError) as error:
        raise MalformedPublish("a user property is cut off, or no UTF-8") from error
    if at != end:
        raise MalformedPublish("the last property ends behind the properties")
    return tuple(pairs)


def _behind(body: bytes, kind: int, at: int) -> int:
    """Where a property of no interest ends."""
    if kind in _BYTES:
        return at + _BYTES[kind]
    if kind in _SIZED:
        return _sized(body, at)[1]
    if kind == _SUBSCRIPTION_ID:
        return _variable(body, at)[1]
    raise MalformedPublish(f"a PUBLISH has no property {kind:#04x}")


def _sized(body: bytes, at: int) -> tuple[bytes, int]:
    """Two bytes of length and so many bytes; and where the next begins."""
    begins = at + 2
    ends = begins + (body[at] << 8 | body[at + 1]) if begins <= len(body) else begins
    if ends > len(body):
        raise MalformedPublish("a text ends behind the packet")
    return body[begins:ends], ends


def _variable(body: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer (section 1.5.5), and where the next begins."""
    value = 0
    for number, byte in enumerate(body[at : at + _LONGEST_VARIABLE]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise MalformedPublish("a length does not end")


def _packed(value: int) -> bytes:
    """A variable byte integer."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _topic(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""
