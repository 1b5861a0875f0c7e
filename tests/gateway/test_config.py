"""The configuration file: what it may hold, and the one line an operator reads when it may not."""

import contextlib
from pathlib import Path

import pytest
import structlog

from gateway.allow import AllowList
from gateway.config import KEYS, ConfigError, load
from gateway.log import Repeats
from sdk_bridge.wire.topics import partition_of

UUID = "11111111-2222-3333-4444-555555555555"
LEAST = 'store = "shop"\ngateway = "door"\ndata_dir = "data"\nmqtt.host = "broker"\n'


@pytest.fixture
def write(tmp_path):
    def make(text, name="gateway.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


def test_four_keys_are_enough_and_paths_are_relative_to_the_file(write, tmp_path):
    config = load(write(LEAST))
    assert config.address.topic("up") == f"footfall/1/{partition_of('shop')}/shop/door/up"
    assert config.data_dir == tmp_path / "data"
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.tls) == ("broker", 1883, None)
    assert config.bluetooth.adapters == ("hci0",) and config.bluetooth.silence_ms == 90_000
    assert config.allow == AllowList() and config.outbox_bytes == 256 * 1024 * 1024


def test_everything_can_be_said(write, tmp_path):
    for name in ("ca.pem", "mine.pem", "mine.key"):
        write("", name)
    write("secret word\nsecond line\n", "password")
    config = load(
        write(
            LEAST
            + f"""
mqtt.port = 8883
mqtt.username = "door"
mqtt.password_file = "password"
mqtt.ca = "ca.pem"
mqtt.certificate = "mine.pem"
mqtt.key = "mine.key"
[bluetooth]
adapters = ["hci0", "hci1"]
silence_s = 60
restart_bluetoothd = true
[allow]
ibeacon = ["{UUID.upper()}"]
eddystone = ["{"ab" * 10}"]
altbeacon = ["abcd"]
url = ["https://shop.example/"]
eid = false
[zone_beacons]
keys = ["ibeacon:{UUID.upper()}:1:2"]
silence_s = 20
[presence]
near_dbm = -80
far_dbm = -90
[outbox]
max_mb = 64
[log]
level = "debug"
format = "json"
"""
        )
    )
    assert config.mqtt.password == "secret word" and "secret word" not in repr(config.mqtt.tls)
    assert config.mqtt.tls.key == tmp_path / "mine.key"
    assert config.fixed_beacons == {f"ibeacon:{UUID}:1:2"} and config.fixed_silence_ms == 20_000
    assert not config.allow.eid and config.allow.url_prefixes == ("https://shop.example/",)
    assert config.presence.near_dbm == -80 and config.log.format == "json"


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("mqtt.hots = 1", "unknown key `mqtt.hots`; did you mean `mqtt.host`?"),
        ("stroe = 1", "unknown key `stroe`; did you mean `store`?"),
        ("qqq = 1", "unknown key `qqq`"),
        ("mqtt.port = 0", "`mqtt.port` may be 1 to 65535, not 0"),
        ("mqtt.port = true", "`mqtt.port` may be 1 to 65535, not True"),
        ('mqtt.port = "1883"', "`mqtt.port` may be 1 to 65535, not 1883"),
        ("mqtt.username = 'a\\b'\nmqtt.password = ''", "`mqtt.password` may be text, not "),
        ("bluetooth.adapters = []", '`bluetooth.adapters` may be a list such as ["hci0"], not []'),
        ('bluetooth.adapters = ["../x"]', '`bluetooth.adapters` may be a list such as ["hci0"], not ['),
        ('allow.ibeacon = ["abc"]', "`allow.ibeacon`: allow-list entry 'abc' is not an iBeacon UUID"),
        ("allow.eid = 1", "`allow.eid` may be true or false, not 1"),
        ("presence.near_dbm = -95", "`presence.far_dbm`: far_dbm -93 must lie below near_dbm -95"),
        ("presence = 3", "unknown key `presence`"),
        ('log.level = "loud"', "`log.level` may be debug, info, warning or error, not loud"),
        ("outbox.max_mb = 0", "`outbox.max_mb` may be 1 to 65536 megabytes, not 0"),
        ('mqtt.key = "k"', "`mqtt.certificate` and `mqtt.key` belong together"),
        ('mqtt.ca = "none.pem"', "`mqtt.ca` may be a path to a file; "),
        ('mqtt.password_file = "none"', "`mqtt.password_file` may be a path to a readable file of one line"),
        ('mqtt.password_file = "x"\nmqtt.password = "y"', "exclude each other"),
        ("= 3", "not TOML: "),
        ("mqtt.host.deeper = 3", "not TOML: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_file_and_the_key(write, more, complaint):
    path = write(LEAST + more)
    with pytest.raises(ConfigError) as failure:
        load(path)
    text = str(failure.value)
    assert text.startswith(f"{path}: ") and complaint in text and "\n" not in text


@pytest.mark.parametrize("key", [key for key in KEYS if key.required], ids=lambda key: key.name)
def test_a_missing_key_is_named_with_what_it_may_be(write, key):
    text = "\n".join(line for line in LEAST.splitlines() if not line.startswith(key.name))
    with pytest.raises(ConfigError, match=f"`{key.name}` is missing: .*; it may be {key.may_be}"):
        load(write(text))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 2_000_000, b"a = " + b"[" * 100_000])
def test_what_is_no_configuration_at_all_is_one_line_too(tmp_path, content):
    path = tmp_path / "gateway.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as failure:
        load(path)
    assert "\n" not in str(failure.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"nowhere\.toml: cannot be read: No such file or directory; name yours with --config FILE$",
    ):
        load(Path(tmp_path / "nowhere.toml"))


def test_every_default_is_a_value_its_own_key_allows():
    for key in KEYS:
        assert key.required or key.default is None or key.check(key.default), key.name
        assert key.meaning and key.may_be


def test_a_message_that_repeats_itself_is_counted_and_not_repeated():
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    told = []
    for second in range(25):
        now[0] = float(second)
        for adapter in ("hci0", "hci1"):
            with contextlib.suppress(structlog.DropEvent):
                told.append(repeats(None, "warning", {"event": "cannot scan", "adapter": adapter}))
    assert [event.get("repeated", 0) for event in told] == [0, 0, 9, 9, 9, 9]
