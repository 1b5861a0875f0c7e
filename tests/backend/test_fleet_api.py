"""The fleet over real HTTP: tokens, enrolment, renewal, revocation, configurations; who may do what."""

import asyncio
import json

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from backend.api.fleet import FLEET, Fleet
from backend.api.host import Host
from backend.api.server import build
from backend.fleet.authority import DAY_MS
from backend.fleet.configurations import ConfigurationPublisher
from backend.fleet.keys import open_keys
from backend.storage import fleet as rows
from backend.storage import registry
from backend.storage.fleet import newest_configurations
from sdk_bridge.wire.configuration import decode_document, decode_signed, to_sign
from sdk_bridge.wire.enrolment import EnrolmentToken, renewal
from sdk_bridge.wire.messages import Heartbeat
from sdk_bridge.wire.topics import GatewayAddress

ADDRESS = GatewayAddress("vienna-1", "door")
DOOR, TILL = "vienna-1/door", "vienna-1/till"
HEADERS = {"operator": {}, "viewer": {}, "admin": {}, "marketer": {}, "nobody": {}}


class Backend:
    """The API over a real database, with a broker that writes down what it is to keep."""

    def __init__(self, state, clock, folder) -> None:
        self.state, self.clock, self.folder = state, clock, folder
        self.headers = dict(HEADERS)
        self.retained: list[tuple[str, bytes]] = []
        self.room = True
        self.changes = 0
        self.client = None
        self.publisher = ConfigurationPublisher(lambda: state.read(newest_configurations), self._publish)

    async def open(self):
        def write(session):
            session.run("save_store", store_id="vienna-1", name="Shop", timezone="Europe/Vienna")
            session.run("save_zone", store_id="vienna-1", zone_id="a", name="A", categories="[]")
            for gateway_id in ("door", "till", "x" * 60):
                session.run(
                    "save_gateway",
                    store_id="vienna-1",
                    gateway_id=gateway_id,
                    zone_id="a",
                    name=gateway_id,
                    x_m=None,
                    y_m=None,
                )
            return {
                role: registry.create_token(session, role, role, 0) for role in HEADERS if role != "nobody"
            }

        tokens = await self.state.write(write)
        for role, token in tokens.items():
            self.headers[role] = {"Authorization": f"Bearer {token}"}
        host = Host(self.state, self.state, self.clock, self._changed, dict)
        app = build(host, lambda _app: None)
        self.keys = open_keys(self.folder / "authority", self.clock())
        app[FLEET] = self.fleet = Fleet.of(self.keys, self.publisher, ("broker.example", 8883), 30 * DAY_MS)
        self.client = TestClient(TestServer(app))
        await self.client.start_server()

    def _changed(self):
        self.changes += 1

    def _publish(self, topic, payload):
        if self.room:
            self.retained.append((topic, payload))
        return self.room

    async def ask(self, method, path, body=None, role="operator"):
        response = await self.client.request(method, path, json=body, headers=self.headers[role])
        return response.status, await response.json()

    async def token(self, gateway="door", **body):
        status, answer = await self.ask("POST", f"/api/gateways/vienna-1/{gateway}/enrol-token", body)
        assert status == 201
        return EnrolmentToken.parse(answer["token"])

    async def enrol(self, token, key, gateway="door"):
        body = {"store": "vienna-1", "gateway": gateway, "secret": token.secret.hex(), "csr": csr_of(key)}
        return await self.ask("POST", "/fleet/enrol", body, "nobody")

    async def renew(self, present, present_key, new_key, *, signer=None):
        csr, serial = csr_of(new_key), serial_of(present)
        signature = (signer or present_key).sign(renewal(serial, csr), ec.ECDSA(hashes.SHA256()))
        body = {"serial": serial, "csr": csr, "signature": signature.hex()}
        return await self.ask("POST", "/fleet/renew", body, "nobody")

    async def rows(self, query, **values):
        return await self.state.read(lambda s: [dict(row) for row in s.rows(query, **values)])

    async def alerts(self):
        return [(row["kind"], row["subject"]) for row in await self.rows("newest_alerts", limit=50)]

    def revoked(self):
        return {entry.serial_number for entry in x509.load_pem_x509_crl(self.keys.revoked_file.read_bytes())}


@pytest.fixture
async def backend(state, clock, tmp_path):
    made = Backend(state, clock, tmp_path)
    await made.open()
    yield made
    await made.client.close()


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever it says")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def certificate_in(answer):
    return x509.load_pem_x509_certificate(answer["certificate"].encode())


def serial_of(answer):
    return f"{certificate_in(answer).serial_number:x}"


def name_in(answer):
    (name,) = certificate_in(answer).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return name.value


# Enrolment --------------------------------------------------------------------------------------------


async def test_a_token_buys_one_certificate_with_everything_to_trust(backend):
    token, key = await backend.token(), new_key()
    status, papers = await backend.enrol(token, key)
    assert status == 200
    authority = x509.load_pem_x509_certificate(papers["authority"].encode())
    assert authority.fingerprint(hashes.SHA256()) == token.authority
    certificate_in(papers).verify_directly_issued_by(authority)
    assert name_in(papers) == DOOR
    assert certificate_in(papers).public_key() == key.public_key()
    assert papers["config_key"] == token.config_key.hex()
    assert (papers["broker_host"], papers["broker_port"]) == ("broker.example", 8883)
    assert (await backend.client.get("/fleet/authority")).status == 200


async def test_the_database_never_sees_the_secret(backend):
    token = await backend.token()
    everything = await backend.state.read(lambda s: "".join(s._connection.iterdump()))
    assert token.secret.hex() not in everything.lower()


async def test_an_answer_that_got_lost_can_be_asked_for_again_by_the_same_key(backend):
    token, key = await backend.token(), new_key()
    _, first = await backend.enrol(token, key)
    status, second = await backend.enrol(token, key)
    assert (status, second) == (200, first)


@pytest.mark.parametrize(
    ("spoil", "status", "code", "alert"),
    [
        ("used", 410, "token_used", True),
        ("expired", 410, "token_expired", True),
        ("replaced", 410, "token_void", True),
        ("unknown", 401, "token", False),
        ("other gateway", 409, "name", True),
        ("no request", 400, "csr", False),
    ],
)
async def test_what_does_not_enrol_is_told_and_noted(backend, spoil, status, code, alert):
    token, key, gateway = await backend.token(), new_key(), "door"
    if spoil == "used":
        await backend.enrol(token, new_key())
    elif spoil == "expired":
        backend.clock.forward(3_600_000)
    elif spoil == "replaced":
        await backend.token()
    elif spoil == "unknown":
        token = EnrolmentToken(bytes(16), token.authority, token.config_key)
    elif spoil == "other gateway":
        gateway = "till"
    if spoil == "no request":
        body = {"store": "vienna-1", "gateway": "door", "secret": token.secret.hex(), "csr": "nothing"}
        answer = await backend.ask("POST", "/fleet/enrol", body, "nobody")
    else:
        answer = await backend.enrol(token, key, gateway)
        await backend.enrol(token, key, gateway)  # a second knock is no second alert
    assert (answer[0], answer[1]["error"]["code"]) == (status, code)
    assert await backend.alerts() == ([("enrolment refused", DOOR)] if alert else [])


async def test_a_token_is_not_spent_by_a_refusal(backend):
    token, key = await backend.token(), new_key()
    assert (await backend.enrol(token, key, "till"))[0] == 409
    assert (await backend.enrol(token, key))[0] == 200


async def test_enrolling_anew_ends_what_was_before(backend):
    _, first = await backend.enrol(await backend.token(), old := new_key())
    _, second = await backend.enrol(await backend.token(), new_key())
    assert backend.revoked() == {certificate_in(first).serial_number}
    assert (await backend.renew(first, old, new_key()))[1]["error"]["code"] == "revoked"
    assert serial_of(first) != serial_of(second)


async def test_a_token_lasts_as_long_as_it_was_made_for(backend):
    token = await backend.token(minutes=1)
    backend.clock.forward(59_999)
    assert (await backend.enrol(token, new_key()))[0] == 200
    path = "/api/gateways/vienna-1/door/enrol-token"
    for minutes in (0, 10_081, "60"):
        assert (await backend.ask("POST", path, {"minutes": minutes}))[0] == 400


async def test_names_that_cannot_be_enrolled_are_said_at_once(backend):
    for path, status in (
        ("/api/gateways/vienna-1/window/enrol-token", 404),
        (f"/api/gateways/vienna-1/{'x' * 60}/enrol-token", 409),
        ("/api/gateways/vienna-1/a%2Fb/enrol-token", 400),
    ):
        assert (await backend.ask("POST", path))[0] == status


# Renewal ----------------------------------------------------------------------------------------------


async def test_a_certificate_is_followed_by_another_also_after_it_ran_out(backend):
    key, next_key = new_key(), new_key()
    _, first = await backend.enrol(await backend.token(), key)
    backend.clock.forward(90 * DAY_MS)
    status, second = await backend.renew(first, key, next_key)
    assert status == 200 and name_in(second) == DOOR
    assert certificate_in(second).public_key() == next_key.public_key()
    assert certificate_in(second).not_valid_after_utc > certificate_in(first).not_valid_after_utc
    assert (await backend.renew(second, next_key, new_key()))[0] == 200


async def test_a_renewal_sent_twice_costs_one_certificate(backend):
    key, next_key = new_key(), new_key()
    _, first = await backend.enrol(await backend.token(), key)
    _, second = await backend.renew(first, key, next_key)
    assert (await backend.renew(first, key, next_key))[1] == second


async def test_a_lost_answer_does_not_strand_the_gateway_but_a_copied_key_is_noticed(backend):
    key, second_key, third_key = new_key(), new_key(), new_key()
    _, first = await backend.enrol(await backend.token(), key)
    await backend.renew(first, key, new_key())  # the answer got lost
    status, second = await backend.renew(first, key, second_key)
    assert status == 200
    assert (await backend.renew(second, second_key, third_key))[0] == 200
    status, answer = await backend.renew(first, key, new_key())  # from a card that was copied
    assert (status, answer["error"]["code"]) == (403, "superseded")
    assert await backend.alerts() == [("enrolment refused", DOOR)]


async def test_who_cannot_prove_the_key_gets_nothing(backend):
    key = new_key()
    _, papers = await backend.enrol(await backend.token(), key)
    for answer in (
        await backend.renew(papers, key, new_key(), signer=new_key()),
        await backend.ask(
            "POST", "/fleet/renew", {"serial": "abc", "csr": csr_of(key), "signature": "00"}, "nobody"
        ),
    ):
        assert (answer[0], answer[1]["error"]["code"]) == (401, "certificate")
    assert await backend.alerts() == []


# Revocation -------------------------------------------------------------------------------------------


async def test_a_revoked_gateway_is_refused_everywhere_until_it_enrols_anew(backend):
    key = new_key()
    _, papers = await backend.enrol(await backend.token(), key)
    waiting = await backend.token()
    status, answer = await backend.ask("POST", "/api/gateways/vienna-1/door/revoke")
    assert (status, answer["certificates_revoked"]) == (200, 1)
    assert backend.revoked() == {certificate_in(papers).serial_number}
    assert DOOR not in await backend.state.read(registry.gateways)
    assert TILL in await backend.state.read(registry.gateways)
    assert (await backend.renew(papers, key, new_key()))[1]["error"]["code"] == "revoked"
    assert (await backend.enrol(waiting, key))[1]["error"]["code"] == "token_void"
    assert (await backend.enrol(await backend.token(), key))[0] == 200
    assert DOOR in await backend.state.read(registry.gateways)
    assert backend.changes >= 3  # tokens, the revocation, the enrolment: the fold looks afresh


async def test_what_ran_out_leaves_the_list(backend):
    await backend.enrol(await backend.token(), new_key())
    await backend.ask("POST", "/api/gateways/vienna-1/door/revoke")
    assert len(backend.revoked()) == 1
    backend.clock.forward(31 * DAY_MS)
    await backend.fleet.write_revocations(backend.state, backend.clock())
    assert backend.revoked() == set()


# Configurations ---------------------------------------------------------------------------------------

CONFIG = "/api/gateways/vienna-1/door/config"


async def published(backend, eventually, count):
    task = asyncio.create_task(backend.publisher.run())
    try:
        await eventually(lambda: task.done() or len(backend.retained) >= count)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(backend.retained) == count
    return backend.retained


async def test_a_configuration_is_signed_numbered_and_kept_by_the_broker(backend, eventually):
    token = await backend.token()
    for near in (-80, -70):
        status, answer = await backend.ask("PUT", CONFIG, {"presence": {"near_dbm": near}})
        assert status == 200
    assert answer == {"gateway": DOOR, "version": 2, "state": "issued"}
    ((topic, payload),) = await published(backend, eventually, 1)
    assert topic == ADDRESS.topic("down/config")
    signed = decode_signed(payload)
    key = ed25519.Ed25519PublicKey.from_public_bytes(token.config_key)
    key.verify(signed.signature, to_sign(signed.document))
    configuration = decode_document(signed.document)
    assert (configuration.store, configuration.gateway, configuration.version) == ("vienna-1", "door", 2)
    assert configuration.settings.table() == {"presence": {"near_dbm": -70}}
    _, shown = await backend.ask("GET", CONFIG, role="viewer")
    assert [(one["version"], one["state"], one["settings"]["presence"]) for one in shown["versions"]] == [
        (2, "issued", {"near_dbm": -70}),
        (1, "issued", {"near_dbm": -80}),
    ]


async def test_every_new_connection_gets_all_and_a_change_only_what_is_new(backend, eventually):
    await backend.ask("PUT", CONFIG, {})
    await published(backend, eventually, 1)
    backend.publisher.connected()  # a broker that forgot everything
    await published(backend, eventually, 2)
    await backend.ask("PUT", "/api/gateways/vienna-1/till/config", {})
    topics = [topic for topic, _ in await published(backend, eventually, 3)]
    assert topics[0] == topics[1] != topics[2]


async def test_what_the_connection_has_no_room_for_is_sent_later(backend, eventually):
    backend.room = False
    await backend.ask("PUT", CONFIG, {})
    task = asyncio.create_task(backend.publisher.run())
    await asyncio.sleep(0.05)
    assert backend.retained == []
    backend.room = True
    await eventually(lambda: backend.retained)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_settings_that_nobody_may_change_from_afar_are_refused(backend):
    for body in ({"mqtt": {"host": "elsewhere"}}, {"presence": {"near_dbm": 5}}, []):
        status, answer = await backend.ask("PUT", CONFIG, body)
        assert (status, answer["error"]["code"]) == (400, "settings")
    assert (await backend.ask("PUT", "/api/gateways/vienna-1/window/config", {}))[0] == 404


def heartbeat(version, state):
    return Heartbeat("", 0, "hearing", 0, 0, 0, 0, 0, 0, True, "1", version, state)


async def test_a_card_that_takes_nothing_raises_one_alert(backend):
    for _ in range(3):
        beat = msgspec.structs.replace(heartbeat(0, ""), outbox_writable=False)
        await backend.state.write(lambda s, beat=beat: rows.note_report(s, DOOR, backend.clock(), beat))
    assert await backend.alerts() == [("outbox not writable", DOOR)]


async def test_what_a_gateway_says_is_kept_once_and_a_bad_end_raises_an_alert(backend):
    for _ in range(3):
        await backend.ask("PUT", CONFIG, {})

    async def told(version, state):
        await backend.state.write(
            lambda s: rows.note_report(s, DOOR, backend.clock(), heartbeat(version, state))
        )

    for version, state in [
        (0, ""),
        (1, "trial"),
        (1, "applied"),
        (1, "applied"),
        (2, "trial"),
        (2, "rolled-back: deaf"),
        (2, "rolled-back: deaf"),
        (0, "refused: signature"),
    ]:
        await told(version, state)
    _, shown = await backend.ask("GET", CONFIG, role="viewer")
    assert [one["state"] for one in shown["versions"]] == ["issued", "rolled-back: deaf", "applied"]
    alerts = await backend.rows("newest_alerts", limit=10)
    assert [(one["kind"], one["detail"]) for one in alerts] == [
        ("configuration not applied", "version 0: refused: signature"),
        ("configuration not applied", "version 2: rolled-back: deaf"),
    ]


async def test_versions_rise_beyond_what_the_gateway_has_seen(backend):
    await backend.state.write(lambda s: rows.note_report(s, DOOR, 0, heartbeat(41, "applied")))
    assert (await backend.ask("PUT", CONFIG, {}))[1]["version"] == 42


# Who may ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("POST", "/api/gateways/vienna-1/door/enrol-token", "operator"),
        ("POST", "/api/gateways/vienna-1/door/revoke", "operator"),
        ("PUT", CONFIG, "operator"),
        ("GET", CONFIG, "viewer"),
        ("GET", "/api/fleet", "viewer"),
    ],
)
async def test_every_route_asks_for_its_role(backend, method, path, least):
    body = {} if method != "GET" else None
    assert (await backend.ask(method, path, body, "nobody"))[0] == 401
    for role in ("viewer", "marketer", "operator", "admin"):
        allowed = least == "viewer" or role in ("operator", "admin")
        status, _ = await backend.ask(method, path, body, role)
        assert (status < 300) is allowed, (role, status)


async def test_every_change_is_audited_and_nothing_secret_is_in_it(backend):
    token = await backend.token()
    await backend.enrol(token, key := new_key())
    await backend.ask("PUT", CONFIG, {"log": {"level": "debug"}})
    await backend.ask("POST", "/api/gateways/vienna-1/door/revoke")
    audit = await backend.rows("newest_audit", limit=20)
    assert [(one["actor"], one["action"], one["subject"]) for one in reversed(audit)][4:] == [
        ("operator", "enrolment token made", DOOR),
        (f"gateway {DOOR}", "gateway enrolled", DOOR),
        ("operator", "configuration issued", DOOR),
        ("operator", "gateway revoked", DOOR),
    ]
    assert token.secret.hex() not in json.dumps(audit) and csr_of(key) not in json.dumps(audit)


async def test_the_fleet_is_seen_at_a_glance(backend):
    _, papers = await backend.enrol(await backend.token(), new_key())
    await backend.ask("PUT", CONFIG, {})
    _, answer = await backend.ask("GET", "/api/fleet", role="viewer")
    shown = {f"{one['store_id']}/{one['gateway_id']}": one for one in answer["gateways"]}
    door, till = shown[DOOR], shown[TILL]
    assert door["serial"] == serial_of(papers) and door["newest_version"] == 1
    assert door["revoked_at"] is None and till["serial"] is None


@pytest.mark.parametrize("path", ["/fleet/enrol", "/fleet/renew"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"\xff", b"{" * 10_000, b'{"store": 1}', b'{"secret": "' + b"a" * 200_000 + b'"}'],
)
async def test_no_body_does_more_than_be_refused(backend, path, body):
    response = await backend.client.post(path, data=body)
    assert response.status == 400 and (await response.json())["error"]["code"] == "body"


def test_the_routes_that_authenticate_themselves_are_these_alone():
    from backend.api import fleet  # noqa: PLC0415 - the module, for its table

    assert {route.path for route in fleet.PUBLIC_ROUTES} == {
        "/fleet/authority",
        "/fleet/enrol",
        "/fleet/renew",
    }
    assert all(isinstance(route, web.RouteDef) for route in fleet.ROUTES)
