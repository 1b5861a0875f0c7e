"""MQTT to journal: check what a gateway sent, keep what may be kept, acknowledge after the commit."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

import msgspec
import structlog

from backend.custody import Custody, Verdict
from backend.listening import Listening, without_strangers
from backend.rotating_ids import NoResolver, Resolver, has_rotating, named
from backend.storage.entries import LaneKey
from backend.storage.journal import GatewayAppend, Journal
from backend.storage.letters import Letter, NewLetter
from backend.storage.session import StorageError
from sdk_bridge import mqtt
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire import codec, topics
from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.envelope import Envelope, boot_offset
from sdk_bridge.wire.messages import MAX_PAYLOAD_BYTES, Ack, Batch, Lane, Skip, UpMessage

log = structlog.get_logger()

MAX_MESSAGES_TAKEN = 4_096  # on their way to the disk; a stranger's flood must not become our memory
GATHER_S = 0.003  # between two commits: on a quick disk each would be for two messages, and cost more
RECONNECT_CAP_S = 5.0  # gateways hold what they heard meanwhile, but offers wait
OLDEST_MS = 42 * 86_400_000
AHEAD_MS = 60_000  # a foreign gateway's clock may run a little ahead of ours
NO_CONSENT = "no consent"
EID_UNRESOLVED = "eid_unresolved"
MAX_UNNAMED = 1_024  # lanes that wait so; a gateway that invents epochs must not fill the memory
NAMED_WITHIN_MS = 600_000  # a table of ids that cannot be made must not keep a gateway's outbox for ever
LANES: tuple[Lane, ...] = ("live", "backlog")
_Partitions: TypeAlias = frozenset[int] | None


@lru_cache(maxsize=16_384)  # gateways send to the same few for ever
def _sender(topic: str) -> tuple[str, int, topics.Leaf]:
    """The gateway's name, its partition, and what it sends. Raises WireError."""
    address, leaf = topics.parse_topic(topic)
    return f"{address.store}/{address.gateway}", address.partition, leaf


@lru_cache(maxsize=16_384)
def _ack_topic(gateway: str) -> str:
    store, name = gateway.split("/")
    return topics.GatewayAddress(store, name).topic("down/ack")


def time_offset(envelope: Envelope, batch: Batch, received_at: int) -> int | None:
    """What turns the batch's times into unix time; None where they cannot be, or come out absurd.

    Nothing was heard after it arrived, and no outbox keeps what is older than six weeks.
    """
    offset = boot_offset(envelope, batch.boot_id, received_at)
    if offset is None:
        return None
    begins = batch.base_ms + offset
    ends = begins + max(batch.readings.second, default=0) * 1000
    return offset if received_at - OLDEST_MS <= begins and ends <= received_at + AHEAD_MS else None


class Ingest:
    """Receives every gateway's batches on one MQTT connection. `run` lives as long as the process."""

    def __init__(
        self, broker: mqtt.Broker, journal: Journal, custody: Custody, now_ms: Callable[[], int]
    ) -> None:
        self._broker = broker
        self._journal = journal
        self._custody = custody
        self._now_ms = now_ms
        self._connection: mqtt.Connection | None = None
        self._taken: list[GatewayAppend] = []
        """What has come since the last commit began; it goes to the journal in one piece."""
        self._commit_at = 0.0
        """When the next may begin, by the loop's clock."""
        self._under_way: dict[asyncio.Task[None], int] = {}
        """Commits, each with how many messages it is for; all of them together are `_on_their_way`."""
        self._on_their_way = 0
        self._epochs: dict[str, str] = {}
        self._unnamed: dict[LaneKey, _Unnamed] = {}
        self._to_tell: set[LaneKey] = set()
        self._listening = Listening()
        self._others_listen = asyncio.Event()
        self.resolver: Resolver = NoResolver()
        self.on_connected: Callable[[], None] = lambda: None
        """Called whenever the broker was reached anew."""
        self.counts: Counter[str] = Counter()

    @property
    def listening(self) -> Listening:
        """Whom to listen to; set whenever the fold or an operator changed it."""
        return self._listening

    @listening.setter
    def listening(self, listening: Listening) -> None:
        if listening.partitions != self._listening.partitions:
            self._others_listen.set()
        self._listening = listening

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.is_open

    async def run(self) -> None:
        """Connects, receives, reconnects with back-off and jitter."""
        delay = 0.1
        while True:
            try:
                async with mqtt.connect(self._broker, self._on_message) as connection:
                    followed = await self._subscribe(connection)
                    self._connection = connection
                    delay = 0.1
                    log.info("broker_connected", broker=f"{self._broker.host}:{self._broker.port}")
                    self._announce_all()
                    self.on_connected()
                    reason = await self._until_lost(connection, followed)
                    log.warning("broker_lost", reason=reason)
            except StorageError as error:
                log.warning("lanes_not_read", error=str(error))
            except mqtt.MqttUnavailable as error:
                log.warning("broker_unavailable", error=str(error))
            finally:
                self._connection = None
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, RECONNECT_CAP_S)

    async def _subscribe(self, connection: mqtt.Connection) -> _Partitions:
        """To every gateway's topics, or where there are other replicas, to our partitions'."""
        if self.listening.partitions is None:
            await connection.subscribe([topics.subscription("up"), topics.subscription("status")])
            return None
        return await self._follow(connection, frozenset())

    async def _until_lost(self, connection: mqtt.Connection, followed: _Partitions) -> str:
        """Follows the partitions that come and go until the connection ends; why it did."""
        closed = asyncio.ensure_future(connection.closed())
        try:
            while followed is not None and not closed.done():
                changed = asyncio.ensure_future(self._others_listen.wait())
                try:
                    await asyncio.wait({closed, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if not closed.done():
                    followed = await self._follow(connection, followed)
            return await closed
        finally:
            closed.cancel()

    async def _follow(self, connection: mqtt.Connection, followed: frozenset[int]) -> frozenset[int]:
        """Subscribes to what has become ours, after reading how far others took it, and leaves the rest."""
        self._others_listen.clear()
        wanted = self.listening.partitions or frozenset()
        gained, lost = wanted - followed, followed - wanted
        connection.unsubscribe(_filters(lost))
        if gained:
            lanes = await self._journal.lanes()
            self._custody.reload(lanes, lambda gateway: _partition(gateway) in gained)
            await connection.subscribe(_filters(gained))
            log.info("partitions_followed", gained=len(gained), lost=len(lost))
            for gateway in self.listening.gateways:
                if _partition(gateway) in gained:
                    self.announce(gateway)
        return wanted

    def announce(self, gateway: str) -> None:
        """Tells a gateway what is expected of it next, in every lane of its present outbox life."""
        epoch = self._epochs.get(gateway)
        lanes = self._custody.lanes_of(gateway)
        if epoch is not None:
            lanes = [LaneKey(gateway, epoch, lane) for lane in LANES]
        for lane in lanes:
            self._acknowledge(lane, gap=True)

    def publish_retained(self, topic: str, payload: bytes) -> bool:
        """Hands the broker a message to keep; False where there is no connection, or no room in it."""
        connection = self._connection
        return connection is not None and connection.publish(topic, payload, retain=True)

    def _announce_all(self) -> None:
        for gateway in self.listening.gateways:
            self.announce(gateway)

    def _on_message(self, connection: mqtt.Connection, message: mqtt.Message) -> None:
        """One message from the broker. Its slot is freed at once: custody lies above MQTT."""
        connection.acknowledge(message)
        try:
            name, partition, leaf = _sender(message.topic)
            if name not in self.listening.gateways:
                self._refuse("unknown gateway", name)
            elif leaf == "status":
                self._on_status(name, message.payload)
            else:
                self._on_batch(name, partition, message)
        except WireError as error:
            self._refuse("malformed", str(error))

    def _on_status(self, gateway: str, payload: bytes) -> None:
        status = codec.decode_status(payload)
        if status.online:
            self._epochs[gateway] = status.epoch
            self.announce(gateway)

    def _on_batch(self, gateway: str, partition: int, message: mqtt.Message) -> None:
        envelope = Envelope.from_properties(message.properties)
        lane = LaneKey(gateway, envelope.epoch, envelope.lane)
        self._epochs[gateway] = envelope.epoch
        verdict = self._custody.judge(lane, envelope.seq)
        self.counts[verdict.value] += 1
        if lane in self._unnamed and not self._unnamed[lane].asked_again:
            return  # it will be announced; a word now would make the gateway repeat itself in vain
        if verdict is not Verdict.ACCEPT:
            self._acknowledge(lane, gap=verdict is Verdict.GAP)
            return
        if len(self._taken) + self._on_their_way >= MAX_MESSAGES_TAKEN:
            self._refuse("overloaded", gateway)  # it keeps the message and sends it again
            return
        append = self._append_for(lane, partition, envelope, message.payload)
        if append is None:
            self.counts["waits for names"] += 1
            return
        self._unnamed.pop(lane, None)
        self._custody.take(lane, append.upto)
        if not self._taken:
            asyncio.get_running_loop().call_at(self._commit_at, self._commit_taken)
        self._taken.append(append)

    def _append_for(
        self, lane: LaneKey, partition: int, envelope: Envelope, payload: bytes
    ) -> GatewayAppend | None:
        """What is kept of a message; one that nobody can read consumes its sequence all the same.

        None: not yet, for nobody can say who the rotating ids in it are. The gateway keeps it so long.
        """
        now, seq = self._now_ms(), envelope.seq
        try:
            heard = _understood(payload, seq)
        except WireError as error:
            self._refuse("unreadable", f"{lane.gateway}: {error}")
            buried = _unreadable(lane, partition, envelope, payload, now, str(error))
            return GatewayAppend(lane, seq, seq, now, partition, buried=buried)
        if isinstance(heard, Batch):
            return self._append_batch(lane, partition, envelope, heard, now)
        upto = heard.to if isinstance(heard, Skip) else seq
        return GatewayAppend(lane, seq, upto, now, partition, payload=codec.encode(heard))

    def _append_batch(
        self, lane: LaneKey, partition: int, envelope: Envelope, batch: Batch, now: int
    ) -> GatewayAppend | None:
        offset = time_offset(envelope, batch, now)
        found = self._named(lane, batch, offset, now) if has_rotating(batch) else (batch, 0)
        if found is None:
            return None
        self.counts[EID_UNRESOLVED] += found[1]
        payload, forgotten = self._kept(offset, *found)
        return GatewayAppend(lane, envelope.seq, envelope.seq, now, partition, offset, payload, forgotten)

    def _kept(self, offset: int | None, known: Batch, unresolved: int) -> tuple[bytes | None, dict[str, int]]:
        """What may be kept of a batch, and the adverts that may not, by reason."""
        begins = None if offset is None else known.base_ms + offset
        kept, strangers = without_strangers(known, self.listening.may_keep_since(begins))
        forgotten = {NO_CONSENT: strangers, EID_UNRESOLVED: unresolved}
        payload = codec.encode(kept) if kept is not None and kept.keys else None
        return payload, {reason: adverts for reason, adverts in forgotten.items() if adverts}

    def _named(self, lane: LaneKey, batch: Batch, offset: int | None, now: int) -> tuple[Batch, int] | None:
        """The batch under its beacons' own keys, and the adverts of ids that are nobody's; None: not yet."""
        waiting = self._unnamed.get(lane) or _Unnamed(now)
        resolver = self.resolver if now - waiting.since < NAMED_WITHIN_MS else NoResolver()
        found = named(batch, offset, resolver, partial(self._ask_again, lane))
        if found is None:
            waiting.asked_again = False
            self._unnamed[lane] = waiting
            if len(self._unnamed) > MAX_UNNAMED:
                del self._unnamed[next(iter(self._unnamed))]
        return found

    def _ask_again(self, lane: LaneKey) -> None:
        """The ids of a lane's next message can be named by now: its gateway is to send it once more."""
        if lane in self._unnamed:
            self._unnamed[lane].asked_again = True
            self._acknowledge(lane, gap=True)

    def _commit_taken(self) -> None:
        taken, self._taken = self._taken, []
        if taken:
            self._commit_at = asyncio.get_running_loop().time() + GATHER_S
            self._start(taken)

    def _start(self, appends: Sequence[GatewayAppend]) -> None:
        task = asyncio.get_running_loop().create_task(self._commit(appends))
        self._under_way[task] = len(appends)
        self._on_their_way += len(appends)
        task.add_done_callback(self._ended)

    def _ended(self, commit: asyncio.Task[None]) -> None:
        self._on_their_way -= self._under_way.pop(commit)

    async def _commit(self, appends: Sequence[GatewayAppend]) -> None:
        """Where one is at fault, each goes alone, and only that one fails."""
        uptos = [0] * len(appends)
        try:
            uptos = await self._journal.append_gateways(appends)
        except JournalBusy as error:
            self._refuse("journal busy", f"{appends[0].lane.gateway}: {error}")
        except Exception:
            if len(appends) == 1:
                self._reached(appends[0], 0)
                raise
            for append in appends:
                self._start([append])
            return
        for append, upto in zip(appends, uptos, strict=True):
            self._reached(append, upto)

    def _reached(self, append: GatewayAppend, upto: int) -> None:
        """What the journal answers is the truth: more, or less, may be committed than we thought."""
        if upto < append.upto:
            self._custody.abandon(append.lane)
        self._custody.commit(append.lane, upto)
        if upto:
            self._acknowledge(append.lane, gap=upto < append.upto)

    def _acknowledge(self, lane: LaneKey, *, gap: bool) -> None:
        """Says how far a lane has come: of a gap at once, else one word for all that arrived together."""
        if gap:
            self._tell(lane, gap=True)
            return
        if not self._to_tell:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._to_tell.add(lane)

    def _tell_all(self) -> None:
        lanes, self._to_tell = self._to_tell, set()
        for lane in lanes:
            self._tell(lane, gap=False)

    def _tell(self, lane: LaneKey, *, gap: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        ack = Ack(lane.epoch, lane.lane, self._custody.committed(lane), gap, self._now_ms())
        connection.publish(_ack_topic(lane.gateway), codec.encode(ack), qos=0)

    def _refuse(self, reason: str, detail: str) -> None:
        """Counts; the log gets the 1st, 2nd, 4th … of a kind, so that a flood stays readable."""
        self.counts[reason] += 1
        count = self.counts[reason]
        if count & (count - 1) == 0:
            log.warning("refused", reason=reason, detail=detail[:200], count=count)

    def read_again(self, letter: Letter) -> GatewayAppend:
        """What a message that could not be read turns out to hold, as history; its sequence is long consumed.

        Raises WireError where it still cannot be read, or where the rotating ids in it cannot be named yet.
        """
        envelope = msgspec.convert(msgspec.json.decode(letter.envelope or "{}"), Envelope)
        lane = LaneKey(letter.origin, envelope.epoch, "backlog")
        append = GatewayAppend(lane, envelope.seq, envelope.seq, letter.received_at, letter.partition or 0)
        heard = _understood(letter.payload, envelope.seq)
        if not isinstance(heard, Batch):
            return append  # a heartbeat or a skip: of no use to anybody by now
        offset = time_offset(envelope, heard, letter.received_at)
        found = named(heard, offset, self.resolver, lambda: None) if has_rotating(heard) else (heard, 0)
        if found is None:
            raise WireError("it can be read, but its rotating ids cannot be named yet; try again in a while")
        payload, forgotten = self._kept(offset, *found)
        return msgspec.structs.replace(append, boot_offset=offset, payload=payload, forgotten=forgotten)

    async def drain(self) -> None:
        """Waits for what was taken to reach the disk, and says so; at shutdown."""
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                self._commit_taken()
                while self._under_way:
                    await asyncio.wait(set(self._under_way))
        self._tell_all()


def _filters(partitions: frozenset[int]) -> list[str]:
    leaves: tuple[topics.Leaf, ...] = ("up", "status")
    return [topics.subscription(leaf, partition) for partition in sorted(partitions) for leaf in leaves]


def _partition(gateway: str) -> int:
    return topics.partition_of(gateway.partition("/")[0])


@dataclass(slots=True)
class _Unnamed:
    """A lane whose next message holds ids that cannot be named yet, since when (unix ms)."""

    since: int
    asked_again: bool = False


def _unreadable(
    lane: LaneKey, partition: int, envelope: Envelope, payload: bytes, received_at: int, reason: str
) -> NewLetter:
    return NewLetter(
        received_at=received_at,
        origin=lane.gateway,
        reason=reason,
        payload=payload[:MAX_PAYLOAD_BYTES],  # a longer one is none of this wire, whoever reads it
        form="message",
        partition=partition,
        lane=lane.lane,
        envelope=msgspec.json.encode(envelope).decode(),
    )


def _understood(payload: bytes, seq: int) -> UpMessage:
    heard = codec.decode_up(payload)
    if isinstance(heard, Skip) and heard.to < seq:
        raise WireError(f"a skip from {seq} cannot end at {heard.to}")
    return heard
