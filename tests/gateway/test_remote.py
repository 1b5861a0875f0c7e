"""Remote configuration on the gateway: what is believed, tried, kept, rolled back and never tried again."""

import asyncio
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway import remote
from gateway.app import Listener
from gateway.config import KEYS, ConfigError
from gateway.presence import Presence
from gateway.remote import ConfigurationRefused, Health, Memory, Remote, Trial
from gateway.scanner import Hearing
from sdk_bridge.wire.configuration import (
    Configuration,
    decode_settings,
    encode_document,
    encode_signed,
    to_sign,
)
from sdk_bridge.wire.topics import GatewayAddress

ADDRESS = GatewayAddress("vienna-1", "door")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
PUBLIC = KEY.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()
UUID = "11111111-2222-3333-4444-555555555555"
FINE = Health("hearing", True, 200, 10)


def message(version, settings=None, *, key=KEY, store="vienna-1", gateway="door"):
    decoded = decode_settings(json.dumps(settings or {}).encode())
    document = encode_document(Configuration(store, gateway, version, 1_800_000_000_000, decoded))
    return encode_signed(document, key.sign(to_sign(document)))


# What is believed -------------------------------------------------------------------------------------


def later_program():
    document = json.dumps(
        {"store": "vienna-1", "gateway": "door", "version": 7, "issued_at": 1, "settings": {"mqtt": {}}}
    ).encode()
    return encode_signed(document, KEY.sign(to_sign(document)))


def changed_by_a_bit(position):
    genuine = bytearray(message(1, {"log": {"level": "debug"}}))
    genuine[position] ^= 1
    return bytes(genuine)


def signed_as_something_else():
    document = encode_document(Configuration("vienna-1", "door", 1, 1, decode_settings(b"{}")))
    return encode_signed(document, KEY.sign(document))


@pytest.mark.parametrize(
    ("payload", "reason", "version"),
    [
        (b"", "not a configuration", 0),
        (b"\x93\xa5other\xc4\x00\xc4\x00", "not a configuration", 0),
        (bytes(200_000), "not a configuration", 0),
        (message(1, key=OTHER), "signature", 0),
        (changed_by_a_bit(40), "signature", 0),
        (changed_by_a_bit(-1), "signature", 0),
        (signed_as_something_else(), "signature", 0),
        (message(1, gateway="till"), "names another gateway", 0),
        (message(1, store="paris-1"), "names another gateway", 0),
        (later_program(), "settings: ", 7),
    ],
)
def test_what_is_not_genuine_or_not_for_us_is_refused(payload, reason, version):
    with pytest.raises(ConfigurationRefused) as refusal:
        remote.read_signed(payload, KEY.public_key(), ADDRESS)
    assert str(refusal.value).startswith(reason) and refusal.value.version == version


@given(st.binary(max_size=400))
def test_no_bytes_do_more_than_be_refused(payload):
    with pytest.raises(ConfigurationRefused):
        remote.read_signed(payload, KEY.public_key(), ADDRESS)


def test_a_genuine_one_is_read():
    configuration, document = remote.read_signed(
        message(3, {"log": {"level": "debug"}}), KEY.public_key(), ADDRESS
    )
    assert configuration.version == 3 and json.loads(document)["settings"] == {"log": {"level": "debug"}}


SETTLED = Memory(PUBLIC, highest=9, good="{}", good_version=5, version=9, state="rolled-back: deaf")


@pytest.mark.parametrize(
    ("memory", "version", "news"),
    [
        (Memory(PUBLIC), 1, True),
        (SETTLED, 10, True),
        (SETTLED, 9, False),  # rolled back once, and retained by the broker ever since
        (SETTLED, 5, False),  # the good one
        (SETTLED, 8, ConfigurationRefused),
        (SETTLED, 1, ConfigurationRefused),
    ],
)
def test_versions_only_rise(memory, version, news):
    if news is ConfigurationRefused:
        with pytest.raises(ConfigurationRefused, match="older"):
            remote.is_news(memory, version)
    else:
        assert remote.is_news(memory, version) is news


events = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(["good", "worse", "restart", "unsound"])), max_size=40
)


@given(events)
def test_no_version_is_ever_tried_twice_and_the_good_one_is_always_the_last_that_did_well(story):
    memory, tried, good = Memory(PUBLIC), [], 0
    for version, fate in story:
        try:
            news = remote.is_news(memory, version)
        except ConfigurationRefused as error:
            memory = remote.refused(memory, error)
            assert memory.state.startswith("refused: ") and memory.good_version == good
            continue
        if not news:
            memory = remote.repeated(memory, version)
        elif fate == "unsound":
            memory = remote.refused(memory, ConfigurationRefused("settings: no", version))
        else:
            tried.append(version)
            memory = remote.begun(memory, version, f"document {version}")
            assert (memory.version, memory.state) == (version, "trial")
            memory = remote.kept(memory) if fate == "good" else remote.rolled_back(memory, fate)
            good = version if fate == "good" else good
        assert memory.trial == "" and memory.good_version == good
    assert tried == sorted(set(tried))
    assert memory.good == (f"document {good}" if good else "")


def test_a_report_fits_the_wire_whatever_the_reason():
    memory = remote.refused(Memory(PUBLIC), ConfigurationRefused("settings: " + "é\n\0" * 200, 3))
    assert len(memory.state) <= 160 and memory.state.isascii() and memory.state.isprintable()


def test_after_a_refusal_the_good_version_is_reported_again_when_it_comes():
    memory = remote.refused(SETTLED, ConfigurationRefused("signature"))
    assert (memory.version, memory.state) == (0, "refused: signature")
    memory = remote.repeated(memory, 5)
    assert (memory.version, memory.state) == (5, "applied")


# How a trial goes -------------------------------------------------------------------------------------


def watch(before, course, step_ms=1000):
    """Looks once a second at `course(second)`; how it ended, and when."""
    trial = Trial(before, since_ms=1000)
    for second in range(1, 60):
        now = 1000 + second * step_ms
        finding = remote.look(trial, course(second), now)
        trial = finding.trial
        if finding.over:
            return finding.worse, second
    raise AssertionError("the trial never ended")


def steady(scan="hearing", connected=True, age=200, relayed=11):
    return lambda second: Health(scan, connected, age, relayed + second)


def offline_between(start, end):
    return lambda second: Health("hearing", not start <= second < end, 200, 10 + second)


@pytest.mark.parametrize(
    ("before", "course", "worse", "by"),
    [
        (FINE, steady(), "", 27),
        (FINE, steady("quiet"), "", 27),
        (FINE, steady("deaf"), "deaf", 1),
        (FINE, steady("starting"), "deaf", 27),  # its fixed beacon was not heard once
        (FINE, lambda second: Health("quiet", True, second * 1000, 10 + second), "no adverts", 10),
        (FINE, lambda second: Health("quiet", True, None, 10), "no adverts", 10),
        (FINE, lambda _second: Health("quiet", True, 100, 10), "relays nothing", 27),
        (FINE, steady(connected=False), "offline", 11),
        (FINE, offline_between(3, 9), "", 27),  # a broker that restarts is back in time
        (FINE, offline_between(3, 20), "offline", 13),
        (FINE, offline_between(24, 60), "offline", 27),
        (Health("deaf", True, 100, 10), steady("deaf"), "", 27),  # it was no better before
        (Health("quiet", True, None, 0), lambda _second: Health("quiet", True, None, 0), "", 27),
        (Health("quiet", True, 50_000, 10), lambda s: Health("quiet", True, 50_000 + s, 10), "", 27),
        (Health("starting", True, None, 0), steady("deaf"), "", 27),
    ],
)
def test_a_trial_ends_well_or_badly(before, course, worse, by):
    assert watch(before, course) == (worse, by)


health = st.builds(
    Health,
    st.sampled_from(["starting", "hearing", "quiet", "deaf"]),
    st.booleans(),
    st.none() | st.integers(0, 100_000),
    st.integers(0, 1000),
)


@given(health, st.lists(health, min_size=30, max_size=30))
def test_every_trial_is_over_within_thirty_seconds(before, course):
    _worse, second = watch(before, lambda second: course[second - 1])
    assert second <= 28


@pytest.mark.parametrize(
    ("now", "waited_ms", "begins"),
    [
        (FINE, 0, True),
        (Health("deaf", True, 10, 0), 0, True),
        (Health("starting", True, None, 0), 0, False),
        (Health("starting", True, None, 0), 60_000, True),
        (Health("hearing", False, 10, 0), 600_000, False),
    ],
)
def test_a_trial_needs_something_to_compare_with(now, waited_ms, begins):
    assert remote.may_begin(now, waited_ms) is begins


# The configuration that results -----------------------------------------------------------------------

FILE = f"""
store = "vienna-1"
gateway = "door"
data_dir = "data"
[mqtt]
host = "broker"
[allow]
ibeacon = ["{UUID}"]
eid = false
[presence]
near_dbm = -80
"""


def test_everything_remote_is_a_key_of_the_file_within_its_bounds(tmp_path):
    most = {
        "allow": {
            "ibeacon": [UUID],
            "eddystone": ["00112233445566778899"],
            "altbeacon": ["0011"],
            "url": ["https://shop.example/"],
            "eid": True,
        },
        "zone_beacons": {"keys": [f"ibeacon:{UUID}:1:2"], "silence_s": 3600},
        "presence": {"near_dbm": 0, "far_dbm": -127},
        "bluetooth": {"silence_s": 3600},
        "log": {"level": "error"},
    }
    settings = decode_settings(json.dumps(most).encode())
    assert settings.table() == most
    flat = {f"{section}.{name}" for section, entries in most.items() for name in entries}
    assert flat <= {key.name for key in KEYS}
    config = remote.overlaid({"store": "s", "gateway": "g", "data_dir": "d"}, settings.table(), tmp_path)
    assert config.fixed_silence_ms == 3_600_000 and config.log.level == "error"


def test_what_is_left_out_stays_as_the_file_has_it(tmp_path):
    base = {"store": "s", "gateway": "g", "data_dir": "d", "presence": {"near_dbm": -80, "far_dbm": -90}}
    config = remote.overlaid(base, {"presence": {"near_dbm": -70}}, tmp_path / "gateway.toml")
    assert (config.presence.near_dbm, config.presence.far_dbm) == (-70, -90)
    with pytest.raises(ConfigError, match="far_dbm"):
        remote.overlaid(base, {"presence": {"near_dbm": -95}}, tmp_path / "gateway.toml")
    assert base["presence"] == {"near_dbm": -80, "far_dbm": -90}


def test_what_was_heard_is_forgotten_only_when_other_beacons_are_expected(tmp_path, hand_clock):
    def config(**sections):
        return remote.overlaid({"store": "s", "gateway": "g", "data_dir": "d"}, sections, tmp_path / "g.toml")

    clock, first = hand_clock(), config()
    hearing = Hearing(first.fixed_beacons, first.fixed_silence_ms, 0)
    listener = Listener(first.allow, Presence(first.presence), hearing, clock)
    listener.adopt(config(allow={"ibeacon": [UUID]}, presence={"near_dbm": -70}))
    assert listener.hearing is hearing
    listener.adopt(config(zone_beacons={"keys": [f"ibeacon:{UUID}:1:2"]}))
    assert listener.hearing is not hearing and listener.hearing.state(clock.boot_ms(), True) == "starting"


# The rim ----------------------------------------------------------------------------------------------


class Shop:
    """A gateway in small: what was applied to it, how it is, and a clock that runs a second a look."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "gateway.toml"
        self.path.write_text(FILE)
        (folder / "data").mkdir(exist_ok=True)
        self.applied = []
        self.now = 0
        self.relayed = 0
        self.scan = lambda: "hearing"
        self.remote = None

    def open(self, key=PUBLIC):
        self.remote = Remote(self.path, self.folder / "data", ADDRESS, key, self.boot_ms, look_seconds=0.001)
        self.remote.apply = self.applied.append
        self.remote.health = self.health
        return self.remote.start()

    def boot_ms(self):
        return self.now

    def health(self):
        self.now += 1000
        self.relayed += 1
        return Health(self.scan(), True, 100, self.relayed)

    @property
    def levels(self):
        return [config.log.level for config in self.applied]


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


async def after(shop, payload, wait_until, *states, new=True):
    """Hands a message over and waits for the report that ends it."""
    task = asyncio.create_task(shop.remote.run())
    try:
        before = shop.remote.report
        shop.remote.receive(payload)
        if new:
            await wait_until(lambda: task.done() or shop.remote.report != before)
        await wait_until(lambda: task.done() or shop.remote.report[1].startswith(states))
        assert not task.done()
        return shop.remote.report
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_good_version_is_applied_without_a_restart_and_survives_one(shop, wait_until):
    assert shop.open().log.level == "info"
    assert shop.remote.report == (0, "")
    assert await after(shop, message(1, {"log": {"level": "debug"}}), wait_until, "applied") == (1, "applied")
    assert shop.levels == ["debug"]
    assert shop.open().log.level == "debug"
    assert shop.remote.report == (1, "applied")


async def test_a_bad_version_is_left_and_never_tried_again(shop, wait_until):
    shop.open()
    await after(shop, message(1, {"log": {"level": "warning"}}), wait_until, "applied")
    shop.scan = lambda: "deaf" if shop.levels[-1] == "error" else "hearing"
    bad = message(2, {"log": {"level": "error"}})
    assert await after(shop, bad, wait_until, "rolled-back") == (2, "rolled-back: deaf")
    assert shop.levels == ["warning", "error", "warning"]
    assert shop.open().log.level == "warning"
    await after(shop, bad, wait_until, "rolled-back", new=False)
    again = message(3, {"log": {"level": "error"}})
    assert await after(shop, again, wait_until, "rolled-back") == (3, "rolled-back: deaf")
    assert shop.levels == ["warning", "error", "warning", "error", "warning"]


async def test_a_process_that_dies_on_trial_rolls_back_when_it_starts(shop, wait_until):
    shop.open()
    payload = message(4, {"log": {"level": "error"}})
    await after(shop, payload, wait_until, "trial")  # and is cancelled there, as by SIGKILL
    assert shop.levels == ["error"]
    assert shop.open().log.level == "info"
    assert shop.remote.report == (4, "rolled-back: restart")
    await after(shop, payload, wait_until, "rolled-back", new=False)
    await after(shop, message(5, {"log": {"level": "debug"}}), wait_until, "applied")
    assert shop.levels == ["error", "debug"]


@pytest.mark.parametrize(
    ("payload", "report"),
    [
        (message(9, key=OTHER), (0, "refused: signature")),
        (message(1), (1, "refused: older than one before")),
        (message(9, gateway="till"), (0, "refused: names another gateway")),
        (
            message(9, {"presence": {"near_dbm": -95}}),
            (9, "refused: settings: `presence.far_dbm`: far_dbm -93 must lie below near_dbm -95"),
        ),
        (
            message(9, {"allow": {"ibeacon": ["beacon"]}}),
            (9, "refused: settings: `allow.ibeacon`: allow-list entry 'beacon' is not an iBeacon UUID"),
        ),
    ],
)
async def test_what_is_refused_is_reported_and_changes_nothing(shop, wait_until, payload, report):
    shop.open()
    await after(shop, message(2, {"log": {"level": "debug"}}), wait_until, "applied")
    assert await after(shop, payload, wait_until, "refused") == report
    assert shop.levels == ["debug"]
    assert shop.open().log.level == "debug"
    assert shop.remote.report == report


async def test_another_backends_key_starts_afresh(shop, wait_until):
    shop.open()
    await after(shop, message(40, {"log": {"level": "debug"}}), wait_until, "applied")
    other = OTHER.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()
    assert shop.open(other).log.level == "info"
    assert await after(shop, message(1, key=OTHER), wait_until, "applied") == (1, "applied")


async def test_a_file_that_no_longer_fits_stands_alone(shop, wait_until):
    shop.open()
    await after(shop, message(1, {"presence": {"far_dbm": -85}}), wait_until, "applied")
    shop.path.write_text(FILE.replace("-80", "-90"))
    config = shop.open()
    assert (config.presence.near_dbm, config.presence.far_dbm) == (-90, -93)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"key": 3}', b"\xff\x00"])
def test_a_damaged_memory_begins_anew(shop, damage):
    (shop.folder / "data" / remote.MEMORY_FILE).write_bytes(damage)
    assert shop.open().log.level == "info"
    assert shop.remote.report == (0, "")


async def test_nothing_is_tried_that_cannot_be_written_down(shop, wait_until, monkeypatch):
    shop.open()
    attempts = []

    def full(*_arguments):
        attempts.append(1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(remote, "replace_file", full)
        task = asyncio.create_task(shop.remote.run())
        shop.remote.receive(message(1, {"log": {"level": "debug"}}))
        await wait_until(lambda: attempts)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert shop.levels == []
    assert await after(shop, message(1, {"log": {"level": "debug"}}), wait_until, "applied") == (1, "applied")


async def test_of_many_only_the_newest_waits(shop, wait_until):
    shop.open()
    for version in (1, 2, 3):
        shop.remote.receive(message(version))
    assert await after(shop, message(4, {"log": {"level": "debug"}}), wait_until, "applied") == (4, "applied")
    assert shop.remote.dropped == 3 and shop.levels == ["debug"]
