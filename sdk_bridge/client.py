"""The bridge's typed client, as an app embeds it: a queue on disk, batches, retries until a 200."""

import asyncio
import base64
import gzip
import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import aiohttp
import msgspec

from sdk_bridge.wire.app_events import Location, PushAddress
from sdk_bridge.wire.places import Region

BATCH_PATH = "/v1/batch"
LOCATION_PATH = "/v1/location"
MAX_EVENT_BYTES = 32 * 1024  # the bridge buries larger ones; better to hear of it where they are made
SENT_AT_BYTES = len(',"sentAt":"2026-03-01T10:00:00.000Z"')  # what a call that goes alone gets on its way
MAX_BATCH_BYTES = 400 * 1024  # the bridge's limit is 500 KB
MAX_BATCH_EVENTS = 100
MAX_PARTS = 50  # sightings or crossings in one call: half of what the bridge takes, for they must fit 32 KB
PACKED_BYTES = 1024  # below it gzip saves nothing worth a phone's battery
MAX_ANSWER_BYTES = 64 * 1024
BUSY_S = 0.1  # the app's loop stands still for it when somebody else writes to the queue's file
MAX_HELD = 100  # calls in memory that the file did not take yet: 3 MB if all of them are of the largest
MAX_BROKEN = 3  # damaged files that are kept; a disk that goes bad must not fill up with them
MAX_RETRY_AFTER_S = 300.0  # a bridge that asks for a day must not silence a phone for a day
_AGAIN = frozenset({408, 410, 429, 460})
_NEVER_AGAIN = frozenset({501, 505})


def unix_ms() -> int:
    """The wall clock in unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Who:
    """On whose behalf a call is made.

    `user_hash` is the HMAC that the shop's server gave with the login; an `id_token` is Firebase's, good for
    an hour: make a new Who of each.
    """

    user_id: str | None = None
    anonymous_id: str | None = None
    user_hash: str | None = None
    id_token: str | None = None

    def fields(self) -> dict[str, Any]:
        """As the API spells them."""
        said = {"userId": self.user_id, "anonymousId": self.anonymous_id, "userHash": self.user_hash}
        return said if self.id_token is None else {**said, "idToken": self.id_token}


@dataclass(frozen=True, slots=True)
class Sighting:
    """A beacon that a phone heard, or a region of beacons that it entered or left.

    `key` as docs/bridge.md spells keys; `rssi` dBm; `accuracy_m` the phone's estimate of the distance; `at`
    unix milliseconds by the phone's own clock, None for now.
    """

    key: str
    event: Literal["enter", "leave", "range"] = "range"
    rssi: int | None = None
    proximity: Literal["immediate", "near", "far", "unknown"] | None = None
    accuracy_m: float | None = None
    at: int | None = None

    def fields(self) -> dict[str, Any]:
        """As the API spells them."""
        return {
            "key": self.key,
            "event": self.event,
            "rssi": self.rssi,
            "proximity": self.proximity,
            "accuracy": self.accuracy_m,
            "timestamp": self.at,
        }


@dataclass(frozen=True, slots=True)
class Crossing:
    """A fence that a phone entered, left, or stayed in; `at` as above."""

    fence_id: str
    event: Literal["enter", "dwell", "leave"]
    location: Location | None = None
    at: int | None = None

    def fields(self) -> dict[str, Any]:
        """As the API spells them."""
        where = None if self.location is None else _fix(self.location)
        return {"fenceId": self.fence_id, "event": self.event, "location": where, "timestamp": self.at}


def _fix(location: Location) -> dict[str, Any]:
    return {
        "latitude": location.latitude,
        "longitude": location.longitude,
        "accuracy": location.accuracy_m,
        "speed": location.speed_mps,
    }


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How a client keeps and repeats. Seconds; `jitter` gives numbers from 0 to 1."""

    queue_limit: int = 10_000  # calls; a phone offline for a month must not fill its disk
    queue_bytes: int = 20 * 1024 * 1024  # nor with few and large ones
    first_retry_s: float = 0.2
    longest_retry_s: float = 30.0
    request_s: float = 15.0
    linger_s: float = 5.0  # how long leaving the context waits for the queue to empty
    acknowledged_limit: int = 1_000_000
    now_ms: Callable[[], int] = unix_ms
    new_id: Callable[[], str] = lambda: uuid4().hex
    jitter: Callable[[], float] = random.random


@dataclass(slots=True)
class ClientTally:
    """What became of calls that got no 200: pushed out of a full queue, refused for good, never written
    because the disk would not take them, or damaged by it later. `queues_broken` are files that could not be
    read any more, `mends_failed` how often not even a new one could be begun.
    """

    dropped_full: int = 0
    dropped_unwritten: int = 0
    dropped_damaged: int = 0
    refused: int = 0
    retries: int = 0
    queues_broken: int = 0
    mends_failed: int = 0
    refusals: deque[str] = field(default_factory=lambda: deque(maxlen=20))


class BridgeClient:
    """Sends calls to the bridge; use as `async with`. Calls return at once with their message id.

    With a `queue_path` what was not answered 200 survives the death of the process and is sent by the next
    client with that path, under the same message ids. A file there that is damaged is set aside, as
    `….broken-1`, and a new one begun with whatever could still be read. Where the disk is too full to open
    one, calls are held in memory until it can be. A `session` given is shared and not closed; close it after
    the client.
    """

    def __init__(
        self,
        base_url: str,
        write_key: str,
        queue_path: Path | None = None,
        *,
        session: aiohttp.ClientSession | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ClientSettings()
        self.tally = ClientTally()
        self.acknowledged: deque[str] = deque(maxlen=self.settings.acknowledged_limit)
        self.regions: tuple[Region, ...] = ()
        """What to watch, as the bridge answered the last location."""
        self._base = base_url.rstrip("/")
        self._auth = "Basic " + base64.b64encode(f"{write_key}:".encode()).decode()
        self._queue = _Queue(queue_path, self.settings.queue_limit, self.settings.queue_bytes, self.tally)
        self._session = session
        self._own_session = session is None
        self._closed = False
        self._waiting = asyncio.Event()
        self._empty = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "BridgeClient":
        if self._session is None:
            self._session = aiohttp.ClientSession()
        self._note_level()
        self._sender = asyncio.create_task(self._run(self._session))
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            with suppress(TimeoutError):
                await self.flush(self.settings.linger_s)
        finally:  # an app that is cancelled while it waits here must leave nothing running either
            if self._sender is not None:
                self._sender.cancel()
                await asyncio.gather(self._sender, return_exceptions=True)
            if self._own_session and self._session is not None:
                await self._session.close()
            self._closed = True
            self._queue.close()

    # Calls ------------------------------------------------------------------------------------------------

    def identify(
        self, who: Who, traits: Mapping[str, Any] | None = None, context: Mapping[str, Any] | None = None
    ) -> str:
        """Says who somebody is, and what is known of them."""
        return self._segment("identify", who, {"traits": traits or {}, "context": context or {}})

    def track(
        self,
        who: Who,
        event: str,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> str:
        """Says what somebody did."""
        return self._segment(
            "track", who, {"event": event, "properties": properties or {}, "context": context or {}}
        )

    def page(self, who: Who, name: str, properties: Mapping[str, Any] | None = None) -> str:
        """Says which page somebody looked at."""
        return self._segment("page", who, {"name": name, "properties": properties or {}})

    def screen(self, who: Who, name: str, properties: Mapping[str, Any] | None = None) -> str:
        """Says which screen of an app somebody looked at."""
        return self._segment("screen", who, {"name": name, "properties": properties or {}})

    def group(self, who: Who, group_id: str, traits: Mapping[str, Any] | None = None) -> str:
        """Says which group somebody belongs to."""
        return self._segment("group", who, {"groupId": group_id, "traits": traits or {}})

    def alias(self, who: Who, previous_id: str) -> str:
        """Says that somebody was known by another id before."""
        return self._segment("alias", who, {"previousId": previous_id})

    def register_device(
        self,
        who: Who,
        device_id: str,
        platform: str,
        push_address: PushAddress | None = None,
        beacon_key: str | None = None,
    ) -> str:
        """Says which device somebody uses, where pushes reach it and which beacon goes with it."""
        address = {"kind": push_address.kind, "value": push_address.value} if push_address else None
        return self._call(
            "/v1/devices",
            {
                **who.fields(),
                "deviceId": device_id,
                "platform": platform,
                "pushAddress": address,
                "beaconKey": beacon_key,
            },
        )

    def logout(self, device_id: str, anonymous_id: str | None = None) -> str:
        """Says that whoever held the device holds it no more; of an app that keeps its anonymous id after
        the logout, that whatever follows under it is somebody else's, too.
        """
        said = {} if anonymous_id is None else {"anonymousId": anonymous_id}
        return self._call("/v1/devices/logout", {"deviceId": device_id, **said})

    def redeem_link(self, who: Who, token: str, device_id: str, platform: str | None = None) -> str:
        """Says that the app was opened by a link token, which a web page had shown."""
        return self._call(
            "/v1/link/redeem",
            {**who.fields(), "token": token, "deviceId": device_id, "platform": platform},
        )

    def consent(self, who: Who, consent: Mapping[str, bool]) -> str:
        """Says what somebody agrees to, by purpose."""
        return self._call("/v1/consent", {**who.fields(), "consent": dict(consent)})

    def sighted(self, who: Who, device_id: str, sightings: Sequence[Sighting]) -> list[str]:
        """Says which beacons the device heard; a message id for each call of at most fifty."""
        return self._parts(
            "/v1/beacons",
            {**who.fields(), "deviceId": device_id},
            "sightings",
            [s.fields() for s in sightings],
        )

    def crossed(self, who: Who, device_id: str, crossings: Sequence[Crossing]) -> list[str]:
        """Says which fences the device crossed; a message id for each call of at most fifty."""
        return self._parts(
            "/v1/geofences",
            {**who.fields(), "deviceId": device_id},
            "transitions",
            [crossing.fields() for crossing in crossings],
        )

    def located(self, who: Who, device_id: str, location: Location) -> str:
        """Says where the device is; once that is answered, `regions` is what to watch there."""
        return self._call(LOCATION_PATH, {**who.fields(), "deviceId": device_id, **_fix(location)})

    def push_received(self, push_id: str) -> str:
        """Says that a push was shown."""
        return self._receipt("received", push_id)

    def push_opened(self, push_id: str) -> str:
        """Says that a push was opened."""
        return self._receipt("opened", push_id)

    # The queue --------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Calls that have no 200 yet."""
        return len(self._queue)

    async def flush(self, within_s: float) -> None:
        """Waits until every call is answered. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            await self._empty.wait()

    def _receipt(self, what: Literal["received", "opened"], push_id: str) -> str:
        return self._call(f"/v1/push/{what}", {"pushId": push_id})

    def _segment(self, kind: str, who: Who, fields: Mapping[str, Any]) -> str:
        return self._call(BATCH_PATH, {"type": kind, **who.fields(), **fields})

    def _parts(
        self, path: str, said: Mapping[str, Any], name: str, parts: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        starts = range(0, len(parts), MAX_PARTS)
        return [self._call(path, {**said, name: parts[start : start + MAX_PARTS]}) for start in starts]

    def _call(self, path: str, body: Mapping[str, Any]) -> str:
        """Queues a call under a new message id. Raises ValueError for one that the bridge would not take, and
        RuntimeError once the client is closed: nothing would keep it.
        """
        if self._closed:
            raise RuntimeError("this client is closed; make a new one, with the same queue_path")
        message_id = self.settings.new_id()
        stamped = {**body, "messageId": message_id, "timestamp": self._now_text()}
        encoded = msgspec.json.encode(stamped)
        size = len(encoded) + (0 if path == BATCH_PATH else SENT_AT_BYTES)
        if size > MAX_EVENT_BYTES:
            raise ValueError(f"the call has {size} bytes, the bridge takes {MAX_EVENT_BYTES}")
        self._queue.put(_Queued(0, message_id, path, encoded))
        self._note_level()
        return message_id

    def _note_level(self) -> None:
        if len(self._queue):
            self._waiting.set()
            self._empty.clear()
        else:
            self._waiting.clear()
            self._empty.set()

    def _now_text(self) -> str:
        moment = datetime.fromtimestamp(self.settings.now_ms() / 1000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    # Sending ----------------------------------------------------------------------------------------------

    async def _run(self, session: aiohttp.ClientSession) -> None:
        failures = 0
        while True:
            await self._waiting.wait()
            try:
                calls = self._queue.head()
                self._note_level()  # what is not whole is gone from it, and what another process sent
                wait = await self._send(session, calls) if calls else 0.0
            except sqlite3.Error as error:  # a full disk, or whoever holds the file: both may pass
                self._queue.mend(error)
                self._note_level()
                wait = 0.0
            if wait is None:
                failures = 0
                continue
            self.tally.retries += 1
            await asyncio.sleep(max(wait, self._backoff(failures)))
            failures += 1

    async def _send(self, session: aiohttp.ClientSession, calls: Sequence["_Queued"]) -> float | None:
        """Sends calls of one path. None once they are dealt with, else the seconds the bridge asked for."""
        if session.closed:
            return 0.0  # by the app, whose it is: what is queued waits for the next client
        body, headers = _packed(self._body(calls))
        try:
            async with session.post(
                self._base + calls[0].path,
                data=body,
                headers={"Authorization": self._auth, "Content-Type": "application/json", **headers},
                timeout=aiohttp.ClientTimeout(total=self.settings.request_s),
                allow_redirects=False,
            ) as response:
                status, asked = response.status, response.headers.get("Retry-After")
                text = await _text(response)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0.0
        if _may_pass(status):
            return _seconds(asked)
        return self._settle(calls, status, text)

    def _settle(self, calls: Sequence["_Queued"], status: int, text: bytes) -> float | None:
        answer = _understood(text) if status == 200 else None
        if status == 200 and answer is None:
            return 0.0  # a hotspot's own page, which answers everything
        self._queue.delete(calls)  # first: where the disk refuses, the same calls are answered once more
        self._note_level()
        if answer is None:
            self.tally.refused += len(calls)
            self.tally.refusals.append(f"{calls[0].path}: {status} {text[:300].decode(errors='replace')}")
            return None
        if calls[0].path == LOCATION_PATH:
            self.regions = tuple(answer.regions)
        self.acknowledged.extend(call.message_id for call in calls)
        return None

    def _body(self, calls: Sequence["_Queued"]) -> bytes:
        sent_at = self._now_text()
        if calls[0].path == BATCH_PATH:
            batch = [msgspec.Raw(call.body) for call in calls]
            return msgspec.json.encode({"batch": batch, "sentAt": sent_at})
        return msgspec.json.encode({**msgspec.json.decode(calls[0].body), "sentAt": sent_at})

    def _backoff(self, failures: int) -> float:
        """Doubling, and jittered: phones of one shop must not come back all at once."""
        settings = self.settings
        longest = min(settings.longest_retry_s, settings.first_retry_s * 2.0 ** min(failures, 20))
        return longest * (0.5 + settings.jitter() / 2)


@dataclass(frozen=True, slots=True)
class _Queued:
    number: int
    message_id: str
    path: str
    body: bytes


class _Answer(msgspec.Struct):
    """What every path of the bridge answers, and the location's more."""

    success: Literal[True]
    regions: list[Region] = []


_answer = msgspec.json.Decoder(_Answer)


def _understood(text: bytes) -> _Answer | None:
    try:
        return _answer.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


async def _text(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body, no more of it than any bridge would send."""
    text = bytearray()
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) > MAX_ANSWER_BYTES:
            break
    return bytes(text)


def _packed(body: bytes) -> tuple[bytes, dict[str, str]]:
    if len(body) < PACKED_BYTES:
        return body, {}
    return gzip.compress(body, compresslevel=6, mtime=0), {"Content-Encoding": "gzip"}


def _may_pass(status: int) -> bool:
    """Whether the same calls may be taken another time; 3xx is a proxy or a hotspot in between."""
    return status in _AGAIN or 300 <= status < 400 or (status >= 500 and status not in _NEVER_AGAIN)


class _Queue:
    """Calls in order, in a SQLite file or in memory; bounded: the oldest make room.

    A call that the file does not take, for somebody else writes to it or the disk is full, is held in memory
    until it does. Its length counts those too.
    """

    def __init__(self, path: Path | None, limit: int, most_bytes: int, tally: ClientTally) -> None:
        self._path = path
        self._limit = limit
        self._most_bytes = most_bytes
        self._tally = tally
        self._held: deque[_Queued] = deque()
        self._opened = self._mending = False
        self._aside: Path | None = None
        self._count = self._bytes = 0
        self._version = -1
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if path is None or not (_is_damage(error) or _is_the_disks(error)):
                raise
            self.mend(error)

    def __len__(self) -> int:
        return self._count + len(self._held)

    def _open(self) -> None:
        self._database = sqlite3.connect(self._path or ":memory:", BUSY_S, isolation_level=None)
        # WAL without a sync each: the process may die at any time, a power cut may cost the last calls.
        self._database.executescript(
            """
            pragma journal_mode = wal;
            pragma synchronous = normal;
            create table if not exists calls (
              number integer primary key autoincrement,
              message_id text not null,
              path text not null,
              body blob not null
            );
            """
        )
        # Of a letter that the disk made of another something else must be left, not an error at every look.
        self._database.text_factory = lambda raw: raw.decode(errors="replace")
        self._version = -1
        self._count_anew()
        self._opened = True

    def _count_anew(self) -> None:
        """How much the file holds, where another process wrote to it since we last looked."""
        version = self._database.execute("pragma data_version").fetchone()[0]
        if version != self._version:
            held = "select count(*), coalesce(sum(length(body)), 0) from calls"
            self._count, self._bytes = self._database.execute(held).fetchone()
            self._version = version

    # Damage -----------------------------------------------------------------------------------------------

    def mend(self, error: sqlite3.Error) -> None:
        """Begins a new file where the old one is damaged, and opens one that could not be opened at the
        start; any other error leaves all as it is. Never raises: what fails of it is tried again with the
        next error.
        """
        if self._path is not None and (self._mending or _is_damage(error)):
            self._begin_anew(self._path)
        elif not self._opened:
            with suppress(sqlite3.Error):
                self._database.close()
                self._open()

    def _begin_anew(self, path: Path) -> None:
        """Sets a damaged file aside and begins a new one with what can still be read of it."""
        self._mending = True
        try:
            self._database.close()
            self._aside = self._aside or _set_aside(path)
            self._open()
        except (OSError, sqlite3.Error):  # a full disk, or no right to rename
            self._tally.mends_failed += 1
            return
        self._tally.queues_broken += 1
        self._save_from(self._aside)
        self._mending, self._aside = False, None

    def _save_from(self, aside: Path) -> None:
        """Takes the whole calls of a damaged file over, under their numbers, as far as it can be read."""
        with suppress(sqlite3.Error), closing(_readable(aside)) as damaged:
            rows = damaged.execute("select number, message_id, path, body from calls order by number")
            for call in (_Queued(*row) for row in rows):
                if not _is_whole(call):
                    self._tally.dropped_damaged += 1
                    continue
                try:
                    self._insert(call)
                except sqlite3.IntegrityError:  # the damage gave one of the two the other's number
                    self._insert(replace(call, number=0))
                self._make_room()

    # Adding -----------------------------------------------------------------------------------------------

    def put(self, call: _Queued) -> None:
        """Adds a call; counts what had to make room for it, in the file or among those held in memory."""
        self._held.append(call)
        self._write_held()
        while len(self._held) > MAX_HELD:
            self._held.popleft()
            self._tally.dropped_unwritten += 1

    def _write_held(self) -> None:
        try:
            self._count_anew()
            while self._held:
                self._insert(self._held[0])
                self._held.popleft()
            self._make_room()
        except sqlite3.Error as error:
            self.mend(error)

    def _insert(self, call: _Queued) -> None:
        self._database.execute(
            "insert into calls (number, message_id, path, body) values (?, ?, ?, ?)",
            (call.number or None, call.message_id, call.path, call.body),
        )
        self._count += 1
        self._bytes += len(call.body)

    def _make_room(self) -> None:
        while self._count > 1 and (self._count > self._limit or self._bytes > self._most_bytes):
            self._drop()
            self._tally.dropped_full += 1

    def _drop(self, number: int | None = None) -> None:
        """Removes a call, the oldest without a number, unless another process was faster."""
        one = "delete from calls where number = coalesce(?, (select min(number) from calls)) "
        size = self._database.execute(one + "returning length(body)", (number,)).fetchone()
        if size is None:
            self._check_gone("+number = coalesce(?, +number)", number)
        self._bytes -= 0 if size is None else size[0]
        self._count -= 1

    def _check_gone(self, which: str, *values: object) -> None:
        """Raises DatabaseError, as of any damage, for calls that are there and yet could not be deleted: they
        would be sent again and again. `+number` is looked at in each call, where `number` is searched for.
        """
        if self._database.execute(f"select 1 from calls where {which}", values).fetchone():  # noqa: S608 - ours
            raise sqlite3.DatabaseError("calls in the queue are out of their order")

    # Sending ----------------------------------------------------------------------------------------------

    def head(self) -> list[_Queued]:
        """The first call; with it those that follow, if they can all go in one batch. None at all where only
        calls are left that the file does not take.
        """
        self._write_held()
        taken: list[_Queued] = []
        size = 0
        for call in self._whole_calls():
            size += len(call.body)
            if taken and (call.path != BATCH_PATH or taken[0].path != BATCH_PATH or size > MAX_BATCH_BYTES):
                break
            taken.append(call)
        return taken

    def _whole_calls(self) -> list[_Queued]:
        """The first calls; what the disk damaged is dropped, or it would spoil a batch, or stop it."""
        first = "select number, message_id, path, body from calls order by number limit ?"
        while calls := [_Queued(*row) for row in self._database.execute(first, (MAX_BATCH_EVENTS,))]:
            damaged = [call for call in calls if not _is_whole(call)]
            for call in damaged:
                self._drop(call.number)
                self._tally.dropped_damaged += 1
            if len(damaged) < len(calls):
                return [call for call in calls if call not in damaged] if damaged else calls
        return []

    def delete(self, calls: Sequence[_Queued]) -> None:
        """Removes calls that were dealt with, unless they had to make room meanwhile.

        By their ids as well, for the numbers may be other calls' by now, in a file begun after damage.
        """
        gone = size = 0
        missed: list[object] = []
        with self._database:  # commits, or takes all of it back
            self._database.execute("begin")
            for call in calls:
                which = call.number, call.message_id
                done = self._database.execute("delete from calls where number = ? and message_id = ?", which)
                gone += done.rowcount
                size += done.rowcount * len(call.body)
                if not done.rowcount:
                    missed += which
            if missed:  # all at once, for this looks at the whole file; another process may have sent them
                pairs = ", ".join(["(?, ?)"] * (len(missed) // 2))
                self._check_gone(f"(+number, message_id) in (values {pairs})", *missed)
        self._count -= gone
        self._bytes -= size

    def close(self) -> None:
        """Ends it; what the file does not take even now is lost, and counted."""
        self._write_held()
        self._tally.dropped_unwritten += len(self._held)
        self._held.clear()
        self._database.close()


def _set_aside(path: Path) -> Path:
    """Renames a damaged file, and the log beside it, where the newest calls may be alone; its new name.

    The first few are kept; later ones take the last name.
    """
    names = [Path(f"{path}.broken-{number}") for number in range(1, MAX_BROKEN + 1)]
    aside = next((name for name in names if not name.exists()), names[-1])
    # The file first: where that fails, its log must stay beside it.
    for old, new in ((path, aside), (f"{path}-wal", Path(f"{aside}-wal"))):
        new.unlink(missing_ok=True)  # another file's log must not be taken for this one's
        with suppress(FileNotFoundError):
            Path(old).replace(new)
    Path(f"{path}-shm").unlink(missing_ok=True)
    return aside


def _readable(damaged: Path) -> sqlite3.Connection:
    """A file to read as far as it goes: `writable_schema` lets SQLite open one that was cut."""
    database = sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", BUSY_S, uri=True)
    database.execute("pragma writable_schema = on")
    return database


def _is_whole(call: _Queued) -> bool:
    """Whether a call from a damaged file is what was put there, as far as sending it needs: its body is JSON
    to the last letter and names the same id, and its path is one.
    """
    try:
        named = msgspec.json.decode(call.body)["messageId"]
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, KeyError):
        return False
    return bool(named == call.message_id) and str(call.path).startswith("/v1/")


def _is_damage(error: sqlite3.Error) -> bool:
    """Not a database, or a malformed one; what may pass (full, locked) is an OperationalError."""
    return type(error) is sqlite3.DatabaseError


def _is_the_disks(error: sqlite3.Error) -> bool:
    """A disk that is full or fails, or somebody else's lock; a folder that is not there is the app's."""
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the bits above say in doing what
    return kind in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY}


def _seconds(retry_after: str | None) -> float:
    try:
        return min(MAX_RETRY_AFTER_S, max(0.0, float(retry_after or 0)))
    except ValueError:
        return 0.0  # an HTTP date: our own back-off serves as well
