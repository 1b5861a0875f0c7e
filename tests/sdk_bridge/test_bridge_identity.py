"""Proof of who somebody is: external ids, Firebase ID tokens, link tokens; and what forgers try."""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from backend.profiles.links import LinkSeal
from sdk_bridge.server.external_ids import external_hash, external_ids_of, one_spelling
from sdk_bridge.server.id_tokens import (
    LEAST_LIFE_MS,
    MAX_TOKENS,
    CertificatesUnavailable,
    FirebaseTokens,
    IdClaims,
    tokens_in,
)
from sdk_bridge.server.proof import user_hash
from sdk_bridge.wire.app_events import ExternalId, Link
from simulators.bridge_alone import SECRET, SOURCES, RunningBridge, running_bridge

NOW = 1_750_075_200_000
PROJECT = "shop-app"


async def post(
    http: aiohttp.ClientSession, path: str, body: Any, key: str = "app-key"
) -> tuple[int, dict[str, Any], Any]:
    async with http.post(path, data=json.dumps(body), headers=RunningBridge.basic(key)) as answer:
        return answer.status, dict(answer.headers), await answer.json()


# What else a person is known by ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "spelled"),
    [
        ("email", "  Anna@Example.ORG ", "anna@example.org"),
        ("email", "anna@localhost", None),
        ("email", "no address", None),
        ("email", "a" * 250 + "@x.at", None),
        ("phone", "+43 (660) 123 4567", "+436601234567"),
        ("phone", "0660 1234567", None),  # of which country?
        ("phone", "+1", None),
        ("loyalty_id", " C-77 ", "C-77"),
        ("loyalty_id", "C\x0077", None),
    ],
)
def test_everybody_is_compared_in_one_spelling(kind: str, text: str, spelled: str | None) -> None:
    assert one_spelling(kind, text) == spelled


MAIL, CARD = ExternalId("email", "anna@x.at"), ExternalId("loyalty_id", "C1")
CONFIRMED = {"email": "Anna@x.at", "email_verified": True}
NAMED = {"type": "email", "id": "anna@x.at"}
SIGNED = {"type": "email", "id": "Anna@x.at", "hash": external_hash(SECRET, "email", "Anna@x.at")}


@pytest.mark.parametrize(
    ("source", "traits", "named", "found"),
    [
        ("server-key", {"email": "anna@x.at"}, [], []),  # typed by somebody, confirmed by nobody
        ("server-key", CONFIRMED, [], [MAIL]),
        ("server-key", {**CONFIRMED, "email_verified": "yes"}, [], []),
        ("server-key", {"loyalty_id": "C1"}, [], [CARD]),
        ("server-key", {}, [NAMED, {"type": "loyaltyId", "id": "C1"}], [MAIL, CARD]),
        ("server-key", {}, [{"type": "ios.idfa", "id": "x"}, {"type": "email"}, "x", {"id": "x"}], []),
        ("open-key", CONFIRMED, [], [MAIL]),
        ("web-key", CONFIRMED, [], []),
        ("web-key", {"loyalty_id": "C1"}, [{"type": "loyalty_id", "id": "C1"}], []),
        ("web-key", {}, [SIGNED], [MAIL]),
        ("web-key", {}, [{**SIGNED, "type": "phone"}], []),
        ("web-key", {}, [{**SIGNED, "hash": user_hash(SECRET, "email\0Anna@x.at")}], [MAIL]),
        ("web-key", {}, [{**SIGNED, "hash": user_hash(SECRET, "Anna@x.at")}], []),
        ("web-key", {}, "anna@x.at", []),
    ],
)  # fmt: skip
def test_only_what_the_shop_vouches_for_identifies(source: str, traits: Any, named: Any, found: Any) -> None:
    assert external_ids_of(SOURCES[source], traits, {"externalIds": named}, None) == found


def test_an_id_token_vouches_for_what_google_verified() -> None:
    claims = IdClaims("u1", "Anna@x.at", "+436601234567")
    assert external_ids_of(SOURCES["app-key"], {}, {}, claims) == [MAIL, ExternalId("phone", "+436601234567")]


async def test_hashes_and_tokens_are_not_kept() -> None:
    async with running_bridge() as bridge, aiohttp.ClientSession(bridge.url) as http:
        call = {
            "type": "track", "event": "x", "anonymousId": "a1", "messageId": "m1",
            "context": {"externalIds": [SIGNED], "userHash": "secret", "idToken": "e.y.J"},
        }  # fmt: skip
        assert (await post(http, "/v1/track", call, "web-key"))[0] == 200
        kept = bridge.journal.of("m1")
        assert kept.external_ids == [MAIL]
        assert kept.context == {"externalIds": [{"type": "email", "id": "Anna@x.at"}]}


async def test_a_till_knows_only_the_card() -> None:
    async with running_bridge() as bridge, aiohttp.ClientSession(bridge.url) as http:
        call = {
            "event": "Order Completed",
            "messageId": "m1",
            "context": {"externalIds": [{"type": "loyalty_id", "id": "C1"}]},
        }
        assert (await post(http, "/v1/track", call, "server-key"))[0] == 200
        assert bridge.journal.of("m1").external_ids == [CARD]
        assert (await post(http, "/v1/track", call, "web-key"))[0] == 400, (
            "from a page the card proves nothing"
        )


async def test_a_groups_address_is_not_a_members() -> None:
    async with running_bridge() as bridge, aiohttp.ClientSession(bridge.url) as http:
        call = {"groupId": "g1", "userId": "u1", "messageId": "m1", "traits": CONFIRMED}
        assert (await post(http, "/v1/group", call, "server-key"))[0] == 200
        assert bridge.journal.of("m1").external_ids == []


# Firebase ID tokens ---------------------------------------------------------------------------------------


@dataclass
class Google:
    """Stands in for Google: keys, and the address where their certificates are."""

    keys: dict[str, rsa.RSAPrivateKey]
    url: str = ""
    shown: set[str] = field(default_factory=set)
    status: int = 200
    body: bytes | None = None
    max_age: int = 3600
    asked: int = 0

    def token(self, key_id: str = "k1", key: str = "k1", **said: Any) -> str:
        seconds = NOW // 1000
        claims = {
            "iss": f"https://securetoken.google.com/{PROJECT}", "aud": PROJECT, "sub": "u1",
            "iat": seconds - 60, "exp": seconds + 3540, "auth_time": seconds - 60, **said,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.keys[key], "RS256", headers={"kid": key_id})

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(0)
        shown = {name: certificate(key) for name, key in self.keys.items() if name in self.shown}
        body = json.dumps(shown).encode() if self.body is None else self.body
        return web.Response(
            body=body, status=self.status, headers={"Cache-Control": f"public, max-age={self.max_age}"}
        )


def certificate(key: rsa.RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "securetoken")])
    start = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + datetime.timedelta(9999))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def keys() -> dict[str, rsa.RSAPrivateKey]:
    return {name: rsa.generate_private_key(65537, 2048) for name in ("k1", "k2", "forger")}


@pytest.fixture
async def google(keys: dict[str, rsa.RSAPrivateKey]) -> AsyncIterator[Google]:
    google = Google(keys, shown={"k1"})
    app = web.Application()
    app.router.add_get("/certificates", google.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    google.url = f"http://127.0.0.1:{runner.addresses[0][1]}/certificates"
    yield google
    await runner.cleanup()


@pytest.fixture
async def tokens(google: Google) -> AsyncIterator[FirebaseTokens]:
    async with aiohttp.ClientSession() as session:
        yield FirebaseTokens(PROJECT, lambda: session, google.url)


async def test_a_good_token_says_who_it_is(google: Google, tokens: FirebaseTokens) -> None:
    token = google.token(email="anna@x.at", email_verified=True, phone_number="+436601234567")
    assert await tokens.claims_of(token, NOW) == IdClaims("u1", "anna@x.at", "+436601234567")
    for _ in range(5):
        await tokens.claims_of(token, NOW)
        await tokens.claims_of(google.token(sub="u2"), NOW)
    assert google.asked == 1
    unverified = google.token(email="victim@x.at", email_verified=False)
    assert await tokens.claims_of(unverified, NOW) == IdClaims("u1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "forger"},
        {"aud": "other-app"},
        {"iss": "https://securetoken.google.com/other-app"},
        {"iss": None},
        {"exp": NOW // 1000 - 61},
        {"exp": None},
        {"iat": NOW // 1000 + 61},
        {"auth_time": NOW // 1000 + 61},
        {"sub": ""},
        {"sub": None},
        {"sub": "x" * 129},
        {"exp": "soon"},
    ],
    ids=str,
)
async def test_a_bad_token_proves_nothing(google: Google, tokens: FirebaseTokens, wrong: Any) -> None:
    assert await tokens.claims_of(google.token(**wrong), NOW) is None


@pytest.mark.parametrize("how", ["none", "HS256", "cut", "text"])
async def test_a_forged_token_proves_nothing(google: Google, tokens: FirebaseTokens, how: str) -> None:
    claims = jwt.decode(google.token(), options={"verify_signature": False})
    signed_by_nobody = jwt.api_jws.PyJWS().encode
    forged = {
        "none": jwt.encode(claims, None, "none", headers={"kid": "k1"}),
        "HS256": signed_by_nobody(json.dumps(claims).encode(), b"x" * 32, "HS256", headers={"kid": "k1"}),
        "cut": google.token()[:-4],
        "text": "a.b.c",
    }[how]  # fmt: skip
    assert await tokens.claims_of(forged, NOW) is None


async def test_a_token_expires_also_when_it_was_good_before(google: Google, tokens: FirebaseTokens) -> None:
    token = google.token()
    assert await tokens.claims_of(token, NOW) is not None
    assert await tokens.claims_of(token, NOW + 3_700_000) is None


async def test_keys_are_fetched_again_when_their_time_is_over_or_one_is_new(
    google: Google, tokens: FirebaseTokens
) -> None:
    await tokens.claims_of(google.token(), NOW)
    rotated = google.token("k2", "k2")
    assert await tokens.claims_of(rotated, NOW + 1) is None
    assert google.asked == 1, "an unknown key must not make us ask each time"
    google.shown = {"k2"}
    assert await tokens.claims_of(rotated, NOW + LEAST_LIFE_MS) is not None
    assert await tokens.claims_of(google.token(sub="u9"), NOW + LEAST_LIFE_MS) is None, "k1 was withdrawn"
    google.max_age = 120
    await tokens.claims_of(google.token("k2", "k2", sub="u3"), NOW + 3_599_000)
    asked = google.asked
    await tokens.claims_of(google.token("k2", "k2", sub="u4", exp=NOW // 1000 + 9999), NOW + 3_700_000)
    assert google.asked == asked + 1


@pytest.mark.parametrize(
    "broken",
    [{"status": 500}, {"body": b"{}"}, {"body": b"not json"}, {"body": b'{"k1": "no certificate"}'},
     {"body": b"[" * 70_000}],
    ids=["500", "none", "no json", "no certificate", "too much"],
)  # fmt: skip
async def test_certificates_that_cannot_be_had_are_a_fault_that_passes(
    google: Google, tokens: FirebaseTokens, broken: Any
) -> None:
    for name, value in broken.items():
        setattr(google, name, value)
    for _ in range(3):
        with pytest.raises(CertificatesUnavailable):
            await tokens.claims_of(google.token(), NOW)
    assert google.asked == 1, "no storm on an address that fails"
    google.status, google.body = 200, None
    assert await tokens.claims_of(google.token(), NOW + 1_000) is not None


async def test_many_at_once_ask_once(google: Google, tokens: FirebaseTokens) -> None:
    found = await asyncio.gather(*(tokens.claims_of(google.token(sub=f"u{n}"), NOW) for n in range(20)))
    assert all(found)
    assert google.asked == 1


def test_where_tokens_are_looked_for() -> None:
    assert tokens_in(b'{"batch":[{"context":{"idToken" : "a.b-_"}},{"idToken":"c.d"}]}') == ["a.b-_", "c.d"]
    assert tokens_in(b'{"idToken": 5, "idToken": "not a token!", "x": "idToken"}') == []
    many = b",".join(b'{"idToken":"t%d"}' % number for number in range(99))
    assert len(tokens_in(many)) == MAX_TOKENS


async def test_a_token_proves_the_user_over_http(google: Google, tokens: FirebaseTokens) -> None:
    good, forged = google.token(email="anna@x.at", email_verified=True), google.token(key="forger")
    async with (
        running_bridge(id_tokens=tokens, clock=lambda: NOW) as bridge,
        aiohttp.ClientSession(bridge.url) as http,
    ):
        calls = [
            {"userId": "u1", "idToken": good, "messageId": "own"},
            {"userId": "u1", "context": {"idToken": good}, "messageId": "in context"},
            {"anonymousId": "a1", "idToken": good, "messageId": "without user id"},
            {"userId": "u2", "idToken": good, "messageId": "of another"},
            {"userId": "u1", "idToken": forged, "messageId": "forged"},
        ]
        for call in calls:
            assert (await post(http, "/v1/identify", call))[0] == 200
        of_all = {"batch": [{"type": "track", "event": "x", "userId": "u1", "messageId": "batch"}]}
        assert (await post(http, "/v1/batch", {**of_all, "context": {"idToken": good}}))[0] == 200
        kept = {event.message_id: event for event in bridge.journal.events}
        proven = {name: (event.user_id, event.proven, event.external_ids) for name, event in kept.items()}
        assert proven == {
            "own": ("u1", True, [MAIL]),
            "in context": ("u1", True, [MAIL]),
            "without user id": ("u1", True, [MAIL]),
            "of another": ("u2", False, []),
            "forged": ("u1", False, []),
            "batch": ("u1", True, [MAIL]),
        }
        assert not any("idToken" in event.context for event in kept.values())


async def test_while_certificates_cannot_be_had_nothing_is_dropped(
    google: Google, tokens: FirebaseTokens
) -> None:
    google.status = 503
    async with (
        running_bridge(id_tokens=tokens, clock=lambda: NOW) as bridge,
        aiohttp.ClientSession(bridge.url) as http,
    ):
        status, headers, answer = await post(
            http, "/v1/identify", {"userId": "u1", "idToken": google.token()}
        )
        assert (status, answer["code"], headers["Retry-After"]) == (503, "certificates_unavailable", "2")
        assert (await post(http, "/v1/identify", {"userId": "u1", "messageId": "m"}))[0] == 200
        assert [event.message_id for event in bridge.journal.events] == ["m"]


# Link tokens ----------------------------------------------------------------------------------------------


@pytest.fixture
async def linking() -> AsyncIterator[tuple[RunningBridge, aiohttp.ClientSession, list[int]]]:
    now = [NOW]
    async with running_bridge(clock=lambda: now[0]) as bridge, aiohttp.ClientSession(bridge.url) as http:
        yield bridge, http, now


Linking = tuple[RunningBridge, aiohttp.ClientSession, list[int]]
APP = {"deviceId": "d1", "anonymousId": "app"}


async def asked(http: aiohttp.ClientSession, **more: Any) -> dict[str, Any]:
    status, _, answer = await post(http, "/v1/link", {"anonymousId": "web", **more}, "web-key")
    assert status == 200
    return answer


async def test_a_link_is_a_deep_link_and_a_code(linking: Linking) -> None:
    _, http, _ = linking
    answer = await asked(http)
    assert answer["url"] == f"footfall://link?token={answer['token']}"
    assert answer["svg"].startswith("<svg") and "<script" not in answer["svg"]
    assert answer["expiresAt"] == NOW + 600_000


async def test_redeeming_joins_visitor_account_and_app(linking: Linking) -> None:
    bridge, http, now = linking
    answer = await asked(http, userId="u1", userHash=user_hash(SECRET, "u1"))
    now[0] += 5_000
    status, _, _ = await post(http, "/v1/link/redeem", {**APP, "token": answer["token"], "platform": "ios"})
    assert status == 200
    (event,) = bridge.journal.events
    assert (event.kind, event.device_id, event.anonymous_id, event.user_id) == ("link", "d1", "app", None)
    assert (event.link.anonymous_id, event.link.user_id, event.link.source) == ("web", "u1", "site")
    assert (event.occurred_at, event.original_at, event.platform) == (NOW + 5_000, NOW, "ios")


async def test_an_unproven_user_is_not_in_the_token(linking: Linking) -> None:
    bridge, http, _ = linking
    answer = await asked(http, userId="victim")
    await post(http, "/v1/link/redeem", {**APP, "token": answer["token"]})
    assert bridge.journal.events[0].link.user_id is None


async def test_a_token_is_spent_once_but_an_app_may_repeat_itself(linking: Linking) -> None:
    bridge, http, _ = linking
    token = (await asked(http))["token"]
    for _ in range(2):
        assert (await post(http, "/v1/link/redeem", {**APP, "token": token}))[0] == 200
    status, _, answer = await post(http, "/v1/link/redeem", {"deviceId": "thief", "token": token})
    assert (status, answer["code"]) == (409, "used_link")
    assert len(bridge.journal.events) == 1


async def test_of_many_at_once_one_wins(linking: Linking) -> None:
    bridge, http, _ = linking
    token = (await asked(http))["token"]
    answers = await asyncio.gather(
        *(post(http, "/v1/link/redeem", {"deviceId": f"d{n}", "token": token}) for n in range(8))
    )
    assert sorted(status for status, _, _ in answers) == [200] + [409] * 7
    assert len(bridge.journal.events) == 1


def another_token() -> str:
    link = Link("n" * 22, "site", "web", NOW, NOW + 600_000, "victim")
    return LinkSeal(b"x" * 32).seal(link)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda token: another_token(), 400, "invalid_link"),
        (lambda token: token[:-2] + ("AA" if token[-2:] != "AA" else "BB"), 400, "invalid_link"),
        (lambda token: "A" + token[1:], 400, "invalid_link"),
        (lambda token: token.partition(".")[0], 400, "invalid_link"),
        (lambda token: "", 400, "invalid_request"),
        (lambda token: "é.ü", 400, "invalid_link"),
        (lambda token: token * 20, 400, "invalid_link"),
        (lambda token: "A" * 20_000, 400, "invalid_request"),
        (lambda token: 5, 400, "invalid_request"),
    ],
    ids=["forged", "signature", "content", "half", "empty", "no ascii", "too long", "far too long", "number"],
)
async def test_hostile_tokens_get_one_clear_answer(
    linking: Linking, change: Any, status: int, code: str
) -> None:
    bridge, http, _ = linking
    token = change((await asked(http))["token"])
    found, _, answer = await post(http, "/v1/link/redeem", {**APP, "token": token})
    assert (found, answer["code"]) == (status, code)
    assert bridge.journal.events == []


async def test_a_token_is_good_for_ten_minutes(linking: Linking) -> None:
    bridge, http, now = linking
    token = (await asked(http))["token"]
    now[0] += 600_001
    status, _, answer = await post(http, "/v1/link/redeem", {**APP, "token": token})
    assert (status, answer["code"]) == (400, "expired_link")
    assert bridge.journal.events == []


@pytest.mark.parametrize("device", ["", "  ", "unknown", "00000000-0000-0000-0000-000000000000", None])
async def test_an_app_must_say_which_device_it_is_on(linking: Linking, device: Any) -> None:
    _, http, _ = linking
    token = (await asked(http))["token"]
    assert (await post(http, "/v1/link/redeem", {"deviceId": device, "token": token}))[0] == 400


@pytest.mark.parametrize("key", ["web-key", "server-key"])
async def test_only_apps_redeem(linking: Linking, key: str) -> None:
    _, http, _ = linking
    token = (await asked(http))["token"]
    status, _, answer = await post(http, "/v1/link/redeem", {**APP, "token": token}, key)
    assert (status, answer["code"]) == (403, "foreign_source")


async def test_apps_make_none(linking: Linking) -> None:
    _, http, _ = linking
    status, _, answer = await post(http, "/v1/link", {"anonymousId": "a"}, "app-key")
    assert (status, answer["code"]) == (403, "foreign_source")


@pytest.mark.parametrize("anonymous", [None, "", "null", "anonymous"])
async def test_a_link_is_for_somebody(linking: Linking, anonymous: Any) -> None:
    _, http, _ = linking
    assert (await post(http, "/v1/link", {"anonymousId": anonymous}, "web-key"))[0] == 400


async def test_ids_too_long_for_a_code_are_refused(linking: Linking) -> None:
    _, http, _ = linking
    long = "ü" * 512
    call = {"anonymousId": long, "userId": long, "userHash": user_hash(SECRET, long)}
    assert (await post(http, "/v1/link", call, "web-key"))[0] == 400
