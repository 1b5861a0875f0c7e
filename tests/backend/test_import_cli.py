"""`footfall-backend import` as people run it, against a backend that runs, is killed, or is not there."""

import csv
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from backend.cli import main
from simulators.backend_process import BackendProcess

COMMAND = [sys.executable, "-m", "backend", "import"]
CONTACTS = """KdNr;E-Mail;Vorname;Telefon;Kunde seit;Push;Einwilligung am
4711;Anna@Example.com;Anna;0664 1234567;01.03.2019;ja;05.05.2020
4712;;Bärbel;;;nein;
;only@example.com;Otto;;;;
4713;broken;Udo;;;;
"""
MAPPING = [
    "--map", "user_id=KdNr", "--map", "email=E-Mail", "--map", "phone=Telefon",
    "--map", "trait.firstName=Vorname", "--map", "created_at=Kunde seit",
    "--map", "consent.push=Push", "--map", "consent_at=Einwilligung am",
]  # fmt: skip
ORDERS = [
    "--map",
    "order_id=order",
    "--map",
    "user_id=who",
    "--map",
    "ordered_at=day",
    "--map",
    "amount=amount",
]


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    with BackendProcess(tmp_path_factory.mktemp("backend")) as process:
        yield process


@pytest.fixture(scope="module")
def token(backend):
    return backend.token("marketer")


def run(kind, file, *options, backend=None, token=""):
    """The command inside this process: to start one costs a second."""
    where = [] if backend is None else ["--url", backend.url]
    environment = {"FOOTFALL_API_TOKEN": token}
    return CliRunner().invoke(main, ["import", kind, str(file), *options, *where], env=environment)


def rows(backend, sql):
    connection = sqlite3.connect(f"file:{backend.folder}/data/state.db?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def written(folder, text, name="file.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def left_behind(file):
    return sorted(path.name for path in file.parent.iterdir() if path != file)


# Before anything is sent ----------------------------------------------------------------------------------


def test_without_a_mapping_there_is_a_proposal_that_can_be_given_back(tmp_path):
    file = written(tmp_path, CONTACTS, encoding="cp1252")
    proposed = run("contacts", file)
    assert proposed.exit_code == 2
    assert "cp1252, delimiter ;, 7 columns" in proposed.stdout
    assert 'email = "E-Mail"' in proposed.stdout
    assert '# left out: "Einwilligung am"' not in proposed.stdout
    mapping = written(tmp_path, proposed.stdout, "mapping.toml")
    tried = run("contacts", file, "--mapping", str(mapping), "--dry-run")
    accepted = run("contacts", file, "--accept", "--dry-run")
    assert tried.exit_code == accepted.exit_code == 0, tried.stderr
    assert tried.stdout == accepted.stdout
    assert "3 contacts can be imported, 1 rows cannot" in tried.stdout


def test_a_dry_run_shows_rows_and_errors_and_leaves_nothing(tmp_path):
    file = written(tmp_path, CONTACTS)
    tried = run("contacts", file, *MAPPING, "--dry-run", "--country", "AT", "--timezone", "Europe/Vienna")
    first = json.loads(tried.stdout.splitlines()[1])
    assert (first["user_id"], first["email"], first["phone"]) == ("4711", "anna@example.com", "+436641234567")
    assert first["consent"] == {"push": True}
    assert tried.stderr == "line 5: email: 'broken' is no address\n"
    assert left_behind(file) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--map", "emial=E-Mail"], "emial is no field of contacts; did you mean email?"),
        (["--map", "email=Mail"], "email: the file has no column 'Mail'"),
        (["--accept", "--timezone", "Vienna"], "--timezone: Vienna is unknown"),
        (["--accept", "--country", "ZZ"], "--country: ZZ is unknown"),
        (["--accept", "--encoding", "klingon"], "--encoding: unknown encoding"),
        (["--accept", "--as-of", "some day"], "'some day' is no date"),
        (["--accept"], "give a marketer's token"),
        (["--accept", "--token-file", "/nowhere/token"], "cannot be read"),
        (["--accept", "--ca", "/nowhere/ca.pem"], "cannot be read"),
        (["--accept", "--ca", __file__], "cannot be read"),
        (["--accept", "--url", "ftp://x"], "--url begins with"),
        (["--accept", "--mapping", "/nowhere.toml"], "No such file"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, options, line):
    ended = run("contacts", written(tmp_path, CONTACTS), *options)
    assert ended.exit_code == 2
    [told] = ended.stderr.splitlines()
    assert line in told


def test_no_backend_is_told_at_once(tmp_path):
    began = time.monotonic()
    ended = run("contacts", written(tmp_path, CONTACTS), "--accept", "--url", "http://127.0.0.1:1", token="x")
    assert ended.exit_code == 2
    assert "is the backend running?" in ended.stderr
    assert time.monotonic() - began < 5


def test_a_wrong_token_and_a_wrong_role_are_told(tmp_path, backend):
    file = written(tmp_path, CONTACTS)
    for wrong, told in (("fft_wrong", "send `Authorization"), (backend.token("viewer"), "needs the role")):
        ended = run("contacts", file, "--accept", backend=backend, token=wrong)
        assert ended.exit_code == 2
        assert told in ended.stderr


# Contacts -------------------------------------------------------------------------------------------------


def test_contacts_become_people_once(tmp_path, backend, token):
    file = written(tmp_path, CONTACTS)
    options = [*MAPPING, "--country", "AT", "--timezone", "Europe/Vienna"]
    done = run("contacts", file, *options, backend=backend, token=token)
    assert done.exit_code == 0, done.stderr
    assert "3 imported, 0 known before, 1 rows with errors" in done.stdout
    assert left_behind(file) == ["file.csv.errors.csv"]
    with (tmp_path / "file.csv.errors.csv").open(newline="") as errors:
        assert list(csv.reader(errors)) == [["line", "reason"], ["5", "email: 'broken' is no address"]]
    backend.caught_up()
    anna = backend.get("/api/profiles/user_id:4711", token)
    assert json.dumps(anna).count("Anna@Example.com") == 0  # one spelling, also for people
    assert backend.get("/api/profiles/email:anna@example.com", token)["profile_id"] == anna["profile_id"]
    assert backend.get("/api/profiles/email:only@example.com", token)["traits"]["firstName"] == "Otto"
    [(granted, at)] = rows(
        backend,
        "select granted, occurred_at from consents join profiles using (profile_id)"
        " where id_type = 'user_id' and id = '4711' and purpose = 'push'",
    )
    assert (granted, at) == (1, 1_588_629_600_000)  # from the day of the statement, not of the import
    before = rows(backend, "select count(*), max(event_id) from events")
    again = run("contacts", file, *options, backend=backend, token=token)
    assert "0 imported, 3 known before, 1 rows with errors" in again.stdout
    backend.caught_up()
    assert rows(backend, "select count(*), max(event_id) from events") == before


def test_a_contact_that_changed_counts_and_an_older_file_does_not_win(tmp_path, backend, token):
    def bring(city, as_of):
        file = written(tmp_path, f"id,city\nc1,{city}\n")
        mapping = ["--map", "user_id=id", "--map", "trait.city=city", "--as-of", as_of]
        assert run("contacts", file, *mapping, backend=backend, token=token).exit_code == 0
        backend.caught_up()
        return backend.get("/api/profiles/user_id:c1", token)["traits"]["city"]

    assert bring("Graz", "2025-01-01") == "Graz"
    assert bring("Linz", "2025-02-01") == "Linz"
    assert bring("Wels", "2024-12-01") == "Linz"
    assert bring("Graz", "2025-03-01") == "Graz"


# Orders ---------------------------------------------------------------------------------------------------


def test_orders_keep_their_days_and_a_file_brought_weeks_later_changes_nothing(tmp_path, backend, token):
    file = written(
        tmp_path, "order,who,day,amount\nA,o1,2019-03-01,10.00\nA,o1,2019-03-01,2.50\nB,o1,2020-01-01,-4\n"
    )
    options = [*ORDERS, "--currency", "EUR"]
    assert "2 imported" in run("orders", file, *options, backend=backend, token=token).stdout
    backend.caught_up()
    ours = "select name, occurred_at, properties from events where name like 'Order %' order by occurred_at"
    completed, refunded = rows(backend, ours)
    assert completed[:2] == ("Order Completed", 1_551_398_400_000)
    assert json.loads(completed[2]) == {"order_id": "A", "total": 12.5, "currency": "EUR"}
    assert refunded[0] == "Order Refunded"
    assert json.loads(refunded[2])["total"] == 4.0
    backend.stop()
    journal = sqlite3.connect(backend.folder / "data" / "journal.db")
    for ids in ("message_ids", "recent_message_ids", "sorted_message_ids"):
        journal.execute(f"delete from {ids}")  # as after seven days
    journal.commit()
    journal.close()
    backend.start()
    os.utime(file)
    again = run("orders", file, *options, backend=backend, token=token)
    assert "0 imported, 2 known before" in again.stdout
    backend.caught_up()
    assert rows(backend, ours) == [completed, refunded]


def test_an_order_corrected_in_a_later_file_is_an_update(tmp_path, backend, token):
    for amount, told in (("10", "1 imported"), ("10", "1 known"), ("12", "1 imported"), ("12", "1 known")):
        file = written(tmp_path, f"order,who,day,amount\nC1,o2,2019-03-01,{amount}\n")
        assert told in run("orders", file, *ORDERS, backend=backend, token=token).stdout
    backend.caught_up()
    found = rows(backend, "select status, total, completed_at from orders where order_id = 'C1'")
    assert found == [("completed", 1_200, 1_551_398_400_000)]


def test_what_a_later_file_calls_off_was_not_bought(tmp_path, backend, token):
    header, options = "order,who,day,amount,off\n", [*ORDERS, "--map", "cancelled=off"]
    for off, told in (("", "2 imported"), ("2019-03-05", "1 imported, 1 known"), ("2019-03-05", "2 known")):
        file = written(tmp_path, f"{header}D1,o4,2019-03-01,10,{off}\nD2,o4,2019-03-02,5,no\n")
        assert told in run("orders", file, *options, backend=backend, token=token).stdout
    backend.caught_up()
    found = rows(backend, "select order_id, status, total from orders where order_id like 'D_' order by 1")
    assert found == [("D1", "cancelled", 1_000), ("D2", "completed", 500)]
    bought = backend.get("/api/profiles/user_id:o4", token)["purchases"]
    assert (bought["orders"], bought["spent"][0]["total"]) == (1, 500)


def test_a_source_that_was_revoked_imports_nothing(tmp_path):
    with BackendProcess(tmp_path) as alone:
        admin = alone.token("admin")
        file = written(tmp_path, "order,who,day,amount\nA,1,2019-03-01,1\n")
        assert run("orders", file, *ORDERS, backend=alone, token=admin).exit_code == 0
        assert "import" in {source["source_id"] for source in alone.get("/api/sources", admin)["sources"]}
        connection = sqlite3.connect(tmp_path / "data" / "state.db")
        connection.execute("update sources set revoked_at = 1 where source_id = 'import'")
        connection.commit()
        connection.close()
        refused = run("orders", file, *ORDERS, "--as-of", "2025-01-01", backend=alone, token=admin)
    assert refused.exit_code == 2
    assert "revoked" in refused.stderr


# Whatever dies --------------------------------------------------------------------------------------------

MANY = 8_000


def start(file, backend, token):
    return subprocess.Popen(
        [*COMMAND, "orders", str(file), *ORDERS, "--url", backend.url],
        env={**os.environ, "FOOTFALL_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def acknowledged(state):
    """How far the state file says that a run is; 0 before the first batch."""
    try:
        return json.loads(state.read_bytes())["done"]
    except FileNotFoundError:
        return 0


@pytest.mark.timeout(300)  # eight processes are started, each for a second of an idle core
def test_killed_at_any_instant_and_started_again_each_row_is_imported_once(tmp_path):
    """The command is killed four times, each time a little after a batch; the backend too, at the third."""
    chance = random.Random(7)
    lines = [f"K{n},w{n % 900},2019-03-01,{'x' if n % 100 == 99 else n}" for n in range(MANY)]
    file = written(tmp_path, "order,who,day,amount\n" + "\n".join(lines) + "\n")
    state = tmp_path / "file.csv.import.json"
    with BackendProcess(tmp_path) as backend:
        token = backend.token("marketer")
        for kill in range(4):
            before = acknowledged(state)
            process = start(file, backend, token)
            try:
                deadline = time.monotonic() + 60
                while acknowledged(state) == before:
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < deadline
                time.sleep(chance.uniform(0, 0.15))
            finally:
                process.send_signal(signal.SIGKILL)
                process.communicate()
            if kill == 2:
                backend.kill()
                backend.start()
        before = acknowledged(state)
        done = start(file, backend, token)
        out, err = done.communicate(timeout=90)
        assert done.returncode == 0, err
        assert f"going on behind the first {before}" in out
        assert 0 < before < MANY
        backend.caught_up()
        counted = rows(
            backend,
            "select count(*), count(distinct message_id), count(distinct properties) from events"
            " where name = 'Order Completed'",
        )
    assert counted == [(MANY - MANY // 100,) * 3]
    with (tmp_path / "file.csv.errors.csv").open(newline="") as errors:
        told = [int(line) for line, _ in list(csv.reader(errors))[1:]]
    assert told == [n + 2 for n in range(99, MANY, 100)]


def test_a_backend_that_starts_again_is_waited_for(tmp_path):
    file = written(
        tmp_path, "order,who,day,amount\n" + "".join(f"W{n},w,2019-03-01,1\n" for n in range(4_000))
    )
    state = tmp_path / "file.csv.import.json"
    with BackendProcess(tmp_path) as backend:
        process = start(file, backend, backend.token("marketer"))
        try:
            deadline = time.monotonic() + 30
            while not state.exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            backend.kill()
            backend.start()
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 0, err
        assert "0 rows with errors" in out
        backend.caught_up()
        assert rows(backend, "select count(*), count(distinct message_id) from events") == [(4_000, 4_000)]


# The catalogue --------------------------------------------------------------------------------------------

FEED = """<rss xmlns:g="http://base.google.com/ns/1.0"><channel>{items}</channel></rss>"""
ITEM = "<item><g:id>{id}</g:id><title>Thing {id}</title><g:price>{price}</g:price></item>"


def feed(folder, *ids, price="5.00 EUR", end=None):
    text = FEED.format(items="".join(ITEM.format(id=each, price=price) for each in ids))
    return written(folder, text[:end], "feed.xml")


def test_a_whole_feed_replaces_the_one_before(tmp_path, backend, token):
    def bring(file, *options):
        return run("catalogue", file, "--complete", "--feed", "xml", *options, backend=backend, token=token)

    assert "3 imported" in bring(feed(tmp_path, "a", "b", "c")).stdout
    assert "1 products are in the feed no more" in bring(feed(tmp_path, "a", "b")).stdout
    refused = bring(feed(tmp_path, "zzz"))
    assert refused.exit_code == 2
    assert "is the file whole?" in refused.stderr
    assert "2 products" in bring(feed(tmp_path, "zzz"), "--force").stdout
    torn = bring(feed(tmp_path, "a", "b", "c", end=-40), "--force")
    assert torn.exit_code == 2
    assert "no XML from here on" in torn.stderr
    assert "no more" not in torn.stdout
    listed = backend.get("/api/products", token)["products"]
    assert {p["product_id"]: p.get("availability", "in_stock") for p in listed} == {
        "a": "in_stock", "b": "in_stock", "c": "unavailable", "zzz": "in_stock",
    }  # fmt: skip


def test_a_table_of_products(tmp_path, backend, token):
    text = "Artikelnr;Bezeichnung;Preis;Warengruppe;Bestand\nT1;Tee;3,50;Tee/Grün;4\n"
    file = written(tmp_path, text + "T2;Kaffee;9,90;Kaffee;0\nT3;;1;;\n")
    done = run("catalogue", file, "--accept", "--currency", "EUR", backend=backend, token=token)
    assert "2 imported, 0 known before, 1 rows with errors" in done.stdout
    tea = backend.get("/api/products/T1", token)
    assert (tea["name"], tea["price"], tea["currency"], tea["category"]) == ("Tee", 350, "EUR", "Tee/Grün")
    assert backend.get("/api/products/T2", token)["availability"] == "out_of_stock"
