"""Enrolment from the gateway's side against the backend's real API: papers, TLS, clocks, renewal."""

import asyncio
import json
import ssl
import stat
import sys
import time
from contextlib import asynccontextmanager
from random import Random

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from backend.api.fleet import FLEET, Fleet
from backend.api.host import Host
from backend.api.server import build
from backend.fleet.authority import DAY_MS, Subject, new_authority, new_key
from backend.fleet.configurations import ConfigurationPublisher, public_key
from backend.fleet.enrolment import hash_of
from backend.fleet.keys import open_keys
from backend.storage import fleet as rows
from backend.storage.database import SqliteFile
from gateway import cli, enrol, identity
from gateway.certificate import GatewayTls, KnownTime, Life, due_at, untimely
from gateway.enrol import Backend, BackendUnreachable, CertificateKeeper, EnrolmentFailed, EnrolmentRefused
from gateway.identity import IDENTITY, Facts, IdentityUnusable, check_papers, load_identity
from sdk_bridge.wire.enrolment import EnrolmentToken
from sdk_bridge.wire.topics import GatewayAddress

ADDRESS = GatewayAddress("vienna-1", "door")
YEAR_1970 = 1_000_000


def now_ms():
    return int(time.time() * 1000)


class Office:
    """The backend's API on a real port, with its own authority; `now` is the time by which it issues."""

    def __init__(self, state, folder):
        self.state, self.folder = state, folder
        self.now = now_ms
        self.calls = []
        self.keys = open_keys(folder / "authority", now_ms())
        self.port = 0
        self.answer = None  # what a forger answers instead

    def time(self):
        return self.now()

    async def set_up(self):
        def write(session):
            session.run("save_store", store_id="vienna-1", name="Shop", timezone="UTC")
            session.run("save_zone", store_id="vienna-1", zone_id="a", name="A", categories="[]")
            for name in ("door", "till"):
                session.run(
                    "save_gateway",
                    store_id="vienna-1",
                    gateway_id=name,
                    zone_id="a",
                    name=name,
                    x_m=None,
                    y_m=None,
                )

        await self.state.write(write)

    async def token(self, secret=bytes(range(16))):
        now = self.now()
        await self.state.write(
            lambda s: rows.add_token(s, "vienna-1/door", hash_of(secret), now, now + 3_600_000)
        )
        return EnrolmentToken(secret, self.keys.authority.fingerprint, public_key(self.keys.signing))

    def server_context(self, host="127.0.0.1", authority=None, now=None):
        """TLS with a certificate by our authority, or by another one."""
        public, private = new_key()
        authority = authority or self.keys.authority
        issued = authority.issue(public, Subject.server(host), now or now_ms(), 99)
        path = self.folder / "server.pem"
        path.write_text(private + issued.pem + authority.pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context

    @asynccontextmanager
    async def serve(self, context=None):
        async def empty():
            return []

        @web.middleware
        async def note(request, handler):
            self.calls.append(request.path)
            if self.answer is not None and request.method == "POST":
                return self.answer(await request.json())
            return await handler(request)

        host = Host(self.state, self.state, self.time, lambda: None, dict)
        app = build(host, lambda _app: None)
        app.middlewares.insert(0, note)
        publisher = ConfigurationPublisher(empty, lambda *_: True)
        app[FLEET] = Fleet.of(self.keys, publisher, ("broker.example", 8883), 30 * DAY_MS)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        try:
            yield f"http{'s' if context else ''}://127.0.0.1:{self.port}"
        finally:
            await runner.cleanup()


@pytest.fixture
async def office(tmp_path):
    async with SqliteFile(tmp_path / "state.db", "state") as state:
        made = Office(state, tmp_path)
        await made.set_up()
        yield made


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
def right_clock(hand_clock):
    return hand_clock(is_synchronised=True, unix_zero=now_ms() - 1_000_000)


async def enrolled(office, url, folder, clock, token=None):
    token = token or await office.token()
    backend = Backend.at(url, token.authority, KnownTime(folder, clock))
    return await asyncio.to_thread(enrol.enrol, folder, ADDRESS, token, backend)


def snapshot(folder):
    """Every file's content, the link's target among them."""
    link = folder / IDENTITY
    return {path.name: path.read_bytes() for path in link.resolve().iterdir()} if link.exists() else {}


# Enrolment --------------------------------------------------------------------------------------------


async def test_the_papers_are_put_in_place_and_the_key_never_leaves(office, folder, right_clock):
    async with office.serve() as url:
        mine = await enrolled(office, url, folder, right_clock)
    facts = mine.facts
    assert (facts.store, facts.gateway, facts.backend) == ("vienna-1", "door", url)
    assert (facts.broker_host, facts.broker_port) == ("broker.example", 8883)
    assert facts.config_key == public_key(office.keys.signing).hex()
    assert load_identity(folder, ADDRESS) == mine
    assert stat.S_IMODE((folder / IDENTITY / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / IDENTITY).stat().st_mode) == 0o700
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == ["identity", "identity"]
    secret = (folder / IDENTITY / "key.pem").read_text().splitlines()[1]
    everything = await office.state.read(lambda s: "".join(s._connection.iterdump()))
    assert secret not in everything


async def test_an_answer_that_got_lost_is_asked_for_again(office, folder, right_clock, monkeypatch):
    token = await office.token()
    async with office.serve() as url:
        with monkeypatch.context() as patch:
            patch.setattr(enrol, "write_identity", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
            with pytest.raises(OSError, match="full"):
                await enrolled(office, url, folder, right_clock, token)
        assert (await enrolled(office, url, folder, right_clock, token)).facts.gateway == "door"


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        ("used", EnrolmentRefused, "was used already"),
        ("expired", EnrolmentRefused, "has run out"),
        ("wrong", EnrolmentRefused, "is not known"),
        ("no backend", BackendUnreachable, "refused"),
        ("no footfall", EnrolmentRefused, "Authorization"),
    ],
)
async def test_what_goes_wrong_is_said_and_leaves_the_papers_alone(
    office, folder, right_clock, spoil, error, words
):
    async with office.serve() as url:
        await enrolled(office, url, folder, right_clock, await office.token(bytes(16)))
        before = snapshot(folder)
        token = await office.token()
        if spoil == "used":
            await enrolled(office, url, office.folder / "other", right_clock, token)
        elif spoil == "expired":
            office.now = lambda: now_ms() + 3_600_000
        elif spoil == "wrong":
            token = EnrolmentToken(bytes([9]) * 16, token.authority, token.config_key)
        there = {"no backend": "http://127.0.0.1:9", "no footfall": f"{url}/elsewhere"}.get(spoil, url)
        with pytest.raises(error, match=words) as failure:
            await enrolled(office, there, folder, right_clock, token)
    assert "\n" not in str(failure.value) and token.secret.hex() not in str(failure.value)
    assert snapshot(folder) == before and before


@pytest.mark.parametrize(
    ("url", "insecure", "fine"),
    [
        ("https://backend.example", False, True),
        ("https://backend.example:8443/footfall/", False, True),
        ("http://127.0.0.1:8080", False, True),
        ("http://[::1]:8080", False, True),
        ("http://localhost", False, True),
        ("http://backend.example", True, True),
        ("http://backend.example", False, False),
        ("http://127.0.0.1.example", False, False),
        ("http://10.0.0.1", False, False),
        ("ftp://backend.example", True, False),
        ("backend.example", True, False),
        ("https://", True, False),
        ("https://x:port", True, False),
        ("http://[::1", True, False),
    ],
)
def test_secrets_go_in_the_clear_to_nobody_else(folder, hand_clock, url, insecure, fine):
    time_ = KnownTime(folder, hand_clock())
    if fine:
        Backend.at(url, bytes(32), time_, insecure=insecure)
    else:
        with pytest.raises(EnrolmentFailed):
            Backend.at(url, bytes(32), time_, insecure=insecure)


# TLS to the backend -----------------------------------------------------------------------------------


async def test_a_backend_by_its_own_authority_is_known_by_the_tokens_fingerprint(office, folder, right_clock):
    async with office.serve(office.server_context()) as url:
        assert (await enrolled(office, url, folder, right_clock)).facts.backend == url


@pytest.mark.parametrize("wrong", ["fingerprint", "host", "authority"])
async def test_a_backend_that_cannot_prove_itself_never_sees_the_secret(office, folder, right_clock, wrong):
    token = await office.token()
    context = office.server_context("other.example" if wrong == "host" else "127.0.0.1")
    if wrong == "authority":
        context = office.server_context(authority=new_authority(now_ms(), 5))
    if wrong == "fingerprint":
        token = EnrolmentToken(token.secret, bytes(32), token.config_key)
    async with office.serve(context) as url:
        with pytest.raises(BackendUnreachable, match="cannot be verified"):
            await enrolled(office, url, folder, right_clock, token)
    assert "/fleet/enrol" not in office.calls
    assert load_identity(folder, ADDRESS) is None


@pytest.mark.parametrize(
    ("ahead", "synchronised", "fine"),
    [
        (0, True, True),
        (0, False, True),
        (None, False, True),  # nobody has set the clock: the authority's word counts
        (None, True, False),  # somebody has, so the certificate is from the future
        (3 * 365 * DAY_MS, True, False),
        (3 * 365 * DAY_MS, False, False),
    ],
)
async def test_dates_are_judged_by_what_is_known_of_the_time(
    office, folder, hand_clock, ahead, synchronised, fine
):
    unix = YEAR_1970 if ahead is None else now_ms() + ahead
    clock = hand_clock(is_synchronised=synchronised, unix_zero=unix - 1_000_000)
    async with office.serve(office.server_context()) as url:
        if fine:
            await enrolled(office, url, folder, clock)
        else:
            with pytest.raises(BackendUnreachable, match="clock right"):
                await enrolled(office, url, folder, clock)
            assert "/fleet/enrol" not in office.calls


# Forged answers ---------------------------------------------------------------------------------------


def forged(office, **wrong):
    """An answer as the backend would give it, with one thing wrong."""

    def answer(request):
        csr = x509.load_pem_x509_csr(request["csr"].encode())
        key = wrong.get("key", csr.public_key())
        subject = wrong.get("subject", Subject.gateway("vienna-1/door", DAY_MS))
        authority = wrong.get("authority", office.keys.authority)
        papers = {
            "store": "vienna-1",
            "gateway": "door",
            "certificate": authority.issue(key, subject, now_ms(), 6).pem,
            "authority": wrong.get("shown", authority).pem,
            "broker_host": "broker.example",
            "broker_port": 8883,
            "config_key": public_key(office.keys.signing).hex(),
        }
        return web.json_response({**papers, **wrong.get("papers", {})})

    return answer


OTHER = new_authority(now_ms(), 5)


def of_version_9(pem: str) -> str:
    """A certificate with damaged bits: X.509 has three versions."""
    der = ssl.PEM_cert_to_DER_cert(pem).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x08", 1)
    return ssl.DER_cert_to_PEM_cert(der)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"authority": OTHER}, "fingerprint"),
        ({"authority": OTHER, "shown": None}, "not by the authority"),
        ({"key": new_key()[0]}, "another key"),
        ({"subject": Subject.gateway("vienna-1/till", DAY_MS)}, "another gateway"),
        ({"subject": Subject("vienna-1/door", Subject.server("h").usage, DAY_MS)}, "not for a client"),
        ({"papers": {"config_key": "00" * 32}}, "another key for configurations"),
        ({"papers": {"certificate": "nothing"}}, "holds no certificate"),
        ({"papers": {"authority": "nothing"}}, "holds no certificate"),
        ({"papers": {"authority": of_version_9(OTHER.pem)}}, "holds no certificate"),
        ({"papers": {"broker_port": 0}}, "cannot be read"),
        ({"papers": {"broker_host": "two words"}}, "cannot be read"),
    ],
)
async def test_a_forged_answer_is_refused(office, folder, right_clock, wrong, words):
    if "shown" in wrong:
        wrong = {**wrong, "shown": office.keys.authority}
    office.answer = forged(office, **wrong)
    async with office.serve() as url:
        with pytest.raises(EnrolmentFailed, match=words):
            await enrolled(office, url, folder, right_clock)
    assert load_identity(folder, ADDRESS) is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: web.Response(body=b""),
        lambda _: web.Response(body=b"\xff" * 200_000),
        lambda _: web.Response(body=b"{" * 50_000),
        lambda _: web.Response(status=302, headers={"Location": "https://elsewhere.example"}),
        lambda _: web.Response(status=403, body=b'{"error": {"code": "x", "message": "no\\u0007\\nno"}}'),
        lambda _: web.Response(status=500, body=b"[]"),
    ],
)
async def test_no_answer_does_more_than_fail_in_one_line(office, folder, right_clock, answer):
    office.answer = answer
    async with office.serve() as url:
        with pytest.raises(EnrolmentFailed) as failure:
            await enrolled(office, url, folder, right_clock)
    assert str(failure.value).isprintable()


def test_papers_are_checked_against_everything_known():
    key = ec.generate_private_key(ec.SECP256R1())
    issued = OTHER.issue(key.public_key(), Subject.gateway("vienna-1/door", DAY_MS), now_ms(), 3)
    facts = Facts("vienna-1", "door", "", "", 1, OTHER.fingerprint.hex(), "")
    check_papers(issued.pem, OTHER.pem, facts, key.public_key())
    with pytest.raises(IdentityUnusable, match="names another gateway"):
        check_papers(issued.pem, OTHER.pem, msgspec.structs.replace(facts, store="x"), key.public_key())


# Time -------------------------------------------------------------------------------------------------

LIFE = Life(1000, 2000)


@pytest.mark.parametrize(
    ("now", "good", "synchronised", "reason"),
    [
        (1500, 0, True, None),
        (999, 0, True, "not valid yet"),
        (999, 0, False, None),
        (2001, 0, True, "run out"),
        (2001, 0, False, "run out"),
        (0, 1500, True, None),  # the clock went back; we know better
        (0, 2001, False, "run out"),
        (0, 999, True, "not valid yet"),
    ],
)
def test_certificates_are_judged_by_the_later_of_clock_and_memory(now, good, synchronised, reason):
    told = untimely(LIFE, now, good, synchronised)
    assert (told is None) if reason is None else reason in told


@given(st.integers(0, 3000), st.integers(0, 3000), st.booleans())
def test_nothing_that_ran_out_by_the_last_known_good_time_is_ever_believed(now, good, synchronised):
    if good > LIFE.not_after or now > LIFE.not_after:
        assert untimely(LIFE, now, good, synchronised) is not None


def test_a_good_time_outlives_the_plug_and_only_rises(folder, hand_clock):
    clock = hand_clock(is_synchronised=True, running=False, unix_zero=now_ms())
    forever = Life(0, now_ms() * 2)
    known = KnownTime(folder, clock)
    assert known.refuse(forever) is None
    reborn = hand_clock(running=False, unix_zero=0, now=0)
    assert KnownTime(folder, reborn).now() == clock.unix_ms()
    (folder / "last-good-time").write_text("soon")
    assert KnownTime(folder, reborn).now() == 0


def test_a_clock_sent_astray_leaves_no_trace_beyond_what_a_certificate_covered(folder, hand_clock):
    astray = hand_clock(is_synchronised=True, running=False, unix_zero=10**14)
    known = KnownTime(folder, astray)
    assert "run out" in known.refuse(Life(0, now_ms() + DAY_MS))
    repaired = hand_clock(is_synchronised=True, running=False, unix_zero=now_ms() - 1_000_000)
    assert KnownTime(folder, repaired).refuse(Life(0, now_ms() + DAY_MS)) is None


def test_an_unset_clock_teaches_nothing(folder, hand_clock):
    KnownTime(folder, hand_clock(unix_zero=now_ms())).refuse(Life(0, now_ms() * 2))
    assert not (folder / "last-good-time").exists()


# Papers on the disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 5))
async def test_the_old_papers_hold_until_the_new_ones_are_whole(
    office, folder, right_clock, monkeypatch, step
):
    calls, write = [], identity.replace_file

    def fail_at(path, content, mode):
        calls.append(path)
        if len(calls) == step:
            raise OSError(28, "No space left on device")
        write(path, content, mode)

    async with office.serve() as url:
        await enrolled(office, url, folder, right_clock)
        before = snapshot(folder)
        monkeypatch.setattr(identity, "replace_file", fail_at)
        with pytest.raises(OSError, match="space"):
            await enrolled(office, url, folder, right_clock, await office.token(bytes([7]) * 16))
    assert snapshot(folder) == before and len(calls) == step
    assert len([path for path in folder.iterdir() if path.name.startswith("identity-")]) == 1


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda papers: (papers / "key.pem").chmod(0o644), "open to other users"),
        (lambda papers: (papers / "certificate.pem").write_text("x"), "enrol anew"),
        (lambda papers: (papers / "certificate.pem").write_text(of_version_9(OTHER.pem)), "enrol anew"),
        (lambda papers: (papers / "identity.json").write_text("{}"), "enrol anew"),
        (lambda papers: (papers / "key.pem").unlink(), "enrol anew"),
    ],
)
async def test_damaged_papers_are_told_in_one_line(office, folder, right_clock, harm, words):
    async with office.serve() as url:
        await enrolled(office, url, folder, right_clock)
    harm(folder / IDENTITY)
    with pytest.raises(IdentityUnusable, match=words):
        load_identity(folder, ADDRESS)


async def test_papers_of_another_gateway_are_not_used(office, folder, right_clock):
    async with office.serve() as url:
        await enrolled(office, url, folder, right_clock)
    with pytest.raises(IdentityUnusable, match="is of vienna-1/door"):
        load_identity(folder, GatewayAddress("vienna-1", "till"))


# Renewal ----------------------------------------------------------------------------------------------


@given(st.floats(0, 1))
def test_renewal_is_due_at_two_thirds_of_life_or_a_little_before(chance):
    due = due_at(Life(0, 30 * DAY_MS), chance)
    assert 18.5 * DAY_MS - 1 <= due <= 20 * DAY_MS


async def test_a_certificate_is_renewed_in_time_and_the_next_dial_uses_it(
    office, folder, right_clock, wait_until
):
    async with office.serve(office.server_context()) as url:
        office.now = lambda: now_ms() - 21 * DAY_MS  # so that renewal is due
        first = await enrolled(office, url, folder, right_clock)
        office.now = now_ms
        tls = GatewayTls.of(folder / IDENTITY, KnownTime(folder, right_clock))
        keeper = CertificateKeeper(folder, first, KnownTime(folder, right_clock), Random(1))
        task = asyncio.create_task(keeper.run())
        await wait_until(lambda: task.done() or keeper.identity.serial != first.serial)
        task.cancel()
    second = load_identity(folder, ADDRESS)
    assert second.life.not_after > first.life.not_after and second.facts == first.facts
    assert not first.folder.exists() and second.key_file.read_bytes()
    assert tls.context().get_ca_certs()[0]["issuer"]


async def test_an_expired_certificate_renews_and_a_revoked_one_does_not(office, folder, right_clock):
    async with office.serve() as url:
        office.now = lambda: now_ms() - 40 * DAY_MS
        first = await enrolled(office, url, folder, right_clock)
        office.now = now_ms
        backend = Backend.at(url, bytes.fromhex(first.facts.authority), KnownTime(folder, right_clock))
        second = await asyncio.to_thread(enrol.renew, folder, ADDRESS, first, backend)
        assert second.life.not_after > now_ms()
        before = snapshot(folder)
        await office.state.write(lambda s: rows.revoke(s, "vienna-1/door", now_ms()))
        with pytest.raises(EnrolmentRefused, match="was revoked"):
            await asyncio.to_thread(enrol.renew, folder, ADDRESS, second, backend)
    assert snapshot(folder) == before


async def test_the_keeper_goes_on_trying(office, folder, right_clock, wait_until):
    async with office.serve() as url:
        office.now = lambda: now_ms() - 40 * DAY_MS
        first = await enrolled(office, url, folder, right_clock)
        office.now = now_ms
        attempts = []

        def busy(_request):
            attempts.append(1)
            return web.Response(status=503, body=b"{}")

        office.answer = busy
        keeper = CertificateKeeper(
            folder, first, KnownTime(folder, right_clock), Random(1), first_retry_seconds=0.01
        )
        task = asyncio.create_task(keeper.run())
        await wait_until(lambda: task.done() or len(attempts) >= 3)
        office.answer = None
        await wait_until(lambda: task.done() or keeper.identity.serial != first.serial)
        assert keeper.failures == 0
        task.cancel()


async def test_another_backend_cannot_take_a_gateway_over_at_its_renewal(office, folder, right_clock):
    async with office.serve() as url:
        first = await enrolled(office, url, folder, right_clock)
        before = snapshot(folder)
        backend = Backend.at(url, bytes.fromhex(first.facts.authority), KnownTime(folder, right_clock))
        for wrong in ({"authority": OTHER}, {"papers": {"config_key": "00" * 32}}):
            office.answer = forged(office, **wrong)
            with pytest.raises(EnrolmentRefused):
                await asyncio.to_thread(enrol.renew, folder, ADDRESS, first, backend)
    assert snapshot(folder) == before


# The command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "token", "words"),
    [
        ("https://backend.example", "ffe1mistyped", "checksum"),
        ("https://backend.example", "fft_something", "begins with ffe1"),
        ("http://backend.example", EnrolmentToken(bytes(16), bytes(32), bytes(32)).text(), "https://"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(tmp_path, backend, token, words):
    config = tmp_path / "gateway.toml"
    config.write_text('store = "vienna-1"\ngateway = "door"\ndata_dir = "data"\n')
    arguments = ["enroll", "--backend", backend, "--token", token, "--config", str(config)]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert token not in done.stderr


async def test_the_command_enrols_with_a_token_from_standard_input(office, tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text('store = "vienna-1"\ngateway = "door"\ndata_dir = "data"\n')
    token = await office.token()
    async with office.serve(office.server_context()) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", "enroll", "--backend", url, "--token", "-", "--config", str(config)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await process.communicate(f"{token.text()}\n".encode())
    assert (process.returncode, errors) == (0, b"")
    assert out == b"enrolled as vienna-1/door; broker broker.example:8883\n"
    facts = json.loads((tmp_path / "data" / IDENTITY / "identity.json").read_text())
    assert facts["gateway"] == "door"
