"""backend.toml: what it may say, and the one line that each mistake gets."""

import re
from datetime import UTC, datetime

import pytest
from msgspec import Struct
from msgspec.structs import fields

from backend.config import Config, read_config
from sdk_bridge.settings import SettingsError
from simulators.certificates import Authority


def read(tmp_path, text: str) -> Config:
    path = tmp_path / "backend.toml"
    path.write_text(text)
    return read_config(path)


def test_a_data_folder_is_enough_and_the_rest_is_careful(tmp_path):
    config = read(tmp_path, 'data_dir = "/var/lib/footfall"')
    assert str(config.folder) == "/var/lib/footfall"
    assert config.http.host == "127.0.0.1"
    assert config.push is None
    broker = config.mqtt.broker("me")
    assert (broker.host, broker.port, broker.client_id, broker.tls) == ("127.0.0.1", 1883, "me", None)


def test_everything_said(tmp_path):
    for name in ("password", "firebase.json"):
        (tmp_path / name).write_text("secret\n")
    authority = Authority(tmp_path, datetime.now(UTC))
    certificate, key = authority.issue_client("footfall-backend")
    config = read(
        tmp_path,
        f"""
        data_dir = "data"
        [http]
        host = "0.0.0.0"
        port = 80
        [mqtt]
        host = "broker"
        port = 8883
        username = "backend"
        password_file = "{tmp_path}/password"
        ca = "{authority.ca}"
        certificate = "{certificate}"
        key = "{key}"
        [push]
        service_account = "{tmp_path}/firebase.json"
        send_url = "http://127.0.0.1:1"
        [log]
        level = "debug"
        json = true
        """,
    )
    broker = config.mqtt.broker("me")
    assert (broker.username, broker.password) == ("backend", "secret")
    assert "secret" not in repr(broker)
    assert broker.tls.certificate == certificate
    assert config.push.service_account.endswith("firebase.json")
    assert config.log.json


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "data_dir: this key is required"),
        ('data_dir = ""', "data_dir: it may be a text in quotes, not empty"),
        ("data_dir = 7", "data_dir: it may be a text in quotes, not empty; this is a whole number"),
        ('data_dir = "d"\n[http]\nport = 70000', "http.port: it may be a whole number from 0 to 65535"),
        ('data_dir = "d"\n[http]\nhost = ""', "http.host: it may be a text in quotes, not empty"),
        ('data_dir = "d"\n[http]\nprot = 1', "http.prot: unknown key; did you mean `port`?"),
        ('data_dir = "d"\n[mqqt]\nport = 1', "mqqt: unknown key; did you mean `mqtt`?"),
        ('data_dir = "d"\n[mqtt]\ncertificate = "c"', "mqtt: certificate and key belong together"),
        ('data_dir = "d"\n[mqtt]\nkey = "k"\ncertificate = "c"', "mqtt: ca is required beside certificate"),
        (
            'data_dir = "d"\n[mqtt]\nport = "1883"',
            "mqtt.port: it may be a whole number from 1 to 65535; this is a text in quotes",
        ),
        ('data_dir = "d"\n[mqtt]\nusername = "u"', "mqtt: username and password_file belong together"),
        ('data_dir = "d"\n[mqtt]\npassword_file = "/p"', "mqtt: username and password_file belong together"),
        (
            'data_dir = "d"\n[log]\njson = "yes"',
            "log.json: it may be true or false; this is a text in quotes",
        ),
        ('data_dir = "d"\n[database]\nurl = "mysql://x"', "database.url: it may be postgresql://USER@HOST/"),
        ('data_dir = "d"\n[push]\nsend_url = "http://x"', "push.service_account: this key is required"),
        (
            'data_dir = "d"\n[push]\nservice_account = "f"\nsend_url = "ftp://x"',
            "push.send_url: it may be an address such as https://example.org",
        ),
        ('data_dir = "d"\n[http]\ncertificate = "/etc/passwd"\nkey = "/etc/passwd"', "http.certificate: "),
        ('data_dir = "d"\n[mqtt]\nca = "/etc/passwd"', "mqtt: "),
        ('data_dir = "d"\n[log]\nlevel = "loud"', "log.level: it may be debug, info, warning or error"),
        ('data_dir = "d"\nhttp = 3', "http: it may be a table with keys of its own; this is a whole number"),
        ("data_dir = 'd", "not TOML: "),
    ],
)
def test_each_mistake_is_one_line_that_names_file_and_key(tmp_path, text, line):
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/backend.toml: {line}"), message
    assert "\n" not in message


def test_of_every_key_the_words_for_what_it_may_be_are_known(tmp_path):
    tables = [(field.encode_name, field.type) for field in fields(Config)]
    keys = [f"{name}.{key.encode_name}" for name, kind in tables for key in fields_of_table(kind)]
    for key in ["data_dir", *keys]:
        with pytest.raises(SettingsError) as caught:
            read(tmp_path, f"data_dir = 'd'\n{key} = [1]" if key != "data_dir" else "data_dir = [1]")
        said = re.fullmatch(rf"\S+: {re.escape(key)}: it may be (.+); this is a list", str(caught.value))
        assert said, str(caught.value)
        assert "something else" not in said[1]


def fields_of_table(kind: object) -> tuple:
    options = (kind, *getattr(kind, "__args__", ()))
    return next((fields(one) for one in options if isinstance(one, type) and issubclass(one, Struct)), ())
