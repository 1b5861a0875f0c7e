"""Dead letters: what was not understood is listed, shown and read once more, by the API and the command."""

import asyncio
import json
import sqlite3

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from typer.testing import CliRunner

from backend import ingest as ingest_module
from backend.api.dead_letters import LETTERS
from backend.api.host import Host
from backend.api.server import build
from backend.cli import main
from backend.custody import Custody
from backend.dead_letters import DeadLetterDesk, Stores
from backend.ingest import Ingest
from backend.listening import Gateway, Listening
from backend.storage import letters
from backend.storage.database import open_for_writing
from backend.storage.entries import BEGINNING, Entry
from backend.storage.journal import ReadAgain
from backend.storage.letters import NewLetter
from backend.storage.sources import StoredSources, create_source
from sdk_bridge import mqtt
from sdk_bridge.server.app import Bridge
from sdk_bridge.server.ports import DeadLetter
from sdk_bridge.server.proof import user_hash
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent, decode_events
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Batch, Readings
from sdk_bridge.wire.topics import GatewayAddress

NOON = 1_750_075_200_000
EARLIER = NOON - 3 * 86_400_000
BOOT = "11111111-2222-3333-4444-555555555555"
OURS, STRANGER = "altbeacon:" + "01" * 20, "altbeacon:" + "99" * 20
TRACK = {"type": "track", "event": "Order Completed", "userId": "u1", "messageId": "m1"}


class Desk:
    """The API with a bridge, over a journal and an ingest that listens to one gateway."""

    def __init__(self, state, journal_file, journal, clock) -> None:
        self.state, self.journal_file, self.journal = state, journal_file, journal
        self.ingest = Ingest(mqtt.Broker("nowhere", 1, "backend"), journal, Custody({}), clock)
        self.ingest.listening = Listening({"s1/g1": Gateway("s1", "g1", "a")}, frozenset({OURS}))
        self.desk = DeadLetterDesk(Stores(journal, journal_file, state), self.ingest, clock)
        host = Host(state, journal_file, clock, lambda: None, lambda: {"status": "ok"})
        self.app = build(host, Bridge(journal, StoredSources(state, clock), clock).add_to)
        self.app[LETTERS] = self.desk

    async def call(self, method: str, path: str, **more):
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.client.request(method, path, headers=headers, **more) as answer:
            return answer.status, await answer.json()

    async def bury(self, *events: dict, source: str = "site", reason: str = "not yet understood", **around):
        """A letter, as an earlier version of the bridge would have left one."""
        body = json.dumps({"batch": list(events), **around}).encode()
        await self.journal.bury(DeadLetter(source, reason, body, len(events), EARLIER))

    async def letter(self, path: str = "/api/dead-letters") -> dict:
        _, answer = await self.call("GET", path)
        return answer["dead_letters"][0]

    async def entries(self) -> list[Entry]:
        return await self.journal.after(BEGINNING, 1_000)

    async def events(self) -> list[AppEvent]:
        return [event for entry in await self.entries() for event in decode_events(entry.payload)]


@pytest.fixture
async def desk(state, journal_file, journal, clock, make_token):
    made = Desk(state, journal_file, journal, clock)
    made.token = await make_token("operator")
    source = await state.write(lambda s: create_source(s, "site", "Site", "web", "required", NOON))
    made.write_key = source["write_key"]
    async with TestClient(TestServer(made.app)) as client:
        made.client = client
        yield made


# What apps sent -------------------------------------------------------------------------------------------


async def test_a_letter_that_is_understood_by_now_is_stored_as_of_its_arrival(desk):
    await desk.bury({**TRACK, "timestamp": EARLIER - 5_000}, {**TRACK, "messageId": "m2"}, sentAt=EARLIER)
    told = await desk.letter()
    assert (told["origin"], told["source"], told["events"], told["form"]) == ("app:site", "site", 2, "batch")
    status, answer = await desk.call("POST", f"/api/dead-letters/{told['letter_id']}/replay")
    assert (status, answer["outcome"], answer["reason"]) == (200, "replayed", None)
    first, second = await desk.events()
    assert (first.source, first.received_at, first.occurred_at) == ("site", EARLIER, EARLIER - 5_000)
    assert (second.received_at, second.occurred_at) == (EARLIER, EARLIER)
    assert (await desk.call("GET", "/api/dead-letters"))[1]["dead_letters"] == []
    assert (await desk.journal_file.read(letters.room)).bytes == 0


async def test_what_is_still_not_understood_stays_with_the_new_reason_and_a_count(desk):
    good, bad, worse = TRACK, {**TRACK, "userId": "null", "messageId": "m2"}, {"type": "purchase"}
    await desk.bury(good, bad, worse)
    for tries, outcome in ((1, "partly"), (2, "failed")):
        letter_id = (await desk.call("GET", "/api/dead-letters"))[1]["dead_letters"][-1]["letter_id"]
        _, answer = await desk.call("POST", f"/api/dead-letters/{letter_id}/replay")
        assert (answer["outcome"], "names anybody" in answer["reason"]) == (outcome, True)
        found = (await desk.call("GET", "/api/dead-letters"))[1]["dead_letters"]
        assert found[-1]["tries"] == tries
        assert found[-1]["tried_at"] == NOON
        assert [letter["events"] for letter in found] == [1, 1], "one letter a reason"
    assert [event.message_id for event in await desk.events()] == ["m1"]


async def test_an_event_that_came_again_meanwhile_is_not_stored_twice(desk):
    await desk.bury(TRACK)
    sent = {**TRACK, "anonymousId": "a1", "writeKey": desk.write_key}
    async with desk.client.post("/v1/track", json=sent) as answer:
        assert answer.status == 200
    for _ in range(2):
        await desk.bury(TRACK)
    _, answer = await desk.call("POST", "/api/dead-letters/replay", json={})
    assert [one["outcome"] for one in answer["letters"]] == ["replayed"] * 3
    assert [event.message_id for event in await desk.events()] == ["m1"]


async def test_a_letter_is_proven_by_its_source_and_the_proof_is_not_shown(desk):
    proof = (await desk.state.read(lambda s: s.row("source_by_id", source_id="site")))["proof_secret"]
    secret = user_hash(proof, "u1")
    await desk.bury({**TRACK, "userHash": secret})
    letter_id = (await desk.letter())["letter_id"]
    status, shown = await desk.call("GET", f"/api/dead-letters/{letter_id}")
    assert (status, shown["reads_now"]) == (200, True)
    assert "Order Completed" in shown["content"]
    assert secret not in json.dumps(shown)
    await desk.call("POST", f"/api/dead-letters/{letter_id}/replay")
    assert [event.proven for event in await desk.events()] == [True]


@pytest.mark.parametrize(
    ("letter", "reason"),
    [
        (NewLetter(NOON, "app:gone", "r", b'{"batch":[]}', "batch", source="gone"), "no source gone"),
        (NewLetter(NOON, "app:site", "r", b"not a batch", "batch", source="site"), "JSON"),
        (NewLetter(NOON, "s1/g1", "r", b"??", "old"), "earlier version"),
    ],
)
async def test_what_can_never_be_read_says_why(desk, letter, reason):
    await desk.journal.bury(letter)
    kept = await desk.letter()
    _, answer = await desk.call("POST", f"/api/dead-letters/{kept['letter_id']}/replay")
    assert answer["outcome"] == "failed"
    assert reason in answer["reason"]
    after = await desk.letter()
    assert (after["tries"], after["form"], after["bytes"]) == (1, letter.form, kept["bytes"])
    assert await desk.entries() == []


async def test_a_revoked_sources_letters_are_still_its_own(desk):
    await desk.bury(TRACK)
    await desk.state.write(lambda s: s.run("revoke_source", source_id="site", at=NOON))
    _, answer = await desk.call("POST", "/api/dead-letters/replay", json={"origin": "app:site"})
    assert [one["outcome"] for one in answer["letters"]] == ["replayed"]
    assert [event.source for event in await desk.events()] == ["site"]


async def test_letters_are_chosen_by_reason_and_origin_page_by_page(desk):
    for number in range(250):
        await desk.bury({**TRACK, "messageId": f"m{number}"}, reason=f"reason {number % 2}")
    page = (await desk.call("GET", "/api/dead-letters?limit=200"))[1]
    rest = (await desk.call("GET", f"/api/dead-letters?limit=200&before={page['before']}"))[1]
    assert (page["kept"], len(page["dead_letters"]), len(rest["dead_letters"])) == (250, 200, 50)
    assert rest["before"] is None
    chosen = (await desk.call("GET", "/api/dead-letters?limit=1000&reason=reason+1"))[1]["dead_letters"]
    assert (len(chosen), {letter["reason"] for letter in chosen}) == (125, {"reason 1"})
    after, tried = 0, 0
    while after is not None:
        body = {"reason": "reason 1", "after": after}
        _, answer = await desk.call("POST", "/api/dead-letters/replay", json=body)
        tried, after = tried + len(answer["letters"]), answer["after"]
    assert tried == 125
    assert (await desk.letter())["reason"] == "reason 0"
    assert len(await desk.events()) == 125


async def test_two_who_replay_at_once_store_it_once(desk):
    """Without a message id nothing but the letter itself tells that it is the same."""
    await desk.bury({"type": "track", "event": "x", "userId": "u1"})
    letter_id = (await desk.letter())["letter_id"]
    done = await asyncio.gather(*(desk.desk.replay(letter_id) for _ in range(5)))
    assert sorted(one.outcome for one in done) == ["gone"] * 4 + ["replayed"]
    assert len(await desk.events()) == 1


async def test_whoever_read_a_letter_before_it_was_rewritten_changes_nothing(desk):
    await desk.bury(TRACK, {"type": "purchase"})
    letter_id = (await desk.letter())["letter_id"]
    stale = await desk.journal_file.read(lambda s: letters.letter_of(s, letter_id))
    await desk.desk.replay(letter_id)
    for rest in ([], [stale]):
        assert not await desk.journal.read_again(stale, ReadAgain(rest=rest))
    assert (await desk.letter())["tries"] == 1


# What could not be folded, and what gateways sent -----------------------------------------------------------


async def test_an_entry_that_could_not_be_folded_goes_to_the_fold_again(desk):
    event = AppEvent("track", "m1", source="site", occurred_at=EARLIER, received_at=EARLIER, user_id="u1")
    await desk.journal.append_events([event])
    [entry] = await desk.entries()
    await desk.journal.bury(letters.of_entry(entry, "could not be folded: KeyError('x')"))
    await desk.journal.delete_folded(desk.journal.head)
    told = await desk.letter()
    _, shown = await desk.call("GET", f"/api/dead-letters/{told['letter_id']}")
    assert (shown["form"], shown["content"][0]["message_id"]) == ("entry", "m1")
    await desk.call("POST", f"/api/dead-letters/{told['letter_id']}/replay")
    [again] = await desk.entries()
    assert again.position > entry.position
    assert (again.source, again.kind, again.partition, again.received_at) == (
        "site",
        "app",
        entry.partition,
        EARLIER,
    )
    assert decode_events(again.payload) == [event]


def message(payload: bytes, **more) -> NewLetter:
    envelope = Envelope("live", "0123456789abcdef", 7, boot_id=BOOT, boot_ms=5_000)
    text = msgspec.json.encode(envelope).decode()
    return NewLetter(
        EARLIER, "s1/g1", "unreadable", payload, "message", partition=3, envelope=text, lane="live", **more
    )


async def test_a_gateways_message_is_read_again_as_history_without_strangers(desk):
    batch = Batch(BOOT, 1_000, [OURS, STRANGER], Readings([0, 1], [0, 0], [2, 3], [60, 60], [55, 55]))
    await desk.journal.bury(message(codec.encode(batch)))
    told = await desk.letter()
    _, shown = await desk.call("GET", f"/api/dead-letters/{told['letter_id']}")
    assert (shown["reads_now"], shown["content"]["type"]) == (True, "batch")
    _, answer = await desk.call("POST", f"/api/dead-letters/{told['letter_id']}/replay")
    assert answer["outcome"] == "replayed"
    [entry] = await desk.entries()
    assert (entry.source, entry.kind, entry.lane, entry.partition) == ("s1/g1", "gateway", "backlog", 3)
    assert entry.boot_offset == EARLIER - 5_000
    assert codec.decode_up(entry.payload).keys == [OURS]
    counted = await desk.journal_file.read(lambda s: s.rows("forgotten_by_gateway"))
    assert [tuple(row) for row in counted] == [("s1/g1", 3)]


async def test_a_gateways_message_that_is_none_stays_a_letter(desk):
    await desk.journal.bury(message(b"\xc1 garbage"))
    letter_id = (await desk.letter())["letter_id"]
    _, shown = await desk.call("GET", f"/api/dead-letters/{letter_id}")
    assert (shown["reads_now"], shown["content"]) == (False, b"\xc1 garbage".hex())
    _, answer = await desk.call("POST", f"/api/dead-letters/{letter_id}/replay")
    assert answer["outcome"] == "failed"
    assert await desk.entries() == []
    assert (await desk.letter())["bytes"] == 9


async def test_the_ingest_leaves_letters_that_can_be_read_again(desk, fake_mqtt, monkeypatch, running):
    """A version that cannot read what the next one can: the whole message and its envelope are kept."""
    batch = Batch(BOOT, 1_000, [OURS], Readings([0], [0], [2], [60], [55]))
    fake = fake_mqtt()
    monkeypatch.setattr(ingest_module.mqtt, "connect", fake.connect)

    def too_new(_: bytes) -> Batch:
        raise WireError("of a later version")

    async with running(desk.ingest.run()):
        while not desk.ingest.connected:  # noqa: ASYNC110 - the fake connects at once
            await asyncio.sleep(0)
        with monkeypatch.context() as patched:
            patched.setattr(ingest_module.codec, "decode_up", too_new)
            properties = Envelope("live", "0123456789abcdef", 1, boot_id=BOOT, boot_ms=5_000).properties()
            topic = GatewayAddress("s1", "g1").topic("up")
            fake.connections[0].receive(topic, codec.encode(batch), properties)
            await desk.ingest.drain()
    assert (await desk.letter())["reason"] == "of a later version"
    _, answer = await desk.call("POST", "/api/dead-letters/replay", json={})
    assert [one["outcome"] for one in answer["letters"]] == ["replayed"]
    [entry] = await desk.entries()
    assert codec.decode_up(entry.payload) == batch


# Bounds ---------------------------------------------------------------------------------------------------


async def test_letters_that_fell_out_are_counted_and_people_are_told_once(desk, monkeypatch):
    monkeypatch.setattr(letters, "LETTERS_KEPT", 3)
    await desk.desk.tell_of_losses()
    for _ in range(5):
        await desk.bury(TRACK)
    for _ in range(2):
        await desk.desk.tell_of_losses()
    alerts = await desk.state.read(lambda s: s.rows("newest_alerts", limit=10))
    assert [(alert["kind"], alert["detail"]) for alert in alerts] == [
        ("dead letters fell out", "2 letters that nobody has looked at; 2 ever")
    ]
    assert (await desk.call("GET", "/api/dead-letters"))[1]["fell_out"] == 2


def test_letters_of_an_earlier_version_are_kept_and_counted(tmp_path):
    """The second migration meets what the first left."""
    path = tmp_path / "journal.db"
    open_for_writing(path, "journal").close()
    with sqlite3.connect(path) as old:
        for table in ("dead_letter_room", "dead_letters", "recent_message_ids", "sorted_message_ids"):
            old.execute(f"drop table {table}")
        old.execute(
            "create table dead_letters (letter_id integer primary key autoincrement, received_at integer"
            " not null, origin text not null, reason text not null, payload blob not null)"
        )
        old.execute("insert into dead_letters values (7, 1, 's1/g1', 'unreadable', x'0102')")
        old.execute("pragma user_version = 1")
    connection = open_for_writing(path, "journal")
    try:
        [row] = connection.execute("select * from dead_letters").fetchall()
        assert (row["letter_id"], row["form"], row["tries"], row["events"]) == (7, "old", 0, 0)
        assert tuple(connection.execute("select letters, bytes from dead_letter_room").fetchone()) == (1, 2)
    finally:
        connection.close()


async def test_an_entry_that_nobody_can_read_is_shown_in_hexadecimal(desk):
    broken = NewLetter(NOON, "app:site", "r", b"\x93\x01", "entry", source="site", partition=1)
    await desk.journal.bury(broken)
    _, shown = await desk.call("GET", f"/api/dead-letters/{(await desk.letter())['letter_id']}")
    assert (shown["reads_now"], shown["content"]) == (False, "9301")


# The command ----------------------------------------------------------------------------------------------


async def test_the_command_lists_shows_and_replays(desk, tmp_path):
    config = tmp_path / "backend.toml"
    config.write_text(f'data_dir = "{tmp_path}/data"\n')
    url = str(desk.client.make_url("")).rstrip("/")

    async def run(*arguments: str):
        options = ["--api-token", desk.token, "--url", url, "--config", str(config)]
        return await asyncio.to_thread(CliRunner().invoke, main, ["dead-letters", *arguments, *options])

    for number in range(120):
        await desk.bury({**TRACK, "messageId": f"m{number}"}, reason="odd" if number % 2 else "even")
    await desk.bury({"type": "purchase"})
    listed = await run("list", "--limit", "115")
    assert (listed.exit_code, len(listed.stdout.splitlines())) == (0, 115)
    assert "app:site" in listed.stdout
    assert "121 kept" in listed.stderr
    letter_id = (await desk.letter())["letter_id"]
    shown = await run("show", str(letter_id))
    assert json.loads(shown.stdout)["content"] == '{"batch": [{"type": "purchase"}]}'
    one = await run("replay", str(letter_id))
    assert (one.exit_code, one.stdout.strip()) == (1, "1 failed")
    assert "`type` must be" in one.stderr
    assert (await run("replay", "--reason", "odd")).stdout.strip() == "60 replayed"
    gone = await run("replay", "99999", "1", "1")
    assert (gone.exit_code, gone.stdout.strip()) == (1, "2 gone, 1 replayed")
    assert gone.stderr.split() == ["99999", "gone", "1", "gone"]
    rest = await run("replay", "--all")
    assert (rest.exit_code, rest.stdout.strip()) == (1, "59 replayed, 1 failed")
    assert (await run("show", "99999")).exit_code == 2
    assert (await run("replay")).exit_code == 2
    assert (await run("replay", "1", "--all")).exit_code == 2
    assert len(await desk.events()) == 120
