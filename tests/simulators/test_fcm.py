"""The FCM simulator, held to what firebase-admin's own client expects of the real service."""

import asyncio
import base64
import json
import time
import warnings
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import aiohttp
import firebase_admin
import pytest
import requests
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from firebase_admin import credentials, exceptions, messaging
from hypothesis import given
from hypothesis import strategies as st

from simulators.fcm import FcmServerSettings
from simulators.fcm_message import BadAddress, BadMessage, TooBig, read_request
from simulators.fcm_oauth import AUDIENCE, GRANT_TYPE, write_service_account
from simulators.fcm_process import FcmProcess
from simulators.fcm_records import LineLog

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"


@pytest.fixture(scope="module")
def fcm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FcmProcess]:
    with FcmProcess(tmp_path_factory.mktemp("fcm")) as process:
        process.call("/sim/register", [{"value": "phone", "kind": "fid"}, {"value": "old-phone"}])
        yield process


@pytest.fixture(autouse=True)
def no_faults(fcm: FcmProcess) -> None:
    fcm.call("/sim/faults", {"faults": []})


@pytest.fixture(scope="module")
def app(fcm: FcmProcess) -> Iterator[firebase_admin.App]:
    """The real client, redirected."""
    certificate = credentials.Certificate(fcm.where.service_account)
    # It would look up a regional boundary of the account at Google's.
    certificate.get_credential()._is_regional_access_boundary_lookup_required = lambda: False
    opened = firebase_admin.initialize_app(certificate, name="contract")
    service = messaging._get_messaging_service(opened)
    service._fcm_url = fcm.where.send_url
    service._client.session.mount("http://", requests.adapters.HTTPAdapter(max_retries=0))
    yield opened
    firebase_admin.delete_app(opened)


def order(fcm: FcmProcess, kind: str, **details: Any) -> None:
    fcm.call("/sim/faults", {"faults": [{"kind": kind, **details}]})


# firebase-admin's own client ----------------------------------------------------------------------------
def test_firebase_admin_sends_to_both_kinds_of_address(fcm: FcmProcess, app: firebase_admin.App) -> None:
    name = messaging.send(messaging.Message(fid="phone", data={"push_id": "by-fid"}), app=app)
    assert name.startswith("projects/footfall-demo/messages/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = messaging.Message(token="old-phone", data={"push_id": "by-token"})
    assert messaging.send(old, app=app) != name
    logged = {line["push_id"]: (line["kind"], line["value"]) for line in fcm.call("/sim/messages")}
    assert logged["by-fid"] == ("fid", "phone")
    assert logged["by-token"] == ("token", "old-phone")


def test_a_dry_run_is_not_delivered(fcm: FcmProcess, app: firebase_admin.App) -> None:
    before = fcm.call("/sim/stats")["accepted"]
    assert "fake_message_id" in messaging.send(messaging.Message(fid="phone"), dry_run=True, app=app)
    assert fcm.call("/sim/stats")["accepted"] == before


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("unregistered", messaging.UnregisteredError),
        ("not_found", exceptions.NotFoundError),
        ("sender_id_mismatch", messaging.SenderIdMismatchError),
        ("quota_exceeded", messaging.QuotaExceededError),
        ("third_party_auth", messaging.ThirdPartyAuthError),
        ("unauthenticated", exceptions.UnauthenticatedError),
        ("permission_denied", exceptions.PermissionDeniedError),
        ("unavailable", exceptions.UnavailableError),
        ("internal", exceptions.InternalError),
        ("invalid_argument", exceptions.InvalidArgumentError),
        ("invalid_token", exceptions.InvalidArgumentError),
        ("bad_gateway", exceptions.UnknownError),
        ("bad_gateway_delivered", exceptions.UnknownError),
        ("dropped", exceptions.UnavailableError),
        ("dropped_delivered", exceptions.UnavailableError),
    ],
)
def test_each_fault_raises_what_the_real_service_would(
    fcm: FcmProcess, app: firebase_admin.App, fault: str, expected: type[Exception]
) -> None:
    order(fcm, fault)
    with pytest.raises(expected) as caught:
        messaging.send(messaging.Message(fid="phone"), app=app)
    assert type(caught.value) is expected


def test_retry_after_reaches_the_client(fcm: FcmProcess, app: firebase_admin.App) -> None:
    order(fcm, "quota_exceeded", retry_after_s=77)
    with pytest.raises(messaging.QuotaExceededError) as caught:
        messaging.send(messaging.Message(fid="phone"), app=app)
    assert caught.value.http_response.headers["Retry-After"] == "77"


def test_an_address_that_was_removed_is_unregistered(fcm: FcmProcess, app: firebase_admin.App) -> None:
    fcm.call("/sim/register", {"value": "short-lived", "kind": "fid"})
    messaging.send(messaging.Message(fid="short-lived"), app=app)
    fcm.call("/sim/unregister", {"value": "short-lived", "kind": "fid"})
    with pytest.raises(messaging.UnregisteredError):
        messaging.send(messaging.Message(fid="short-lived"), app=app)


def test_a_fault_is_counted_and_aimed(fcm: FcmProcess, app: firebase_admin.App) -> None:
    fcm.call("/sim/register", {"value": "other", "kind": "fid"})
    order(fcm, "unavailable", count=1, value="phone")
    messaging.send(messaging.Message(fid="other"), app=app)
    with pytest.raises(exceptions.UnavailableError):
        messaging.send(messaging.Message(fid="phone"), app=app)
    messaging.send(messaging.Message(fid="phone"), app=app)


# OAuth --------------------------------------------------------------------------------------------------
def account(fcm: FcmProcess) -> dict[str, Any]:
    return json.loads(Path(fcm.where.service_account).read_bytes())


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def assertion(fcm: FcmProcess, key: rsa.RSAPrivateKey | None = None, **changes: Any) -> str:
    about, now = account(fcm), int(time.time())
    claims = {"iss": about["client_email"], "aud": AUDIENCE, "scope": SCOPE, "iat": now, "exp": now + 3600}
    kid = changes.pop("kid", about["private_key_id"])
    alg = changes.pop("alg", "RS256")
    text = f"{part({'alg': alg, 'kid': kid})}.{part(claims | changes)}"
    signer = key or serialization.load_pem_private_key(about["private_key"].encode(), None)
    signature = signer.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())  # type: ignore[union-attr]
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    try:
        answer: HTTPResponse = urlopen(Request(url, body, headers or {}), timeout=10)  # noqa: S310 - our own
    except HTTPError as error:
        return error.code, json.loads(error.read())
    return answer.status, json.loads(answer.read())


def ask_token(fcm: FcmProcess, text: str, grant: str = GRANT_TYPE) -> tuple[int, Any]:
    form = urlencode({"grant_type": grant, "assertion": text}).encode()
    return post(f"{fcm.where.url}/token", form)


def test_a_good_assertion_gets_a_token(fcm: FcmProcess) -> None:
    status, body = ask_token(fcm, assertion(fcm))
    assert status == 200
    assert body["expires_in"] == 3600
    assert send_raw(fcm, {"message": {"fid": "phone"}}, body["access_token"])[0] == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "mallory@example.com"},
        {"aud": "http://127.0.0.1/token"},
        {"scope": "https://www.googleapis.com/auth/datastore"},
        {"exp": int(time.time()) - 10, "iat": int(time.time()) - 3000},
        {"exp": int(time.time()) + 90_000},
        {"iat": int(time.time()) + 3000, "exp": int(time.time()) + 6000},
        {"iat": "now"},
        {"kid": "another"},
        {"alg": "none"},
        {"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)},
    ],
    ids=",".join,
)
def test_bad_assertions_are_refused(fcm: FcmProcess, changes: dict[str, Any]) -> None:
    status, body = ask_token(fcm, assertion(fcm, **dict(changes)))
    assert (status, body["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "é.é.é", f"{part([1])}.{part({})}.AA"])
def test_garbage_is_no_assertion(fcm: FcmProcess, text: str) -> None:
    assert ask_token(fcm, text)[0] == 400


def test_another_grant_is_refused(fcm: FcmProcess) -> None:
    assert ask_token(fcm, assertion(fcm), "password")[0] == 400


def test_tokens_expire(tmp_path: Path) -> None:
    with FcmProcess(tmp_path, FcmServerSettings(token_life_s=0)) as fcm:
        _, body = ask_token(fcm, assertion(fcm))
        assert send_raw(fcm, {"message": {"fid": "phone"}}, body["access_token"])[0] == 401


@pytest.mark.parametrize("token", ["", "ya29", "ya29.9999999999.forged", "ya29.x.y"])
def test_without_a_true_token_nothing_is_read(fcm: FcmProcess, token: str) -> None:
    status, body = send_raw(fcm, {"message": {"fid": "phone"}}, token)
    assert (status, body["error"]["status"]) == (401, "UNAUTHENTICATED")


# Messages -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def token(fcm: FcmProcess) -> str:
    return str(ask_token(fcm, assertion(fcm))[1]["access_token"])


def send_raw(fcm: FcmProcess, body: Any, token: str, url: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return post(url or fcm.where.send_url, json.dumps(body).encode(), headers)


def test_another_project_is_not_ours(fcm: FcmProcess, token: str) -> None:
    url = fcm.where.send_url.replace("footfall-demo", "somebody-elses")
    status, body = send_raw(fcm, {"message": {"fid": "phone"}}, token, url)
    assert (status, body["error"]["status"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "message"),
        ({"fid": "phone", "token": "old-phone"}, "message"),
        ({"fid": "phone", "colour": "red"}, "message"),
        ({"fid": 7}, "message.fid"),
        ({"fid": "phone", "data": {"a": 1}}, "message.data[...]"),
        ({"fid": "phone", "data": {"from": "x"}}, "message.data"),
        ({"fid": "phone", "data": {"gcm.x": "x"}}, "message.data"),
        ({"fid": "phone", "android": {"ttl": 60}}, "message.android.ttl"),
        ({"fid": "phone", "android": {"ttl": "60"}}, "message.android.ttl"),
        ({"fid": "phone", "android": {"ttl": "2419201s"}}, "message.android.ttl"),
        ({"fid": "phone", "android": {"priority": "urgent"}}, "message.android.priority"),
        ({"fid": "phone", "android": {"notification": {"tags": "x"}}}, "message.android.notification"),
        ({"fid": "phone", "notification": {"image": "coat.jpg"}}, "message.notification.image"),
        ({"fid": "phone", "fcm_options": {"analytics_label": "a b"}}, "message.fcm_options.analytics_label"),
        (
            {"fid": "phone", "apns": {"headers": {"apns-priority": "7"}}},
            "message.apns.headers[apns-priority]",
        ),
        (
            {"fid": "phone", "apns": {"headers": {"apns-expiration": "soon"}}},
            "message.apns.headers[apns-expiration]",
        ),
        (
            {"fid": "phone", "apns": {"headers": {"apns-collapse-id": "x" * 65}}},
            "message.apns.headers[apns-collapse-id]",
        ),
        ({"fid": "phone", "apns": {"payload": {"aps": "hello"}}}, "message.apns.payload.aps"),
        ({"fid": "phone", "webpush": {"headers": {"Urgency": "now"}}}, "message.webpush.headers[Urgency]"),
        ({"fid": "phone", "webpush": {"headers": {"Topic": "a b"}}}, "message.webpush.headers[Topic]"),
        (
            {"fid": "phone", "webpush": {"fcm_options": {"link": "http://x"}}},
            "message.webpush.fcm_options.link",
        ),
    ],
)
def test_bad_fields_are_named(fcm: FcmProcess, token: str, message: dict[str, Any], field: str) -> None:
    status, body = send_raw(fcm, {"message": message}, token)
    assert (status, body["error"]["status"]) == (400, "INVALID_ARGUMENT")
    (detail,) = body["error"]["details"]
    assert detail["@type"].endswith("google.rpc.BadRequest")
    assert field in [violation["field"] for violation in detail["fieldViolations"]]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"fid": "phone", "data": {"a": "x" * 4096}}, "too big"),
        ({"fid": "no phone has\nsuch a name"}, "registration token"),
    ],
)
def test_size_and_address_are_fcm_errors(
    fcm: FcmProcess, token: str, message: dict[str, Any], text: str
) -> None:
    status, body = send_raw(fcm, {"message": message}, token)
    assert status == 400
    assert text in body["error"]["message"]
    assert body["error"]["details"][0]["errorCode"] == "INVALID_ARGUMENT"


def test_a_device_has_a_limit_a_minute(tmp_path: Path) -> None:
    with FcmProcess(tmp_path, FcmServerSettings(per_device_per_minute=2)) as fcm:
        fcm.call("/sim/register", {"value": "phone", "kind": "fid"})
        _, body = ask_token(fcm, assertion(fcm))
        statuses = [send_raw(fcm, {"message": {"fid": "phone"}}, body["access_token"])[0] for _ in range(6)]
    assert 429 in statuses
    assert statuses.count(200) <= 4, "two a minute, and the minute may turn once"


@given(st.binary(max_size=200) | st.builds(lambda text: text.encode(), st.text()))
def test_no_body_breaks_the_reader(body: bytes) -> None:
    with pytest.raises((BadMessage, BadAddress, TooBig)):
        read_request(body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sim/register", b"{}"),
        ("/sim/register", b'{"value": "x", "kind": "mail"}'),
        ("/sim/faults", b'{"faults": [{"kind": "meteor"}]}'),
        ("/sim/faults", b'{"faults": [{"kind": "internal", "probability": 2}]}'),
    ],
)
def test_orders_are_checked(fcm: FcmProcess, path: str, body: bytes) -> None:
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(f"{fcm.where.url}{path}", body), timeout=10)  # noqa: S310 - our own
    assert caught.value.code == 400


# What lasts ---------------------------------------------------------------------------------------------
async def test_phones_hear_everything_and_miss_nothing_over_a_kill(tmp_path: Path) -> None:
    process = await asyncio.to_thread(FcmProcess(tmp_path).__enter__)
    try:
        process.call("/sim/register", {"value": "phone", "kind": "fid"})
        token = ask_token(process, assertion(process))[1]["access_token"]

        async def send(push_id: str) -> int:
            message = {"message": {"fid": "phone", "data": {"push_id": push_id}}}
            return (await asyncio.to_thread(send_raw, process, message, token))[0]

        assert await send("before") == 200
        async with aiohttp.ClientSession() as web:
            url = f"{process.where.url}/sim/deliveries"
            async with web.ws_connect(f"{url}?since=0") as phone, web.ws_connect(url) as newcomer:
                first = await phone.receive_json(timeout=5)
                assert (first["line"], first["push_id"], first["value"]) == (1, "before", "phone")
                assert await send("now") == 200
                assert (await phone.receive_json(timeout=5))["push_id"] == "now"
                assert (await newcomer.receive_json(timeout=5))["push_id"] == "now"
            await asyncio.to_thread(process.kill)
            await asyncio.to_thread(process.start)
            assert await send("after") == 200, "key, token, port and address outlive the process"
            async with web.ws_connect(f"{url}?since=1") as phone:
                heard = [(await phone.receive_json(timeout=5))["push_id"] for _ in range(2)]
        assert heard == ["now", "after"]
        logged = process.call("/sim/messages")
        assert [line["line"] for line in logged] == [1, 2, 3]
        assert logged[0]["accepted_at"] == pytest.approx(time.time() * 1000, abs=60_000)
    finally:
        await asyncio.to_thread(process.kill)


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n{"a":')
    log = LineLog(path)
    assert log.append(b'{"a":3}') == 3
    assert log.after(0) == [b'{"a":1}', b'{"a":2}', b'{"a":3}']
    assert log.after(1, most=1) == [b'{"a":2}']
    assert log.after(3) == log.after(99) == []
    log.close()
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'


def test_the_key_is_kept_and_private(tmp_path: Path) -> None:
    path = write_service_account(tmp_path, "http://127.0.0.1:1/token", "p")
    first = json.loads(path.read_bytes())
    write_service_account(tmp_path, "http://127.0.0.1:2/token", "p")
    second = json.loads(path.read_bytes())
    assert second["private_key"] == first["private_key"]
    assert second["token_uri"] == "http://127.0.0.1:2/token"
    assert path.stat().st_mode & 0o077 == 0
    credentials.Certificate(str(path))
