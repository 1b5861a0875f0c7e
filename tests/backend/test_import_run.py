"""A run of an import that dies between any two of its steps; and patience with a backend that is away."""

import csv
import json
import signal
import socket
import ssl
import threading
import time

import pytest

from backend.imports import run as run_module
from backend.imports import sending
from backend.imports.reading import Read
from backend.imports.rows import ContactRow, Imported, RowError
from backend.imports.run import ImportRun, RunUnusable, fingerprint
from backend.imports.sending import Backend, SendingStopped

ROWS = 2_300


class Died(BaseException):
    """As SIGKILL: nothing after it runs."""


def reads():
    """A row, or for every seventh an error."""
    for n in range(ROWS):
        if n % 7 == 6:
            yield Read(errors=(RowError(n + 2, "broken"),))
        else:
            yield Read((ContactRow(line=n + 2, user_id=f"u{n}", as_of=1),))


class Shop:
    """A backend that knows what it has, and refuses one row."""

    def __init__(self):
        self.has, self.taken = set(), []

    def __call__(self, batch):
        rows = [json.loads(bytes(row)) for row in batch.rows]
        fresh = [
            row["user_id"] for row in rows if row["user_id"] not in self.has and row["user_id"] != "u701"
        ]
        refused = [RowError(row["line"], "refused") for row in rows if row["user_id"] == "u701"]
        self.has.update(fresh)
        self.taken += fresh
        return Imported(len(fresh), len(rows) - len(fresh) - len(refused), refused)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "contacts.csv"
    path.write_text("id\n" + "x\n" * ROWS)
    return path


def begin(file, mark="same"):
    return ImportRun(file, mark, lambda: "run-1")


def told_errors(file):
    with file.with_name(f"{file.name}.errors.csv").open(newline="") as errors:
        return [(int(line), reason) for line, reason in list(csv.reader(errors))[1:]]


WANTED = sorted([(n + 2, "broken") for n in range(6, ROWS, 7)] + [(703, "refused")])
STEPS = ["before the backend", "behind the backend", "behind the errors", "in the state", "behind the state"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("at", [1, 2, 4])
def test_whoever_dies_between_two_steps_goes_on_without_loss_or_doubles(file, monkeypatch, step, at):
    shop, replace, count = Shop(), run_module.replace_file, 0

    def dying_send(batch):
        nonlocal count
        count += 1
        if step == STEPS[0] and count == at:
            raise Died
        answer = shop(batch)
        if step == STEPS[1] and count == at:
            raise Died
        return answer

    def dying_replace(path, content, mode):
        if step == STEPS[2] and count == at:
            raise Died
        if step == STEPS[3] and count == at:
            path.with_name(f".{path.name}.draft").write_bytes(content[: len(content) // 2])
            raise Died
        replace(path, content, mode)
        if step == STEPS[4] and count == at:
            raise Died

    monkeypatch.setattr(run_module, "replace_file", dying_replace)
    with pytest.raises(Died):
        begin(file).go(reads(), dying_send, lambda: None)
    monkeypatch.setattr(run_module, "replace_file", replace)
    again = begin(file)
    assert again.is_resumed is (at > 1 or step == STEPS[4])
    saved = again.go(reads(), shop, lambda: None)
    assert shop.taken == [f"u{n}" for n in range(ROWS) if n % 7 != 6 and n != 701]
    assert told_errors(file) == WANTED
    assert (saved.new + saved.known, saved.errors) == (len(shop.taken), len(WANTED))
    again.finish()
    assert list(file.parent.glob("contacts*.json*")) == []


def test_what_follows_is_read_while_a_batch_is_on_its_way(file):
    shop, further = Shop(), threading.Event()

    def watched():
        for number, read in enumerate(reads()):
            if number == 1_000:  # well behind the first batch
                further.set()
            yield read

    def send(batch):
        assert further.wait(10), "nothing is read until the backend has answered"
        return shop(batch)

    begin(file).go(watched(), send, lambda: None)
    assert len(shop.taken) == len([n for n in range(ROWS) if n % 7 != 6 and n != 701])


def test_a_file_that_breaks_while_it_is_read_ahead_costs_nothing_that_was_read(file):
    shop = Shop()

    def breaking():
        for number, read in enumerate(reads()):
            if number == 1_500:
                raise ValueError("broken in the middle")
            yield read

    with pytest.raises(ValueError, match="broken in the middle"):
        begin(file).go(breaking(), shop, lambda: None)
    again = begin(file)
    assert 0 < again.saved.done == max(int(name[1:]) for name in shop.taken) + 1
    again.go(reads(), shop, lambda: None)
    assert shop.taken == [f"u{n}" for n in range(ROWS) if n % 7 != 6 and n != 701]


def test_who_stops_a_run_that_goes_on_does_not_wait_until_all_that_is_done_is_read(file):
    begin(file).go(reads(), Shop(), lambda: None)
    read = 0

    def slow():
        nonlocal read
        for read, one in enumerate(reads(), start=1):
            if read == 10:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as Ctrl-C does
            time.sleep(0.001)
            yield one

    with pytest.raises(KeyboardInterrupt):
        begin(file).go(slow(), Shop(), lambda: None)
    assert read < ROWS // 2


def test_another_file_or_mapping_begins_anew(file):
    begin(file).go(reads(), Shop(), lambda: None)
    assert begin(file).is_resumed
    assert not begin(file, "other").is_resumed
    mark = fingerprint(file, "a")
    assert mark == fingerprint(file, "a") != fingerprint(file, "b")
    file.write_text("id\n" + "y\n" * ROWS)
    assert mark != fingerprint(file, "a")


@pytest.mark.parametrize("rubbish", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"fingerprint": "same"}'])
def test_a_damaged_state_begins_anew(file, rubbish):
    file.with_name("contacts.csv.import.json").write_bytes(rubbish)
    run = begin(file)
    assert not run.is_resumed
    run.go(reads(), Shop(), lambda: None)
    assert told_errors(file) == WANTED


def test_errors_that_somebody_deleted_meanwhile_do_not_come_back_as_zeros(file):
    shop = Shop()
    begin(file).go(list(reads())[:1_000], shop, lambda: None)
    file.with_name("contacts.csv.errors.csv").unlink()
    begin(file).go(reads(), shop, lambda: None)
    assert told_errors(file) == [error for error in WANTED if error[0] > 1_001]


def test_a_folder_that_takes_no_files_is_told(file):
    run = begin(file)
    file.with_name("contacts.csv.errors.csv").mkdir()
    with pytest.raises(RunUnusable, match=r"errors\.csv"):
        run.go(reads(), Shop(), lambda: None)


# Sending --------------------------------------------------------------------------------------------------


def backend(monkeypatch, answers):
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    made = Backend("http://shop.example", "t", None, sleep, lambda: now[0])
    given = iter(answers)

    def once(_self, _path, _content):
        answer = next(given)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Backend, "_once", once)
    return made, slept


def come_again():
    return sending._ComeAgain("busy")


def test_a_backend_that_is_away_is_asked_again_ever_less_often(monkeypatch):
    made, slept = backend(monkeypatch, [come_again()] * 8 + [b'{"new": 1, "known": 0}'])
    assert made.post("/x", {}, Imported) == Imported(1, 0)
    assert slept == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_patience_ends(monkeypatch):
    made, slept = backend(monkeypatch, [come_again()] * 1_000)
    with pytest.raises(SendingStopped, match="busy"):
        made.post("/x", {}, Imported)
    assert 100 < sum(slept) <= 120


def answering(*answers):
    """A server that sends these bytes, one to each connection, and closes it; its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


WHOLE = b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"new": 1, "known": 0}'


def test_an_answer_that_breaks_off_is_asked_for_again():
    """A backend killed at any instant: before a word, in the head, in the body; or busy, or starting."""
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    url = answering(b"", WHOLE[:10], WHOLE[:-5], busy, WHOLE)
    made = Backend(url, "t", ssl.create_default_context(), lambda _: None)
    assert made.post("/x", {}, Imported) == Imported(1, 0)


def test_a_redirect_is_not_followed_with_the_token():
    elsewhere = b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n"
    made = Backend(answering(elsewhere), "t", ssl.create_default_context(), lambda _: None)
    with pytest.raises(SendingStopped, match="302"):
        made.post("/x", {}, Imported)


def test_what_is_no_backend_of_ours_is_told(monkeypatch):
    made, _ = backend(monkeypatch, [b"<html>"])
    with pytest.raises(SendingStopped, match="no Footfall backend"):
        made.post("/x", {}, Imported)
