"""Hostile bodies at every door that takes one: a 4xx that says why, never a 5xx, a hang or a crash."""

import asyncio
import gzip
import json
import random
import zlib
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs
from yarl import URL

from backend.api.server import document
from simulators.backend_alone import BackendAlone, running_backend

PATIENCE_S = 10.0  # for one answer; a hang is as bad as a crash
DOCUMENT = json.loads(json.dumps(document()))
SCHEMAS = DOCUMENT["components"]["schemas"]
PACKED = {"Content-Encoding": "gzip"}
RANDOM = random.Random(7)

NO_JSON: dict[str, tuple[bytes, dict[str, str]]] = {
    "random bytes": (RANDOM.randbytes(2_000), {}),
    "one byte": (b"\xff", {}),
    "not UTF-8": (b'{"name": "\xff\xfe"}', {}),
    "a byte order mark": (b"\xef\xbb\xbf[", {}),
    "half an object": (b'{"name": "', {}),
    "two objects": (b"{}{}", {}),
    "deep arrays": (b"[" * 200_000, {}),
    "deep objects": (b'{"a":' * 100_000, {}),
    "deep, and closed": (b"[" * 50_000 + b"]" * 50_000, {}),
    "10 MB": (b'{"name": "' + b"x" * 10_000_000 + b'"}', {}),
    "10 MB of digits": (b"9" * 10_000_000, {}),
    "gzip bomb": (gzip.compress(bytes(20_000_000)), PACKED),
    "bomb in a bomb": (gzip.compress(gzip.compress(bytes(20_000_000))), PACKED),
    "damaged gzip": (gzip.compress(b"{}")[:-9] + b"\0" * 9, PACKED),
    "half a gzip": (gzip.compress(RANDOM.randbytes(5_000))[:2_000], PACKED),
    "no gzip at all": (b"[]", PACKED),
    "deflate bomb": (zlib.compress(bytes(20_000_000)), {"Content-Encoding": "deflate"}),
    "an encoding that nobody knows": (b"\0", {"Content-Encoding": "br, gzip, zstd"}),
    "a charset that nobody knows": (b"\xff", {"Content-Type": "application/json; charset=utf-99"}),
    "NaN": (b"NaN", {}),
    "digits without end": (b"[" + b"9" * 100_000 + b"]", {}),
    "an exponent": (b"1e999999999", {}),
    "a lone surrogate": (b'"\\ud800"', {}),
    "the wrong kind: null": (b"null", {}),
    "the wrong kind: text": (b'"text"', {}),
    "the wrong kind: number": (b"-0.0", {}),
    "the wrong kind: list": (b'[{"name": "x"}]', {}),
}
IN_A_FIELD: dict[str, bytes] = {
    "a huge integer": b"9" * 400,
    "beyond 64 bits": str(2**64).encode(),
    "beyond 63 bits": str(2**63).encode(),
    "below 63 bits": str(-(2**63) - 1).encode(),
    "a huge number": b"1e308",
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "U+0000": b'"a\\u0000b"',
    "a raw zero": b'"a\0b"',
    "a lone surrogate": b'"\\udc00"',
    "half a pair": b'"\\ud83d x"',
    "a line break": b'"s1\\n"',
    "a long text": b'"' + b"x" * 100_000 + b'"',
    "null": b"null",
    "true": b"true",
    "a list": b"[[[[]]]]",
    "a deep list": b"[" * 30_000 + b"]" * 30_000,
    "a list of everything": b'[null, 1e308, "\\u0000", {"": ""}]',
    "an object": b'{"\\u0000": 1e308}',
}
DOORS = [
    (method, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if "requestBody" in operation and "_at_" not in operation["operationId"]  # other paths to the same
]


def test_every_door_is_tried():
    assert len(DOORS) > 25
    assert {"put", "post"} <= {method for method, *_ in DOORS}


@pytest.mark.timeout(240)
async def test_hostile_bodies_are_refused_with_a_reason(tmp_path):
    async with running_backend(tmp_path) as backend, _connected() as http:
        wrong: list[str] = []
        for method, path, operation in DOORS:
            for name, (body, headers) in NO_JSON.items():
                status, text = await _asked(http, backend, method, path, operation, body, headers)
                if not 400 <= status < 500 or not _says_why(text):
                    wrong.append(f"{method} {path} with {name}: {status} {text[:200]}")
        assert not wrong, "\n".join(wrong)
        await _is_well(http, backend)


@pytest.mark.timeout(240)
async def test_a_hostile_value_in_any_field_fails_nothing(tmp_path):
    """Some fields take any JSON; what is taken must be taken whole, what is refused with a reason."""
    async with running_backend(tmp_path) as backend, _connected() as http:
        wrong: list[str] = []
        for method, path, operation in DOORS:
            for field, others in _bodies(operation):
                for name, value in IN_A_FIELD.items():
                    body = b"{" + b", ".join([*others, json.dumps(field).encode() + b": " + value]) + b"}"
                    status, text = await _asked(http, backend, method, path, operation, body, {})
                    if status >= 500 or (status >= 400 and not _says_why(text)):
                        wrong.append(f"{method} {path} with {field} = {name}: {status} {text[:200]}")
        assert not wrong, "\n".join(wrong)
        await _is_well(http, backend)


def _connected() -> aiohttp.ClientSession:
    """A connection each: a server may close the one that brought a damaged body."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


async def _asked(
    http: aiohttp.ClientSession,
    backend: BackendAlone,
    method: str,
    path: str,
    operation: dict[str, Any],
    body: bytes,
    headers: dict[str, str],
) -> tuple[int, str]:
    """Status and text of the answer; status 599 for none, or none in time."""
    key = backend.write_key if "events" in operation["tags"] else backend.token
    given = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    url = backend.url + _filled(path)
    try:
        async with asyncio.timeout(PATIENCE_S), http.request(method, url, data=body, headers=given) as answer:
            return answer.status, await answer.text()
    except (TimeoutError, aiohttp.ClientError) as error:
        return 599, repr(error)


KNOWN = {"store": "s1", "zone": "a", "gateway": "g1"}


def _filled(path: str) -> str:
    """The path of something that is there, where it can be, so that the request gets as far as it can."""
    for place in {part[1:-1] for part in path.split("/") if part.startswith("{")}:
        path = path.replace(f"{{{place}}}", KNOWN.get(place, "x"))
    return path


def _says_why(text: str) -> bool:
    """The API's error, or the bridge's."""
    try:
        body = json.loads(text)
    except ValueError:
        return False
    error = body.get("error", body)
    return bool(error.get("code")) and bool(error.get("message"))


def _bodies(operation: dict[str, Any]) -> list[tuple[str, list[bytes]]]:
    """Every field of the operation's body, with the other fields that it needs as JSON."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = _resolved(content.get("application/json", {}).get("schema", {}))
    fields = schema.get("properties", {})
    needed = {name: _plausible(fields[name]) for name in schema.get("required", [])}
    return [
        (
            field,
            [
                f"{json.dumps(name)}: {json.dumps(value)}".encode()
                for name, value in needed.items()
                if name != field
            ],
        )
        for field in fields
    ]


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _plausible(schema: dict[str, Any], depth: int = 6) -> Any:  # noqa: PLR0911 - a table of kinds
    """A value that fits a schema well enough to come past the other fields; conditions hold conditions."""
    schema = _resolved(schema)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _plausible(schema["anyOf"][0], depth)
    match schema.get("type"):
        case "string":
            return "x" * schema.get("minLength", 1)
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "array" if depth:
            return [_plausible(schema.get("items", {}), depth - 1)]
        case "object" if depth:
            fields = schema.get("properties", {})
            return {name: _plausible(fields[name], depth - 1) for name in schema.get("required", [])}
    return True


async def test_a_packed_body_is_unpacked_once_and_within_its_limit(tmp_path):
    """aiohttp would unpack a bomb to its end, to ignore it: seconds in which nobody else is served."""
    body = json.dumps({"name": "Shop"}).encode()
    once = gzip.compress(body)
    async with running_backend(tmp_path) as backend, _connected() as http:
        for packed, wanted in ((once, 200), (gzip.compress(once), 400)):
            headers = {**backend.headers, **PACKED}
            async with http.put(f"{backend.url}/api/stores/s1", data=packed, headers=headers) as answer:
                assert answer.status == wanted, await answer.text()


@pytest.mark.parametrize("path", ["v1/batch", "v1/track", "api/stores/s1"])
@pytest.mark.parametrize("framing", ["Content-Length: 500", "Transfer-Encoding: chunked"])
async def test_whoever_hangs_up_in_the_middle_fails_nothing(tmp_path, path, framing):
    """Phones do so all day; a trace for each would bury the log's real errors."""
    async with running_backend(tmp_path) as backend, _connected() as http:
        head = f"{'PUT' if path[:3] == 'api' else 'POST'} /{path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n"
        key = backend.token if path[:3] == "api" else backend.write_key
        with capture_logs() as said:
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", URL(backend.url).port)
                writer.write(f'{head}Authorization: Bearer {key}\r\n\r\n5\r\n{{"a":'.encode())
                await asyncio.sleep(0.1)
                writer.close()
                assert await reader.read() == b""
            await _is_well(http, backend)
        assert [line for line in said if line["log_level"] == "error"] == []


async def test_an_export_that_nobody_waits_for_any_more_fails_nothing(tmp_path):
    async with running_backend(tmp_path) as backend, _connected() as http:
        key = {"Authorization": f"Bearer {backend.write_key}"}
        for number in range(20):
            batch = [
                {"type": "track", "userId": "4711", "event": "x", "properties": {"x": "y" * 20_000}}
                for _ in range(20)
            ]
            async with http.post(f"{backend.url}/v1/batch", json={"batch": batch}, headers=key) as answer:
                assert answer.status == 200, number
        with capture_logs() as said:
            for _ in range(3):
                url = f"{backend.url}/api/profiles/user_id:4711/export"
                async with http.get(url, headers=backend.headers) as answer:
                    await answer.content.read(10)
                    answer.close()
            await asyncio.sleep(0.3)
            await _is_well(http, backend)
        assert [line for line in said if line["log_level"] == "error"] == []


async def _is_well(http: aiohttp.ClientSession, backend: BackendAlone) -> None:
    async with http.get(f"{backend.url}/health") as answer:
        assert answer.status == 200
    async with http.get(f"{backend.url}/api/stores", headers=backend.headers) as answer:
        assert (await answer.json())["stores"]
    event = {"event": "Still here", "userId": "4711"}
    key = {"Authorization": f"Bearer {backend.write_key}"}
    async with http.post(f"{backend.url}/v1/track", json=event, headers=key) as answer:
        assert answer.status == 200
