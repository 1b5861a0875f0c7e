"""Bytes of strangers to typed JSON: bounded in size and depth, forgiving where SDKs are sloppy."""

import json
import math
import re
import zlib
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from sdk_bridge.server.refusals import Refusal

T = TypeVar("T")

MAX_EVENT_BYTES = 32 * 1024  # Segment's own limits: what their SDKs are built to stay under
MAX_BATCH_BYTES = 500 * 1024
MAX_BATCH_EVENTS = 2_500
MAX_SHARED_BYTES = 4 * MAX_BATCH_BYTES  # or 500 KB on the wire could become 80 MB in the journal
MAX_DEPTH = 32  # deeper nesting could pass here and exhaust the stack of whoever reads the journal later

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31
_NUL = b"\\u0000"  # JSON has no other way to write it; a backslash before it makes a false alarm, no harm
# A string, closed or not (so that no quote is scanned twice), or a character that shapes the document.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{}\[\],]', re.DOTALL)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL's text has no NUL, UTF-8 no surrogates
_INT64 = range(-(2**63), 2**63)


class Rejected(ValueError):
    """One event cannot be understood; the text is the reason, kept with it."""


class _Envelope(msgspec.Struct, rename="camel"):
    """A batch as it comes."""

    batch: list[msgspec.Raw]
    write_key: str | None = None
    sent_at: str | int | float | None = None
    context: msgspec.Raw = msgspec.Raw(b"null")


class OpenBatch(_Envelope):
    """A batch whose events are still bytes, so that each is judged by itself."""

    shared: dict[str, Any] | None = None  # the context, decoded
    holds_nul: bool = False  # whether some text may hold U+0000
    strict: bytes | None = None  # the whole body, if it is strict JSON


_envelope = msgspec.json.Decoder(_Envelope)
_Context: TypeAlias = dict[str, Any] | Annotated[list[Any], msgspec.Meta(max_length=0)] | None  # PHP's `[]`
_context: "msgspec.json.Decoder[_Context]" = msgspec.json.Decoder(_Context)


def inflate(body: bytes, limit: int) -> bytes:
    """The body without its gzip, told by its first bytes. Raises Refusal past `limit` bytes, or on damage."""
    plain = b""
    packed = body
    while packed[:2] == _GZIP_MAGIC:  # a file may have several members, one behind the other
        stream = zlib.decompressobj(_GZIP_WINDOW)
        try:
            plain += stream.decompress(packed, limit + 1 - len(plain))
        except zlib.error as error:
            raise Refusal(400, "invalid_gzip", "the gzip data is damaged") from error
        if len(plain) > limit:
            raise too_large(limit)
        if not stream.eof:
            raise Refusal(400, "invalid_gzip", "the gzip data ends too early")
        packed = stream.unused_data
    return plain if packed is not body else body


def too_large(limit: int) -> Refusal:
    """The answer to a body of more than `limit` bytes."""
    return Refusal(400, "too_large", f"the body exceeds {limit // 1024} KB")


def decode(raw: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """One event's bytes, typed. Raises Rejected.

    NaN and infinities become null, as a browser's JSON.stringify writes them; lone surrogates and broken
    UTF-8 become U+FFFD; integers beyond 64 bits become floats.
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise Rejected(f"the event exceeds {MAX_EVENT_BYTES // 1024} KB")
    if _too_deep(raw):
        raise Rejected(f"nested deeper than {MAX_DEPTH} levels")
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_leniently(raw, decoder)


def _decode_leniently(raw: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """As `decode`, for bytes that strict JSON refuses; their depth has been checked. Raises Rejected."""
    try:
        loose = json.loads(raw.decode("utf-8-sig", "replace"), parse_constant=lambda _: None)
        return decoder.decode(msgspec.json.encode(mended(loose)))
    except msgspec.ValidationError as error:
        raise Rejected(str(error)) from error
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise Rejected("not JSON") from error


def may_hold_nul(raw: bytes) -> bool:
    """Whether JSON text may hold the character U+0000, which not every database can keep."""
    return b"\\" in raw and _NUL in raw  # few bodies have a backslash, and one character is found sooner


def mended(value: Any) -> Any:
    """The value with everything replaced that MessagePack, UTF-8 or PostgreSQL's text could not hold."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mended(item) for item in value]
    if isinstance(value, int) and value not in _INT64:
        return _finite(value)
    return _finite(value) if isinstance(value, float) else value


def open_batch(body: bytes) -> OpenBatch:
    """The envelope of a batch, its events unread. Raises Refusal."""
    strict: bytes | None = body
    try:
        envelope = _envelope.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid_batch", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        envelope, strict = _open_damaged(body), None
    batch, context = envelope.batch, envelope.context
    if len(batch) > MAX_BATCH_EVENTS:
        raise Refusal(400, "too_many_events", f"a batch holds at most {MAX_BATCH_EVENTS} events")
    shared = _shared_context(bytes(context), len(batch))
    return OpenBatch(batch, envelope.write_key, envelope.sent_at, context, shared, may_hold_nul(body), strict)


def _shared_context(raw: bytes, events: int) -> dict[str, Any] | None:
    """The batch's own context. It is stored with each event, so its size counts as often."""
    if len(raw) * events > MAX_SHARED_BYTES:
        raise Refusal(400, "too_large", "the batch's `context` is too large for so many events")
    try:
        shared = decode(raw, _context)
    except Rejected as error:
        raise Refusal(400, "invalid_batch", f"`context`: {error}") from error
    return shared if isinstance(shared, dict) else None


def _open_damaged(body: bytes) -> _Envelope:
    """Opens a batch in which some event is not strict JSON, so that the others are not lost with it."""
    span, elements = _split(body)
    if span is None:
        raise Refusal(400, "invalid_json", "the body is not a JSON object with a `batch` array")
    shell = body[: span[0]] + b"[]" + body[span[1] :]
    if _too_deep(shell):
        raise Refusal(400, "invalid_json", f"nested deeper than {MAX_DEPTH} levels")
    try:
        opened = _decode_leniently(shell, _envelope)
    except Rejected as error:
        raise Refusal(400, "invalid_json", str(error)) from error
    opened.batch = [msgspec.Raw(element) for element in elements]
    return opened


def _split(body: bytes) -> tuple[tuple[int, int] | None, list[bytes]]:
    """Where the top-level `batch` array lies, and the bytes of its elements, found without recursion."""
    depth, start, begun, key = 0, -1, -1, b""
    elements: list[bytes] = []
    for token in _TOKEN.finditer(body):
        mark = token[0]
        if mark[:1] == b'"':
            key = mark if depth == 1 else key
        elif mark in b"{[":
            depth += 1
            if depth == 2 and mark == b"[" and key == b'"batch"' and start < 0:
                start, begun = token.start(), token.end()
        elif mark in b"}]":
            depth -= 1
            if depth == 1 and begun >= 0:
                elements.append(body[begun : token.start()])
                return (start, token.end()), [element for element in map(bytes.strip, elements) if element]
        elif depth == 2 and begun >= 0:
            elements.append(body[begun : token.start()])
            begun = token.end()
    return None, []


def _too_deep(raw: bytes) -> bool:
    """Whether brackets nest beyond MAX_DEPTH; most events have fewer brackets than that altogether."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _TOKEN.finditer(raw):
        if token[0] in b"{[":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token[0] in b"}]":
            depth -= 1
    return False


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
