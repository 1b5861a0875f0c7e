"""The command `footfall-backend` as people run it: tokens, one owner a folder, one line for a mistake."""

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import main

COMMAND = [sys.executable, "-c", "from backend.cli import main; main()"]


@pytest.fixture
def config(tmp_path):
    """A settings file with a port nobody uses, and no broker: gateways come later."""
    with socket.create_server(("127.0.0.1", 0)) as probe, socket.create_server(("127.0.0.1", 0)) as other:
        port, broker = probe.getsockname()[1], other.getsockname()[1]
    path = tmp_path / "backend.toml"
    path.write_text(f'data_dir = "{tmp_path}/data"\n[http]\nport = {port}\n[mqtt]\nport = {broker}\n')
    return path


def run(*arguments: str, config=None) -> subprocess.CompletedProcess:
    options = [] if config is None else ["--config", str(config)]
    return subprocess.run(
        [*COMMAND, *arguments, *options], capture_output=True, text=True, timeout=30, check=False
    )


def run_here(*arguments: str, config) -> subprocess.CompletedProcess:
    """The same inside this process: to start one costs a second."""
    result = CliRunner().invoke(main, [*arguments, "--config", str(config)])
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def only_line(text: str) -> str:
    [line] = text.splitlines()
    return line


def ask(config, path: str, token: str = "") -> int:
    port = config.read_text().split("port = ")[1].split()[0]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own backend
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@contextmanager
def serving(config):
    process = subprocess.Popen(
        [*COMMAND, "serve", "--config", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "the backend did not come up"
            try:
                if ask(config, "/health") == 200:
                    break
            except OSError:
                time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_token_on_a_fresh_folder_and_beside_a_running_backend(config):
    early = only_line(run("token", "create", "--role", "viewer", "--name", "early", config=config).stdout)
    with serving(config) as process:
        assert ask(config, "/api/stores") == 401
        assert ask(config, "/api/stores", early) == 200
        late = only_line(run("token", "create", "--role", "admin", "--name", "late", config=config).stdout)
        assert late.startswith("fft_")
        assert ask(config, "/api/audit", late) == 200
        assert ask(config, "/api/audit", early) == 403
        listed = run_here("token", "list", config=config).stdout
        assert listed.splitlines() == ["early\tviewer\tin use", "late\tadmin\tin use"]
        assert run_here("token", "revoke", "--name", "early", config=config).stdout == "1 revoked\n"
        assert ask(config, "/api/stores", early) == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, process.stderr.read()
    assert "early\tviewer\trevoked" in run_here("token", "list", config=config).stdout


def test_a_second_backend_refuses_in_one_line_and_the_first_goes_on(config):
    with serving(config) as first:
        second = run("serve", config=config)
        assert second.returncode != 0
        line = only_line(second.stderr)
        assert "is in use by another backend" in line
        assert str(config.parent / "data") in line
        assert ask(config, "/health") == 200
        first.kill()
        first.wait()
    with serving(config):  # the lock dies with its process, also by SIGKILL
        pass


def test_a_port_in_use_is_told(config):
    port = int(config.read_text().split("port = ")[1].split()[0])
    with socket.create_server(("127.0.0.1", port)):
        refused = run("serve", config=config)
    assert refused.returncode != 0
    assert "in use" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("command", [["serve"], ["token", "list"], ["token", "create", "--role", "viewer"]])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "data_dir: this key is required"),
        ('data_dir = "d"\n[http]\nprot = 1', "http.prot: unknown key; did you mean `port`?"),
        ('data_dir = "d"\n[http]\nport = 99999', "http.port: it may be a whole number from 0 to 65535"),
        (None, "cannot be read: No such file or directory; name yours with --config FILE"),
    ],
)
def test_a_bad_file_ends_with_one_line(tmp_path, command, text, line):
    path = tmp_path / "backend.toml"
    if text is not None:
        path.write_text(text)
    ended = run_here(*command, config=path)
    assert ended.returncode != 0
    assert only_line(ended.stderr) == f"{path}: {line}"
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["create", "--role", "king"],
            "--role: king is unknown; it may be viewer, marketer, operator or admin",
        ),
        (
            ["revoke", "--name", "nobody"],
            "no token in use is named nobody; see `footfall-backend token list`",
        ),
    ],
)
def test_a_wrong_word_is_told(config, arguments, line):
    ended = run_here("token", *arguments, config=config)
    assert ended.returncode != 0
    assert only_line(ended.stderr) == line


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "data").write_text("in the way")
    path = tmp_path / "backend.toml"
    path.write_text(f'data_dir = "{tmp_path}/data"')
    for how, command in ((run, ["serve"]), (run_here, ["token", "list"])):
        ended = how(*command, config=path)
        assert ended.returncode != 0
        assert "data" in only_line(ended.stderr)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("127.0.0.1:{port}/shop", "127.0.0.1/shop, {area}: PostgreSQL is not reached: Connection refused; "),
        ("/shop?host=/nowhere", "postgresql/shop, {area}: PostgreSQL is not reached: No such file "),
        ("127.0.0.1:99999/shop", "127.0.0.1/shop, {area}: database.url cannot be used: it may be postgresql://"),
        ("[::1/shop", "postgresql, {area}: database.url cannot be used: it may be postgresql://"),
        ("h/shop?sslmode=maybe", "h/shop, {area}: database.url cannot be used: `sslmode` parameter must be "),
    ],
)  # fmt: skip
def test_a_postgresql_that_is_not_reached_is_one_line_that_says_what_to_look_at(config, address, line):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"postgresql://footfall:secret@{address.format(port=port)}"
    config.write_text(f'data_dir = "{config.parent}/data"\ndatabase.url = "{url}"\n')
    told = only_line(run_here("token", "list", config=config).stderr)
    assert told.startswith(line.format(area="state"))
    assert "database.url" in told
    assert "secret" not in told
    assert "Errno" not in told
    if "port" in address:  # to start one costs two seconds
        started = only_line(run("serve", config=config).stderr)
        assert started.startswith(f"{config}: {line.format(area='journal')}")


def test_commands_need_only_what_they_use_of_the_files_that_settings_name(config):
    """`authority client-certificate` makes the very files that [mqtt] names."""
    tls = config.parent / "tls"
    names = f'ca = "{tls}/ca.pem"\ncertificate = "{tls}/client.pem"\nkey = "{tls}/client.key"\n'
    config.write_text(config.read_text() + names)
    assert only_line(run("serve", config=config).stderr).startswith(
        f"{config}: mqtt.ca: {tls}/ca.pem is not there"
    )
    assert run_here("authority", "client-certificate", "--out", str(tls), config=config).returncode == 0
    with serving(config):
        pass


def is_lock(path: Path) -> bool:
    return path.name == "owner.lock" or path.name.endswith("-turn")


def test_what_the_page_says_to_back_up_is_enough_and_none_of_it_is_forgotten(config):
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8").partition("## Backup")[2]
    data, text = config.parent / "data", config.read_text()
    with serving(config) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(15)
    told = set(re.findall(r"`([a-z]+(?:\.key|\.db|/))`", page.partition("\n## ")[0]))
    kept = {f"{path.name}/" if path.is_dir() else path.name for path in data.iterdir() if not is_lock(path)}
    assert told == kept
    restored = config.parent / "restored"
    restored.mkdir()
    for name in ("state.db", "journal.db"):
        with closing(sqlite3.connect(data / name)) as kept, closing(sqlite3.connect(restored / name)) as copy:
            kept.backup(copy)
    config.write_text(text.replace(str(data), str(restored)))
    told = only_line(run("serve", config=config).stderr)
    assert told.startswith(f"{config}: {restored}/erasure.key is not there; copy it from the backup, or ")
    for secret in data.glob("*.key"):
        shutil.copy(secret, restored)
    with serving(config):
        pass


def test_a_damaged_database_is_one_line(config):
    folder = config.parent / "data"
    folder.mkdir()
    (folder / "state.db").write_bytes(b"no database at all " * 500)
    for how, command in ((run, ["serve"]), (run_here, ["token", "list"])):
        ended = how(*command, config=config)
        assert ended.returncode != 0
        assert "state.db: file is not a database" in only_line(ended.stderr)


def test_the_log_can_be_json(config):
    config.write_text(config.read_text() + "[log]\njson = true\n")
    with serving(config) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(15)
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert {"serving", "stopped"} <= {line["event"] for line in lines}
