"""The OpenAPI document: valid, complete, and about the routes that are really served."""

import json
import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec import Struct
from openapi_spec_validator import OpenAPIV31SpecValidator
from typer.testing import CliRunner
from yarl import URL

from backend.api import openapi, operations
from backend.api.auth import ROLES
from backend.api.errors import Problem, answer_errors
from backend.api.openapi import Undescribed
from backend.api.operations import operation, reply
from backend.api.parameters import LIMIT, STORE, Identifier, choice, flag, identifier, number, text, whole
from backend.api.server import document
from backend.cli import main
from sdk_bridge.server.app import Bridge
from simulators.backend_alone import running_backend
from simulators.bridge_alone import SOURCES, ListedSources, MemoryJournal

DOCUMENT = json.loads(json.dumps(document()))
OPERATIONS = [
    pytest.param(method, path, described, id=f"{method} {path}")
    for path, item in DOCUMENT["paths"].items()
    for method, described in item.items()
]
every_operation = pytest.mark.parametrize(("method", "path", "described"), OPERATIONS)


# The document as a whole ----------------------------------------------------------------------------------


def test_it_is_valid():
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_operations_have_names_of_their_own_that_can_be_functions():
    names = [described["operationId"] for _, _, described in (each.values for each in OPERATIONS)]
    assert sorted(names) == sorted(set(names))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_schemas_have_names_of_their_own():
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) for name in DOCUMENT["components"]["schemas"])


def test_every_schema_says_what_it_is():
    silent = [
        name for name, schema in DOCUMENT["components"]["schemas"].items() if not schema.get("description")
    ]
    assert silent == []


def test_patterns_are_ecmascripts():
    patterns = list(_values(DOCUMENT, "pattern"))
    assert patterns
    assert not [pattern for pattern in patterns if re.search(r"\\[AZz]|\(\?[!<P]", pattern)]


def test_no_pattern_lets_a_line_break_pass_at_the_end():
    """Python's `$` stands before a last line break, too; `$(?!\\n)` does not."""
    bodies = {said.body for said in operations.OPERATIONS.values() if said.body is not None}
    _, components = msgspec.json.schema_components(bodies)
    patterns = set(_values(components, "pattern"))
    assert len(patterns) > 3
    pem = r"^[\n\r -~]*$"  # lines are what it has
    assert {pattern for pattern in patterns if pattern.endswith("$")} <= {pem}


def test_every_whole_number_that_the_api_takes_has_bounds():
    """A database's integers end at 64 bits, and what it says of a longer one is no clear error."""
    bodies = [
        described["requestBody"]
        for _, _, described in (each.values for each in OPERATIONS)
        if "requestBody" in described and described["tags"] != ["events"]  # the bridge mends these
    ]
    seen: set[str] = set()
    endless = [where for body in bodies for where in _endless(body, "", seen)]
    assert bodies
    assert endless == []


def test_every_chapter_is_described():
    tags = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    assert all(tags.values())
    assert {each.values[2]["tags"][0] for each in OPERATIONS} == set(tags)


def test_the_command_prints_it():
    printed = CliRunner().invoke(main, ["openapi"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout) == DOCUMENT


async def test_it_is_served_to_all_and_tells_of_every_route(tmp_path):
    async with (
        running_backend(tmp_path) as backend,
        aiohttp.ClientSession() as http,
        http.get(f"{backend.url}/api/openapi.json") as answer,
    ):
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.json() == DOCUMENT


def test_it_tells_of_every_path_of_the_bridge_and_of_no_other():
    app = web.Application()
    Bridge(MemoryJournal(), ListedSources(SOURCES), lambda: 0).add_to(app)
    served = {
        (route.method.lower(), route.resource.canonical.rstrip("/"))
        for route in app.router.routes()
        if route.method in ("GET", "POST")
    }
    told = {
        (method, path) for method, path, said in (e.values for e in OPERATIONS) if said["tags"] == ["events"]
    }
    assert told == served


# Every operation ------------------------------------------------------------------------------------------


@every_operation
def test_an_operation_says_what_it_does_and_who_may_call_it(method, path, described):
    assert described["summary"].endswith(".")
    assert described["x-role"] in (*ROLES, "public")
    assert ("security" in described) and (described["security"] or described["x-role"] == "public")


@every_operation
def test_every_parameter_is_described(method, path, described):
    parameters = described.get("parameters", [])
    assert all(each["description"].endswith(".") and each["schema"] for each in parameters)
    assert {each["name"] for each in parameters if each["in"] == "path"} == set(
        re.findall(r"\{(\w+)\}", path)
    )


@every_operation
def test_every_answer_is_documented(method, path, described):
    answers = {int(status): _resolved(answer) for status, answer in described["responses"].items()}
    assert any(status < 300 for status in answers)
    assert all(answer["description"] for answer in answers.values())
    wanted = {401} if described["x-role"] != "public" else set()
    if described["x-role"] not in ("public", "viewer"):
        wanted |= {403}
    if described["tags"] != ["events"]:
        wanted |= {400, 500, 503}
    if "requestBody" in described:
        wanted |= {400, 408, 503}
    assert wanted <= set(answers)
    for status in {429, 503} & set(answers):
        assert "Retry-After" in answers[status]["headers"]


# The decorator --------------------------------------------------------------------------------------------


class Body(Struct, forbid_unknown_fields=True):
    """What is given."""

    count: int = 1
    zone: Identifier = "a"


class View(Struct):
    """What is answered."""

    said: str


def an_operation(**more: Any):
    @operation("public", answer=View, **more)
    async def handler(request: web.Request) -> View:
        """Says something."""
        return View("it")

    return handler


@pytest.mark.parametrize(
    ("routes", "complaint"),
    [
        ([("/a", lambda _: None)], r"GET /a has a handler without `@operation`"),
        ([("/a", an_operation()), ("/b", an_operation())], "are both named handler"),
        ([("/a/{store}", an_operation())], "GET /a/{store} does not take store"),
    ],
)
def test_a_route_that_says_too_little_is_refused_at_start(routes, complaint):
    async def plain(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.get(path, plain if name.__name__ == "<lambda>" else name) for path, name in routes])
    with pytest.raises(Undescribed, match=complaint):
        openapi.document(app)


def test_a_handler_without_a_docstring_is_refused_at_import():
    with pytest.raises(TypeError, match="no docstring"):

        @operation("viewer")
        async def silent(request: web.Request) -> web.Response:
            return web.Response()


@operation("public", takes=(STORE, LIMIT), body=Body, without=Body(7), answer=View, status=(200, 201))
async def put_it(request: web.Request, body: Body) -> View | web.Response:
    """Repeats what it was given."""
    said = View(f"{STORE.of(request)} {LIMIT.of(request)} {body.count} {body.zone}")
    return reply(said, 201) if body.count > 7 else said


@pytest.mark.parametrize(
    ("path", "body", "status", "answer"),
    [
        ("/s1", b'{"count": 2}', 200, "s1 100 2 a"),
        ("/s1?limit=3", b'{"count": 8}', 201, "s1 3 8 a"),
        ("/s1", b"", 200, "s1 100 7 a"),
        ("/s1?limit=0", b"", 400, "limit"),
        ("/s1?limit=1&limit=2", b"", 400, "limit"),
        ("/s1?limits=1", b"", 400, "query"),
        ("/s1?store=s2", b"", 400, "query"),
        ("/s1%0A", b"", 400, "store"),
        ("/" + "s" * 65, b"", 400, "store"),
        ("/s1", b'{"count": "2"}', 400, "body"),
        ("/s1", b'{"other": 2}', 400, "body"),
        ("/s1", b'{"zone": "a\\n"}', 400, "body"),
        ("/s1", b'{"zone": "\\u0000"}', 400, "body"),
        ("/s1", b'{"zone": "\\\\u0000"}', 400, "body"),
        ("/s1", b" ", 400, "body"),
    ],
)
async def test_the_door_checks_what_the_document_says(aiohttp_served, path, body, status, answer):
    got = await aiohttp_served(web.put("/{store}", put_it), "PUT", path, body)
    assert got[0] == status
    assert (got[1]["said"] if status < 400 else got[1]["error"]["code"]) == answer


WORDS = choice("n", "Which first.", ("name", "age"), default=None)


NO_WHOLE = ("11", "-6", "1.0", "05", "+1", "٥", "", " 1", "1_0", "1\n", "9" * 5000)
NO_NUMBER = ("nan", "inf", "1e0", "9.1", ".5", "", "0x1")


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        (whole("n", "A.", least=-5, most=10), {"-5": -5, "10": 10, "0": 0}, NO_WHOLE),
        (number("n", "A.", least=-1.5, most=9), {"-1.5": -1.5, "9": 9.0, "0.25": 0.25}, NO_NUMBER),
        (text("n", "A.", pattern="[a-z]{2,3}"), {"ab": "ab"}, ("a", "abcd", "ab\n", "", "AB")),
        (text("n", "A.", pattern="[a-z]{2}", default=""), {"": "", "ab": "ab"}, ("a", "ab\n")),
        (text("n", "A."), {"ä b": "ä b", "x" * 512: "x" * 512}, ("", "\0", "a\x7f", "x" * 513, "\ud800")),
        (identifier("n", "A."), {"a-B_9": "a-B_9"}, ("a.b", "", "a\n", "ä", "x" * 65)),
        (WORDS, {"name": "name"}, ("Name", "", "name,age")),
        (flag("n", "A."), {"true": True, "false": False}, ("1", "True", "")),
    ],
)
def test_parameters_read_what_they_say(parameter, good, bad):
    assert {given: parameter.parse(given) for given in good} == good
    for given in bad:
        with pytest.raises(Problem, match=f"{parameter.name} must be"):
            parameter.parse(given)


@pytest.fixture
async def aiohttp_served():
    """Serves one route, asks once; the answer's status and JSON."""

    async def ask(route: web.RouteDef, method: str, path: str, body: bytes) -> tuple[int, Any]:
        app = web.Application(middlewares=[answer_errors])
        app.add_routes([route])
        async with (
            TestClient(TestServer(app)) as client,
            client.request(method, URL(path, encoded=True), data=body) as answer,
        ):
            return answer.status, await answer.json()

    return ask


def _resolved(answer: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in answer:
        return answer
    return DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]


def _values(tree: Any, wanted: str) -> Iterator[str]:
    """Every text that is the value of a key."""
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    if isinstance(tree, dict) and isinstance(tree.get(wanted), str):
        yield tree[wanted]
    for branch in branches:
        yield from _values(branch, wanted)


def _endless(schema: Any, where: str, seen: set[str]) -> Iterator[str]:
    """Where a schema has whole numbers without bounds."""
    if isinstance(schema, list):
        for each in schema:
            yield from _endless(each, where, seen)
    if not isinstance(schema, dict):
        return
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name and name not in seen:
        seen.add(name)
        yield from _endless(DOCUMENT["components"]["schemas"][name], name, seen)
    if schema.get("type") == "integer" and not {"minimum", "maximum"} <= set(schema):
        yield where
    for key, value in schema.items():
        yield from _endless(value, f"{where}.{key}", seen)
