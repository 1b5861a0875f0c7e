"""The way to FCM against the simulator in its own process: every answer's outcome, OAuth, and a free loop."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import firebase_admin
import httpx
import pytest
from firebase_admin import exceptions, messaging
from google.auth.transport.requests import Request

from backend.push.fcm import (
    AccessTokens,
    FcmClient,
    FcmSettings,
    OAuthFailed,
    PushSetupError,
    open_fcm,
)
from backend.push.model import (
    Accepted,
    AddressVerdict,
    Claimed,
    PushContent,
    Refused,
    Rejected,
    Retry,
    Unknown,
)
from simulators.fcm import write_service_account
from simulators.fcm_process import FcmProcess

KEEP, DROP, QUARANTINE = AddressVerdict.KEEP, AddressVerdict.DROP, AddressVerdict.QUARANTINE
LAG_LIMIT_S = 0.05


@pytest.fixture(scope="module")
def fcm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FcmProcess]:
    with FcmProcess(tmp_path_factory.mktemp("fcm")) as process:
        process.call("/sim/register", [{"value": "phone", "kind": "fid"}, {"value": "old-phone"}])
        yield process


@pytest.fixture(autouse=True)
def no_faults(fcm: FcmProcess) -> None:
    fcm.call("/sim/faults", {"faults": []})


@pytest.fixture
async def client(fcm: FcmProcess) -> AsyncIterator[FcmClient]:
    async with open_fcm(settings(fcm)) as opened:
        yield opened


def settings(fcm: FcmProcess, **changes: Any) -> FcmSettings:
    values: dict[str, Any] = {"send_url": fcm.where.send_url, "timeout_s": 5.0}
    return FcmSettings(Path(fcm.where.service_account), **values | changes)


def push(value: str = "phone", kind: str = "fid", push_id: str = "p1", body: str = "20 % off") -> Claimed:
    return Claimed(
        push_id=push_id,
        decision_id=1,
        profile_id="anna",
        address_kind=kind,  # type: ignore[arg-type]
        address_value=value,
        platform="android",
        content=PushContent(
            title="Coats", body=body, campaign_id="coats", expires_at=int(time.time() * 1000) + 600_000
        ),
        owner="me",
        attempt=1,
        sending_at=0,
    )


def order(fcm: FcmProcess, kind: str, **details: Any) -> None:
    fcm.call("/sim/faults", {"faults": [{"kind": kind, **details}]})


def accepted(fcm: FcmProcess, push_id: str) -> int:
    lines: list[Any] = []
    while page := fcm.call(f"/sim/messages?since={len(lines)}"):
        lines += page
    return sum(line["push_id"] == push_id for line in lines)


@pytest.mark.parametrize(("value", "kind"), [("phone", "fid"), ("old-phone", "token")])
async def test_a_push_is_accepted_once_under_a_name(
    fcm: FcmProcess, client: FcmClient, value: str, kind: str
) -> None:
    result = await client.send(push(value, kind, f"accepted-{kind}"))
    assert isinstance(result, Accepted)
    assert result.name.startswith("projects/footfall-demo/messages/")
    assert accepted(fcm, f"accepted-{kind}") == 1


@pytest.mark.parametrize(
    ("fault", "expected", "verdict_or_wait"),
    [
        ("unregistered", Rejected, DROP),
        ("not_found", Rejected, KEEP),
        ("sender_id_mismatch", Rejected, QUARANTINE),
        ("invalid_token", Rejected, DROP),
        ("invalid_argument", Rejected, KEEP),
        ("quota_exceeded", Retry, 75),
        ("unavailable", Retry, 75),
        ("internal", Retry, 75),
        ("third_party_auth", Refused, "platform"),
        ("unauthenticated", Refused, "project"),
        ("permission_denied", Refused, "project"),
        ("bad_gateway", Unknown, None),
        ("bad_gateway_delivered", Unknown, None),
        ("dropped", Unknown, None),
        ("dropped_delivered", Unknown, None),
        ("not_json_delivered", Unknown, None),
    ],
)
async def test_every_row_of_the_error_table(
    fcm: FcmProcess, client: FcmClient, fault: str, expected: type, verdict_or_wait: Any
) -> None:
    await client.send(push(push_id="warm-up"))  # OAuth is not this test's subject
    order(fcm, fault, retry_after_s=75)
    result = await client.send(push(push_id=fault))
    assert isinstance(result, expected), result
    told = {Rejected: "address", Retry: "after_s", Refused: "scope"}.get(expected)
    if told:
        assert getattr(result, told) == verdict_or_wait
    assert accepted(fcm, fault) == fault.endswith("_delivered"), "never sent a second time behind our back"


@pytest.mark.parametrize("fault", ["quota_exceeded", "unavailable", "internal"])
async def test_a_date_says_as_well_how_long_to_wait(fcm: FcmProcess, client: FcmClient, fault: str) -> None:
    await client.send(push(push_id="warm-up"))
    order(fcm, fault, retry_after_s=75, retry_after_form="date")
    result = await client.send(push(push_id=fault))
    assert isinstance(result, Retry)
    assert 60 < result.after_s <= 75


@pytest.mark.parametrize("fault", ["silent", "silent_delivered"])
async def test_a_silent_service_is_in_doubt_after_the_time_limit(fcm: FcmProcess, fault: str) -> None:
    async with open_fcm(settings(fcm, timeout_s=0.5)) as client:
        await client.send(push(push_id="warm-up"))
        order(fcm, fault)
        result = await client.send(push(push_id=fault))
    assert isinstance(result, Unknown)
    assert result.reason.startswith("DeadlineExceeded")
    assert accepted(fcm, fault) == fault.endswith("_delivered")


async def test_where_nobody_listens_nothing_was_sent(fcm: FcmProcess) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/send"
        async with open_fcm(settings(fcm, send_url=url)) as client:
            assert isinstance(await client.send(push()), Retry)


async def test_an_unknown_phone_is_dropped(client: FcmClient) -> None:
    assert await client.send(push("never-registered")) == Rejected(
        "Unregistered: Requested entity was not found.", DROP
    )


async def test_content_that_cannot_be_sent_is_rejected_without_asking(
    fcm: FcmProcess, client: FcmClient
) -> None:
    before = fcm.call("/sim/stats")["answers"]
    result = await client.send(push(body="x" * 5000))
    assert isinstance(result, Rejected)
    assert "4096" in result.reason
    assert fcm.call("/sim/stats")["answers"] == before


async def test_validate_only_delivers_nothing(fcm: FcmProcess) -> None:
    async with open_fcm(settings(fcm, validate_only=True)) as client:
        assert isinstance(await client.send(push(push_id="dry")), Accepted)
    assert accepted(fcm, "dry") == 0


async def hostile(answer: bytes) -> AsyncIterator[str]:
    """A server that says `answer` to whatever comes."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/send"


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (b"404 Not Found", b'{"error": "gone"}', Rejected("NotFound: Unexpected HTTP", KEEP)),
        (b"404 Not Found", b'{"error": {"details": [1, {"errorCode": []}]}}', Rejected("NotFound", KEEP)),
        (b"503 Unavailable", b"\xff\xfe<html>", Retry("Unavailable")),
        (b"503 Unavailable", b'{"error": {"status": []}}', Retry("Unavailable")),
        (b"400 Bad Request", b'{"error": {"status": "INVALID_ARGUMENT", "details": {}}}', Rejected("", KEEP)),
        (b"302 Found\r\nLocation: http://127.0.0.1:9/", b"", Unknown("")),
        (b"200 OK", b'{"name": null', Unknown("")),
        (b"200 OK", b"[]", Unknown("")),
        (b"500 Error", b"x" * 200_000, Retry("Internal")),
        (b"What is this", b"", Unknown("")),
    ],
)
async def test_hostile_answers_have_an_outcome_too(
    fcm: FcmProcess, head: bytes, body: bytes, expected: Any
) -> None:
    async for url in hostile(b"HTTP/1.1 " + head + b"\r\nConnection: close\r\n\r\n" + body):
        async with open_fcm(settings(fcm, send_url=url)) as client:
            result = await client.send(push())
    assert type(result) is type(expected), result
    if isinstance(result, Rejected):
        assert result.address is expected.address


# OAuth --------------------------------------------------------------------------------------------------
async def test_many_sends_share_one_token(fcm: FcmProcess) -> None:
    before = fcm.call("/sim/stats")["token_requests"]
    async with open_fcm(settings(fcm)) as client:
        results = await asyncio.gather(*(client.send(push(push_id="many")) for _ in range(20)))
    assert all(isinstance(result, Accepted) for result in results)
    assert fcm.call("/sim/stats")["token_requests"] == before + 1


@pytest.mark.parametrize("fault", ["oauth_refused", "oauth_not_json"])
async def test_no_token_no_send_and_the_queue_keeps_the_push(fcm: FcmProcess, fault: str) -> None:
    order(fcm, fault)  # before the client is there, which asks for its token at once
    async with open_fcm(settings(fcm)) as client:
        result = await client.send(push(push_id=fault))
    assert isinstance(result, Refused)
    assert result.scope == "project"
    assert accepted(fcm, fault) == 0


async def test_a_revoked_token_is_replaced_by_the_next_send(fcm: FcmProcess, client: FcmClient) -> None:
    await client.send(push())
    order(fcm, "unauthenticated", count=1)
    before = fcm.call("/sim/stats")["token_requests"]
    assert isinstance(await client.send(push()), Refused)
    assert isinstance(await client.send(push()), Accepted)
    assert fcm.call("/sim/stats")["token_requests"] == before + 1


class Credential:
    """A credential whose refresh does what the test says."""

    def __init__(self, refresh: Callable[[int], None], life_s: float = 3600.0) -> None:
        self.token: str | None = None
        self.expiry: Any = None
        self.refreshes = 0
        self._act = refresh
        self._life_s = life_s

    def refresh(self, _: object) -> None:
        self.refreshes += 1
        self._act(self.refreshes)
        self.token = f"token-{self.refreshes}"
        self.expiry = (datetime.now(UTC) + timedelta(seconds=self._life_s)).replace(tzinfo=None)


async def test_a_token_is_renewed_before_it_expires_and_used_meanwhile() -> None:
    ahead = [0.0]
    gate = threading.Event()

    def refresh(number: int) -> None:
        if number > 1:
            gate.wait(5)

    credential = Credential(refresh)
    tokens = AccessTokens(credential, clock=lambda: time.time() + ahead[0])
    assert await tokens.current() == "token-1"
    ahead[0] = 3600 - 226
    assert await tokens.current() == "token-1"
    assert credential.refreshes == 1, "3 min 46 s before the end it is not yet time"
    ahead[0] = 3600 - 224
    assert [await tokens.current() for _ in range(3)] == ["token-1"] * 3, "nobody waits for the renewal"
    gate.set()
    await until(lambda: tokens._token == "token-2")
    assert credential.refreshes == 2
    tokens.close()


async def test_a_failing_endpoint_is_not_asked_with_every_message() -> None:
    def refuse(_: int) -> None:
        raise ValueError("no")

    credential = Credential(refuse)
    tokens = AccessTokens(credential)
    for _ in range(10):
        with pytest.raises(OAuthFailed):
            await tokens.current()
    assert credential.refreshes == 1
    tokens.close()


async def test_a_blocking_token_endpoint_does_not_stall_the_loop(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        account = write_service_account(tmp_path, url, "footfall-demo")
        async with open_fcm(FcmSettings(account, send_url="http://127.0.0.1:9/send")) as client:
            client.tokens.patience_s = 0.5

            async def send_fifty() -> None:
                results = await asyncio.gather(*(client.send(push()) for _ in range(50)))
                assert all(isinstance(result, Refused) for result in results)

            try:
                assert await least_lag(send_fifty) < LAG_LIMIT_S
            finally:
                silent.close()  # the refreshing thread then ends at once, and does not hold up the tests


async def test_the_token_endpoint_under_load_does_not_stall_the_loop(fcm: FcmProcess) -> None:
    order(fcm, "oauth_delay", delay_ms=400)

    async def first_send() -> None:
        async with open_fcm(settings(fcm)) as client:
            assert isinstance(await client.send(push()), Accepted)

    assert await least_lag(first_send) < LAG_LIMIT_S


@asynccontextmanager
async def loop_lag() -> AsyncIterator[list[float]]:
    """How late a task that sleeps 5 ms wakes up, in seconds."""
    late = [0.0]

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - before - 0.005)

    watching = asyncio.create_task(watch())
    try:
        yield late
    finally:
        watching.cancel()


async def least_lag(work: Callable[[], Awaitable[None]]) -> float:
    """The loop's longest stall in the best of five runs: a busy machine stalls some, our fault would all."""
    runs = []
    for _ in range(5):
        async with loop_lag() as lag:
            await work()
        runs.append(max(lag))
        if runs[-1] < LAG_LIMIT_S:
            break
    return min(runs)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the conditions are other people's plain values
            await asyncio.sleep(0.01)


# Set-up, and firebase-admin's private names -------------------------------------------------------------
@pytest.mark.parametrize("content", [None, "", "{}", '{"type": "service_account"}'])
async def test_a_bad_service_account_says_which_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PushSetupError, match=r"key\.json"):
        async with open_fcm(FcmSettings(path)):
            pass


async def test_a_senseless_send_url_is_refused_at_the_start(fcm: FcmProcess) -> None:
    with pytest.raises(PushSetupError, match="send_url"):
        async with open_fcm(settings(fcm, send_url="fcm.example")):
            pass


async def test_without_an_override_the_address_is_googles(fcm: FcmProcess) -> None:
    async with open_fcm(settings(fcm)) as client:
        assert client.service._fcm_url == (
            "https://fcm.googleapis.com/v1/projects/footfall-demo/messages:send"
        )


def test_the_private_names_we_use_exist_in_the_pinned_version() -> None:
    assert firebase_admin.__version__ == "7.7.0"
    service = messaging._MessagingService
    assert callable(messaging._get_messaging_service)
    assert callable(service._handle_fcm_httpx_error)
    request = httpx.Request("POST", "http://x")
    error = httpx.HTTPStatusError("", request=request, response=httpx.Response(404, request=request))
    built = service._handle_fcm_httpx_error(None, error)  # type: ignore[arg-type]
    assert isinstance(built, exceptions.NotFoundError)
    assert built.http_response.status_code == 404
    refused = service._handle_fcm_httpx_error(None, httpx.ConnectError("no"))  # type: ignore[arg-type]
    assert isinstance(refused, exceptions.UnavailableError)
    assert callable(Request())
