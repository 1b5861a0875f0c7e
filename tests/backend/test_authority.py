"""The certificate authority and the rules of enrolment, with openssl as a second opinion."""

import datetime
import json
import ssl
import stat
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from backend.fleet import keys as key_files
from backend.fleet.authority import (
    DAY_MS,
    RequestRefused,
    Subject,
    der_of,
    new_authority,
    new_key,
    read_request,
    signed_by,
)
from backend.fleet.configurations import next_version, public_key, sign
from backend.fleet.enrolment import StoredCertificate, StoredToken, judge_renewal, judge_token
from backend.fleet.keys import AuthorityUnusable, open_keys
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.configuration import Configuration, decode_document, decode_settings, to_sign
from sdk_bridge.wire.enrolment import EnrolmentToken, RenewRequest, renewal

NOW = 1_800_000_000_000
NAME = "vienna-1/door"


def request_by(key, name=NAME):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def authority():
    return new_authority(NOW, 77)


def openssl(*arguments, at=NOW):
    return subprocess.run(
        ["openssl", "verify", "-x509_strict", "-attime", str(at // 1000), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


# Certificates -----------------------------------------------------------------------------------------


def test_a_gateways_certificate_names_it_and_is_for_clients_only(authority, tmp_path):
    public, _private = new_key()
    issued = authority.issue(public, Subject.gateway(NAME, 30 * DAY_MS), NOW, 4711)
    certificate = x509.load_pem_x509_certificate(issued.pem.encode())
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert name.value == NAME and list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (issued.serial, certificate.serial_number) == ("1267", 4711)
    assert (issued.not_before, issued.not_after) == (NOW - 300_000, NOW + 30 * DAY_MS)
    assert certificate.not_valid_after_utc.timestamp() * 1000 == issued.not_after
    assert issued.public_key == der_of(public)
    (tmp_path / "ca.pem").write_text(authority.pem)
    (tmp_path / "gateway.pem").write_text(issued.pem)
    trusted = ["-CAfile", tmp_path / "ca.pem", tmp_path / "gateway.pem"]
    assert openssl("-purpose", "sslclient", *trusted).returncode == 0
    assert openssl("-purpose", "sslserver", *trusted).returncode != 0
    assert "expired" in openssl(*trusted, at=NOW + 31 * DAY_MS).stderr


@pytest.mark.parametrize(
    "host", ["broker.example", "127.0.0.1", "::1", "a" * 63 + ".example.example.example"]
)
def test_a_servers_certificate_is_for_its_host(authority, tmp_path, host):
    public, _private = new_key()
    issued = authority.issue(public, Subject.server(host), NOW, 5)
    (tmp_path / "ca.pem").write_text(authority.pem)
    (tmp_path / "server.pem").write_text(issued.pem)
    check = "-verify_ip" if host[0] in "1:" else "-verify_hostname"
    trusted = ["-CAfile", tmp_path / "ca.pem", "-purpose", "sslserver", tmp_path / "server.pem"]
    assert openssl(check, host, *trusted).returncode == 0
    other = "127.0.0.2" if check == "-verify_ip" else "other.example"
    assert openssl(check, other, *trusted).returncode != 0


def test_the_revocation_list_takes_certificates_out_of_use(authority, tmp_path):
    public, _private = new_key()
    good, bad = (authority.issue(public, Subject.gateway(NAME, DAY_MS), NOW, serial) for serial in (8, 9))
    (tmp_path / "ca.pem").write_text(authority.pem)
    (tmp_path / "crl.pem").write_text(authority.revocations([(bad.serial, NOW)], NOW))
    for issued, word in ((good, "OK"), (bad, "revoked")):
        (tmp_path / "one.pem").write_text(issued.pem)
        told = openssl(
            "-crl_check",
            "-CAfile",
            tmp_path / "ca.pem",
            "-CRLfile",
            tmp_path / "crl.pem",
            tmp_path / "one.pem",
        )
        assert word in told.stdout + told.stderr


def test_two_authorities_never_share_a_name():
    names = {x509.load_pem_x509_certificate(new_authority(NOW, 1).pem.encode()).subject for _ in range(2)}
    assert len(names) == 2


@pytest.mark.parametrize("name", ["a" * 64 + "/b", "s" * 60 + "/door"])
def test_a_gateways_name_that_no_certificate_can_carry_is_refused(name):
    with pytest.raises(RequestRefused, match="64"):
        Subject.gateway(name, DAY_MS)


@pytest.mark.parametrize("host", ["", "two words", "br\nker", "bröker", "x" * 254])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(RequestRefused):
        Subject.server(host)


# Requests ---------------------------------------------------------------------------------------------


def forged():
    """A request whose signature is by another key than the one it names."""
    mine, victim = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem = request_by(mine)
    der = x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER)
    swapped = der.replace(der_of(mine.public_key()), der_of(victim.public_key()))
    return x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM).decode()


def of_version_9(pem: str) -> str:
    """A certificate, or a request for one, of a version that X.509 does not have."""
    kind = pem.splitlines()[0].strip("-").removeprefix("BEGIN ")
    der = ssl.PEM_cert_to_DER_cert(pem.replace(kind, "CERTIFICATE"))
    at = der.index(b"\x02\x01")  # the first whole number of one byte
    damaged = der[: at + 2] + b"\x08" + der[at + 3 :]
    return ssl.DER_cert_to_PEM_cert(damaged).replace("CERTIFICATE", kind)


@pytest.mark.parametrize(
    ("csr", "reason"),
    [
        (lambda: "", "PEM"),
        (lambda: "hello ä \0", "PEM"),
        (lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "PEM"),
        (lambda: request_by(rsa.generate_private_key(65537, 2048)), "P-256"),
        (lambda: request_by(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (lambda: request_by(ed25519.Ed25519PrivateKey.generate()), "P-256"),
        (forged, "own key"),
        (lambda: of_version_9(REQUEST.decode()), "PEM"),
    ],
    ids=["empty", "text", "not DER", "RSA", "P-384", "Ed25519", "another's key", "version 9"],
)
def test_requests_that_prove_nothing_are_refused(csr, reason):
    with pytest.raises(RequestRefused, match=reason):
        read_request(csr())


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_a_damaged_request_is_refused_or_is_the_same(position, junk):
    pem = bytearray(REQUEST)
    at = position % len(pem)
    pem[at : at + len(junk)] = junk
    try:
        key = read_request(pem.decode("latin-1"))
    except RequestRefused:
        return
    assert der_of(key) == der_of(REQUEST_KEY.public_key())


REQUEST_KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = request_by(REQUEST_KEY).encode()


# Tokens and renewals ----------------------------------------------------------------------------------

FRESH = StoredToken(NAME, NOW + 1000, None, void=False)
SPENT = StoredToken(NAME, NOW + 1000, b"mine", void=False)


@pytest.mark.parametrize(
    ("token", "name", "key", "now", "code"),
    [
        (FRESH, NAME, b"mine", NOW, None),
        (SPENT, NAME, b"mine", NOW, None),  # its answer got lost
        (None, NAME, b"mine", NOW, "token"),
        (SPENT, NAME, b"other", NOW, "token_used"),
        (FRESH, NAME, b"mine", NOW + 1000, "token_expired"),
        (SPENT, NAME, b"mine", NOW + 1000, "token_expired"),
        (FRESH, "vienna-1/till", b"mine", NOW, "name"),
        (StoredToken(NAME, NOW + 1000, None, void=True), NAME, b"mine", NOW, "token_void"),
    ],
)
def test_a_token_lets_one_key_of_one_gateway_in_while_it_lasts(token, name, key, now, code):
    refusal = judge_token(token, name, key, now)
    assert (refusal and refusal.code) == code
    assert refusal is None or (refusal.gateway is None) == (code == "token")


def present(**changes):
    fields = {
        "serial": "ab",
        "gateway": NAME,
        "public_key": der_of(REQUEST_KEY.public_key()),
        "not_after": NOW - 1,
        "revoked": False,
        "in_line": True,
    }
    return StoredCertificate(**{**fields, **changes})


def renew_request(key=REQUEST_KEY, serial="ab", signed_csr=None):
    csr = REQUEST.decode()
    signature = key.sign(renewal(serial, signed_csr or csr), ec.ECDSA(hashes.SHA256()))
    return RenewRequest(serial, csr, signature.hex())


STRANGER = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("certificate", "request_", "code"),
    [
        (present(), renew_request(), None),  # also after it ran out
        (None, renew_request(), "certificate"),
        (present(), renew_request(STRANGER), "certificate"),
        (present(), renew_request(signed_csr="another request"), "certificate"),
        (present(), RenewRequest("ab", REQUEST.decode(), "abc"), "certificate"),
        (present(), RenewRequest("ab", REQUEST.decode(), "00"), "certificate"),
        (present(revoked=True), renew_request(), "revoked"),
        (present(in_line=False), renew_request(), "superseded"),
        (present(revoked=True), renew_request(STRANGER), "certificate"),  # a stranger learns nothing
    ],
)
def test_a_certificate_is_followed_by_proof_of_its_key(certificate, request_, code):
    refusal = judge_renewal(certificate, request_)
    assert (refusal and refusal.code) == code


def test_a_key_of_another_kind_signs_nothing():
    other = ed25519.Ed25519PrivateKey.generate()
    der = other.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert not signed_by(der, other.sign(b"x"), b"x")


# The token's text -------------------------------------------------------------------------------------

TOKEN = EnrolmentToken(bytes(range(16)), bytes(range(32)), bytes(range(32, 64)))


def test_a_token_is_letters_and_digits_and_survives_what_people_do_to_it():
    text = TOKEN.text()
    assert text.isalnum() and text == text.lower() and len(text) == 139
    for pasted in (text, text.upper(), f"  {text[:50]}\n   {text[50:]}\r\n"):
        assert EnrolmentToken.parse(pasted) == TOKEN
    assert TOKEN.secret.hex() not in repr(TOKEN) and "secret" not in repr(TOKEN)


@given(st.integers(0, 138), st.characters(codec="ascii"))
def test_one_wrong_letter_is_noticed_and_never_quoted(position, letter):
    text = TOKEN.text()
    changed = text[:position] + letter + text[position + 1 :]
    if "".join(changed.split()).lower() == text:
        return
    with pytest.raises(WireError) as refusal:
        EnrolmentToken.parse(changed)
    assert text[10:20] not in str(refusal.value)


@given(st.text(max_size=500))
def test_no_text_breaks_the_parser(text):
    with pytest.raises(WireError):
        EnrolmentToken.parse(text)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_every_token_reads_back(secret, key):
    token = EnrolmentToken(secret, key, key[::-1])
    assert EnrolmentToken.parse(token.text()) == token


# Configurations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest", "reported", "next_one"),
    [(0, 0, 1), (4, 3, 5), (4, 9, 10), (4, 2**53, 5), (0, 1_000_000, 1_000_001)],
)
def test_versions_rise_also_after_a_restored_backup(newest, reported, next_one):
    assert next_version(newest, reported) == next_one


def test_a_configuration_is_signed_as_it_stands():
    key = ed25519.Ed25519PrivateKey.generate()
    settings = decode_settings(b'{"presence": {"near_dbm": -70}}')
    signed = sign(key, Configuration("vienna-1", "door", 3, NOW, settings))
    verifier = ed25519.Ed25519PublicKey.from_public_bytes(public_key(key))
    verifier.verify(signed.signature, to_sign(signed.document))
    assert decode_document(signed.document).settings == settings
    assert signed.topic.endswith("/vienna-1/door/down/config")


def test_a_configuration_too_long_for_the_wire_is_refused():
    keys = [f"ibeacon:{'x' * 90}:{number}" for number in range(1000)]
    settings = decode_settings(json.dumps({"zone_beacons": {"keys": keys}}).encode())
    with pytest.raises(WireError, match="exceeds"):
        sign(ed25519.Ed25519PrivateKey.generate(), Configuration("s", "g", 1, NOW, settings))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"mqtt": {"host": "elsewhere"}}',
        b'{"store": "other"}',
        b'{"allow": {"ibeacon": "x"}}',
        b'{"allow": {"ibeacon": ["with blank"]}}',
        b'{"allow": {"ibeacon": [null]}}',
        b'{"presence": {"near_dbm": 1}}',
        b'{"presence": {"near_dbm": -80.5}}',
        b'{"zone_beacons": {"silence_s": 4}}',
        b'{"bluetooth": {"adapters": ["hci1"]}}',
        b'{"log": {"level": "loud"}}',
        b'{"log": {"format": "json"}}',
        b"{" * 5000,
        b'{"allow": {"url": ["\xff"]}}',
    ],
)
def test_settings_of_another_shape_are_refused(text):
    with pytest.raises(WireError):
        decode_settings(text)


# Files ------------------------------------------------------------------------------------------------


def test_the_folder_is_made_once_and_its_keys_are_for_the_owner_alone(tmp_path):
    folder = tmp_path / "data" / "authority"
    first = open_keys(folder, NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {
        "authority.key": 0o600,
        "configuration.key": 0o600,
        "authority.pem": 0o644,
        "revoked.pem": 0o644,
    }
    again = open_keys(folder, NOW + DAY_MS)
    assert again.authority.fingerprint == first.authority.fingerprint
    assert public_key(again.signing) == public_key(first.signing)
    assert [path.name for path in folder.parent.iterdir()] == ["authority"]
    context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
    assert context.cert_store_stats()["x509_ca"] == 1


def test_of_two_processes_that_make_it_at_once_one_wins_and_both_use_it(tmp_path, monkeypatch):
    folder = tmp_path / "authority"
    rivals = []

    def make(*arguments):
        if not rivals:
            rivals.append(None)
            rivals[0] = open_keys(folder, NOW)
        return new_authority(*arguments)

    monkeypatch.setattr(key_files, "new_authority", make)
    mine = open_keys(folder, NOW)
    assert mine.authority.fingerprint == rivals[0].authority.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["authority"]


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda folder: (folder / "authority.key").chmod(0o640), "chmod 600"),
        (lambda folder: (folder / "configuration.key").chmod(0o604), "chmod 600"),
        (lambda folder: (folder / "authority.key").unlink(), "authority.key"),
        (lambda folder: (folder / "authority.pem").write_text("nothing"), "authority"),
        (
            lambda folder: (folder / "authority.pem").write_text(of_version_9(new_authority(NOW, 3).pem)),
            "version",
        ),
        (lambda folder: (folder / "authority.key").write_text("nothing"), "authority"),
        (lambda folder: (folder / "authority.pem").write_text(new_authority(NOW, 3).pem), "does not belong"),
        (lambda folder: (folder / "configuration.key").replace(folder / "authority.key"), "configuration"),
    ],
)
def test_damaged_or_open_files_are_told_in_one_line(tmp_path, harm, complaint):
    folder = tmp_path / "authority"
    open_keys(folder, NOW)
    harm(folder)
    with pytest.raises(AuthorityUnusable, match=complaint) as failure:
        open_keys(folder, NOW)
    assert "\n" not in str(failure.value)


def test_the_list_on_the_disk_is_replaced_whole(tmp_path):
    keys = open_keys(tmp_path / "authority", NOW)
    keys.write_revocations([("ab", NOW), ("cd", NOW)], NOW)
    listed = x509.load_pem_x509_crl(keys.revoked_file.read_bytes())
    assert {entry.serial_number for entry in listed} == {0xAB, 0xCD}
    assert listed.next_update_utc > datetime.datetime(2036, 1, 1, tzinfo=datetime.UTC)
