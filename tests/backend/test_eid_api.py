"""Registering rotating beacons over real HTTP: hostile bodies, both ways to a key, the secret's file."""

import base64
import json
import stat

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy")

from backend.api.eid import EID, EidRegistrar
from backend.api.host import Host
from backend.api.server import build
from backend.app import STATE_FILE, running
from backend.config import Config, Eid, Http, read_config
from backend.eid_desk import EidDesk
from backend.proximity.eid import EidError
from backend.proximity.eid_keys import EidKeys, EidKeysUnusable, open_eid_keys
from backend.storage.database import open_for_writing, transaction
from backend.storage.eid import EidRows
from backend.storage.registry import create_token
from sdk_bridge.server.beacon_keys import canonical_beacon_key
from sdk_bridge.settings import SettingsError
from simulators.eid_tags import EidTag

NOON = 1_750_075_200_000
KEYS = EidKeys(bytes(range(32)))
ROLES = ("viewer", "marketer", "operator", "admin")
IDENTITY = bytes(range(100, 116))


class Api:
    """The API over the state's file, with a desk that runs."""

    def __init__(self, client, desk, make_token) -> None:
        self.client, self.desk = client, desk
        self._make_token = make_token
        self._tokens = {"nobody": None}

    async def ask(self, method, path, body=None, role="operator", data=None):
        if role not in self._tokens:
            self._tokens[role] = await self._make_token(role)
        headers = {"Authorization": f"Bearer {self._tokens[role]}"} if role != "nobody" else {}
        answer = await self.client.request(method, path, json=body, data=data, headers=headers)
        return answer.status, await answer.json()

    async def register(self, **body):
        return await self.ask("POST", "/api/beacons/eid", {"exponent": 10, "clock_s": 5_000, **body})


@pytest.fixture
async def api(state, clock, make_token, running):
    desk = EidDesk(EidRows(state), KEYS.wrap, clock)
    await desk.load()
    app = build(Host(state, state, clock, lambda: None, dict), lambda _app: None)
    app[EID] = EidRegistrar(KEYS, desk)
    async with running(desk.run()), TestClient(TestServer(app)) as client:
        yield Api(client, desk, make_token)


def new_tag(number: int = 1) -> EidTag:
    """Its clock stands at 5000 s at noon."""
    return EidTag(bytes([number] * 32), 10, 5_000 - NOON // 1000)


async def who(api, eventually, sent: bytes, count: int = 1) -> str | None:
    await eventually(lambda: api.desk.beacons == count and not api.desk._stale)
    names = []
    await eventually(lambda: names or (names.extend(api.desk.resolve([sent], [NOON // 1000], str) or [])))
    return names[0]


def sent_by(tag: EidTag) -> bytes:
    return bytes.fromhex(tag.frame(NOON / 1000).key.removeprefix("eddystone-eid:"))


@pytest.mark.parametrize("write", [bytes.hex, lambda key: base64.b64encode(key).decode()])
async def test_a_tag_and_the_resolver_agree_on_a_key_without_sending_it(api, eventually, write):
    status, resolver = await api.ask("GET", "/api/eid/resolver", role="viewer")
    assert status == 200
    assert base64.b64decode(resolver["public_key_base64"]).hex() == resolver["public_key"]
    tag = new_tag()
    tag.provision(bytes.fromhex(resolver["public_key"]))
    status, made = await api.register(
        public_key=write(tag.public_key), initial_eid=sent_by(tag).hex().upper()
    )
    assert (status, made["new"], made["exponent"]) == (201, True, 10)
    assert canonical_beacon_key(made["beacon_key"].upper()) == made["beacon_key"]
    assert await who(api, eventually, sent_by(tag)) == made["beacon_key"]


@pytest.mark.parametrize("write", [bytes.hex, lambda key: base64.urlsafe_b64encode(key).decode().rstrip("=")])
async def test_a_tag_that_was_provisioned_elsewhere_brings_its_key(api, eventually, write):
    tag = EidTag(bytes(32), 10, 5_000 - NOON // 1000, IDENTITY)
    status, made = await api.register(identity_key=write(IDENTITY))
    assert status == 201
    assert await who(api, eventually, sent_by(tag)) == made["beacon_key"]


async def test_a_clock_may_have_been_read_earlier(api, eventually):
    tag = EidTag(bytes(32), 10, 5_000 - NOON // 1000, IDENTITY)
    hours = 40 * 3600
    _, made = await api.register(
        identity_key=IDENTITY.hex(), clock_at=NOON - hours * 1000, clock_s=2**32 - hours + 5000
    )
    assert await who(api, eventually, sent_by(tag)) == made["beacon_key"]


async def test_registering_again_tells_the_clock_and_keeps_the_key(api, clock):
    first = await api.register(identity_key=IDENTITY.hex())
    clock.forward(86_400_000)
    again = await api.register(identity_key=IDENTITY.hex(), exponent=12)
    assert (first[0], again[0]) == (201, 200)
    assert again[1] == {"beacon_key": first[1]["beacon_key"], "exponent": 12, "new": False}
    _, listed = await api.ask("GET", "/api/beacons/eid", role="viewer")
    [row] = listed["beacons"]
    assert (row["exponent"], row["registered_at"], row["told_at"]) == (12, NOON, NOON + 86_400_000)


BAD = [
    ({}, "key"),
    ({"public_key": "00" * 32, "identity_key": "11" * 16}, "key"),
    ({"public_key": "00" * 32}, "key"),
    ({"public_key": "01" + "00" * 31}, "key"),
    ({"public_key": "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"}, "key"),
    ({"identity_key": "00" * 16}, "key"),
    ({"identity_key": base64.b64encode(bytes(16)).decode()}, "key"),
    ({"identity_key": "11" * 15}, "identity_key"),
    ({"identity_key": "11" * 17}, "identity_key"),
    ({"identity_key": "gg" * 16}, "identity_key"),
    ({"identity_key": "ü" * 22}, "identity_key"),
    ({"identity_key": "=" * 24}, "identity_key"),
    ({"public_key": "11" * 16}, "public_key"),
    ({"public_key": ""}, "body"),
    ({"public_key": 7}, "body"),
    ({"public_key": "a" * 101}, "body"),
    ({"identity_key": "11" * 16, "exponent": 16}, "body"),
    ({"identity_key": "11" * 16, "exponent": -1}, "body"),
    ({"identity_key": "11" * 16, "exponent": True}, "body"),
    ({"identity_key": "11" * 16, "clock_s": -1}, "body"),
    ({"identity_key": "11" * 16, "clock_s": 2**32}, "body"),
    ({"identity_key": "11" * 16, "clock_s": 1e300}, "body"),
    ({"identity_key": "11" * 16, "clock_at": NOON + 3_600_000}, "clock_at"),
    ({"identity_key": "11" * 16, "clock_at": 2**63}, "body"),
    ({"identity_key": "11" * 16, "initial_eid": "11"}, "body"),
    ({"identity_key": "11" * 16, "initial_eid": "11" * 8}, "initial_eid"),
    ({"identity_key": "11" * 16, "beacon_key": "eid:mine"}, "body"),
]


@pytest.mark.parametrize(("body", "code"), BAD, ids=lambda value: str(value)[:60])
async def test_what_cannot_be_registered_is_told_why_and_leaves_nothing(api, body, code):
    status, answer = await api.register(**body)
    assert (status, answer["error"]["code"]) == (409 if code == "initial_eid" else 400, code)
    for key in ("public_key", "identity_key"):
        assert not body.get(key) or str(body[key]) not in answer["error"]["message"]
    assert (await api.ask("GET", "/api/beacons/eid"))[1] == {"beacons": []}


texts = st.text(max_size=110) | st.binary(max_size=40).map(bytes.hex) | st.just("A" * 43 + "=")
bodies = st.fixed_dictionaries(
    {},
    optional={
        "public_key": texts,
        "identity_key": texts,
        "exponent": st.integers() | st.none() | st.floats(),
        "clock_s": st.integers(0, 2**33),
        "clock_at": st.integers(-(2**70), 2**70),
        "initial_eid": texts,
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies.map(json.dumps) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
async def test_no_body_makes_it_stumble(api, body):
    status, answer = await api.ask("POST", "/api/beacons/eid", data=body.encode())
    assert status in (200, 201, 400, 409), answer


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("POST", "/api/beacons/eid", "operator"),
        ("DELETE", "/api/beacons/eid/eid:0", "operator"),
        ("GET", "/api/beacons/eid", "viewer"),
        ("GET", "/api/eid/resolver", "viewer"),
    ],
)
async def test_who_may(api, method, path, least):
    allowed = ROLES if least == "viewer" else ("operator", "admin")
    for role in (*ROLES, "nobody"):
        status, _ = await api.ask(method, path, role=role)
        assert (status in (401, 403)) is (role not in allowed), role


async def test_a_removed_beacon_is_nobody_and_can_be_registered_afresh(api, eventually):
    tag = EidTag(bytes(32), 10, 5_000 - NOON // 1000, IDENTITY)
    _, made = await api.register(identity_key=IDENTITY.hex())
    assert await who(api, eventually, sent_by(tag)) == made["beacon_key"]
    assert await api.ask("DELETE", f"/api/beacons/eid/{made['beacon_key']}") == (
        200,
        {"removed": made["beacon_key"]},
    )
    assert api.desk.resolve([sent_by(tag)], [NOON // 1000], pytest.fail) == [None]
    assert (await api.ask("DELETE", f"/api/beacons/eid/{made['beacon_key']}"))[0] == 404
    assert (await api.ask("DELETE", "/api/beacons/eid/altbeacon:01"))[0] == 400
    status, again = await api.register(identity_key=IDENTITY.hex())
    assert status == 201
    assert again["beacon_key"] != made["beacon_key"]  # its next owner inherits nothing


async def test_the_list_is_read_page_by_page_and_shows_no_secret(api):
    for number in range(1, 6):
        await api.register(identity_key=bytes([number] * 16).hex())
    seen, after = [], ""
    while page := (await api.ask("GET", f"/api/beacons/eid?limit=2&after={after}"))[1]["beacons"]:
        assert len(page) <= 2
        assert not {key for row in page for key in row} & {"wrapped_key", "fingerprint", "identity_key"}
        seen += [row["beacon_key"] for row in page]
        after = seen[-1]
    assert len(set(seen)) == 5
    assert (await api.ask("GET", "/api/beacons/eid?after=%FF"))[0] == 400


async def test_every_change_is_audited_without_a_key(api, state):
    _, made = await api.register(identity_key=IDENTITY.hex())
    await api.register(identity_key=IDENTITY.hex())
    await api.ask("DELETE", f"/api/beacons/eid/{made['beacon_key']}")
    rows = await state.read(lambda session: [dict(row) for row in session.rows("newest_audit", limit=9)])
    assert [(row["actor"], row["action"]) for row in rows[:3]] == [
        ("operator", "rotating beacon removed"),
        ("operator", "rotating beacon's clock told"),
        ("operator", "rotating beacon registered"),
    ]
    assert IDENTITY.hex() not in json.dumps(rows)


async def test_a_beacon_can_be_placed_or_carried_by_its_own_key_only(api):
    _, made = await api.register(identity_key=IDENTITY.hex())
    body = {"beacon_key": made["beacon_key"], "role": "asset"}
    assert (await api.ask("POST", "/api/beacons", body))[0] == 200
    rotating = {"beacon_key": "eddystone-eid:0123456789abcdef", "role": "asset"}
    assert (await api.ask("POST", "/api/beacons", rotating))[0] == 400


# The secret's file ----------------------------------------------------------------------------------------


def test_the_file_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "data" / "eid.key"
    one = open_eid_keys(path, may_make=True, random=lambda size: bytes(range(size)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["eid.key"]
    assert path.read_text("ascii") == bytes(range(32)).hex() + "\n"
    again = open_eid_keys(path, may_make=True, random=lambda _size: pytest.fail("it is there already"))
    assert again.resolver_public == one.resolver_public == KEYS.resolver_public


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "is not there; no other opens"),
        ("00" * 32, 0o600, "zero"),
        ("11" * 31, 0o600, "64 hexadecimal digits"),
        ("11" * 33, 0o600, "64 hexadecimal digits"),
        ("11" * 32 + "\nmore", 0o600, "64 hexadecimal digits"),
        ("xx" * 32, 0o600, "64 hexadecimal digits"),
        ("", 0o600, "64 hexadecimal digits"),
        ("11" * 32, 0o640, "open to other users"),
        ("11" * 32, 0o604, "open to other users"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_in_one_line(tmp_path, content, mode, reason):
    path = tmp_path / "eid.key"
    if content is not None:
        path.write_text(content, "ascii")
        path.chmod(mode)
    with pytest.raises(EidKeysUnusable, match=reason) as caught:
        open_eid_keys(path, may_make=False)
    assert "\n" not in str(caught.value)
    assert not content or content.strip() not in str(caught.value)


def test_secrets_have_their_length():
    for secret in (b"", bytes(31), bytes(32), bytes(33)):
        with pytest.raises(EidError):
            EidKeys(secret)


def test_a_configured_file_must_be_there(tmp_path):
    settings_file = tmp_path / "backend.toml"
    settings_file.write_text(f'data_dir = "{tmp_path}"\n[eid]\nkey_file = "{tmp_path}/other.key"\n', "utf-8")
    with pytest.raises(SettingsError, match=r"eid\.key_file: .* is not there"):
        read_config(settings_file)
    (tmp_path / "other.key").write_text("11" * 32, "ascii")
    assert read_config(settings_file).eid_key_file == tmp_path / "other.key"
    assert Config(str(tmp_path)).eid_key_file == tmp_path / "eid.key"


# The whole backend ----------------------------------------------------------------------------------------


async def test_the_backend_makes_its_secret_keeps_it_and_does_without_none(tmp_path):
    config = Config(str(tmp_path), Http(port=0))
    connection = open_for_writing(tmp_path / STATE_FILE, "state")
    token = transaction(connection, "state", lambda session: create_token(session, "t", "operator", 0))
    connection.close()
    headers = {"Authorization": f"Bearer {token}"}

    async def resolver() -> dict:
        async with running(config) as (backend, _), aiohttp.ClientSession(headers=headers) as session:
            url = f"http://127.0.0.1:{backend.port}/api"
            body = {"identity_key": IDENTITY.hex(), "exponent": 10, "clock_s": 1}
            async with session.post(f"{url}/beacons/eid", json=body) as answer:
                made = await answer.json()
            async with session.get(f"{url}/eid/resolver") as answer:
                return {**await answer.json(), **made}

    first, second = await resolver(), await resolver()
    assert (first["new"], second["new"]) == (True, False)
    assert {first[key] == second[key] for key in ("public_key", "beacon_key")} == {True}
    assert second["unreadable"] == 0
    (tmp_path / "eid.key").rename(tmp_path / "lost")
    with pytest.raises(EidKeysUnusable, match=r"eid\.key is not there"):
        await resolver()
    elsewhere = Config(str(tmp_path), Http(port=0), eid=Eid(str(tmp_path / "lost")))
    async with running(elsewhere):
        assert not (tmp_path / "eid.key").exists()
