"""Go-back-N between a sender and the real ingest, over a channel that loses, onto a disk that fails."""

import asyncio
from unittest import mock

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backend.custody import Custody, Verdict
from backend.ingest import Ingest
from backend.listening import Gateway, Listening
from backend.storage.entries import LaneKey
from backend.storage.group import LANES_A_GATEWAY
from sdk_bridge import mqtt
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire import codec
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Heartbeat
from sdk_bridge.wire.topics import GatewayAddress

EPOCH = "0123456789abcdef"
LANE = LaneKey("s1/g1", EPOCH, "live")
TOPIC = GatewayAddress("s1", "g1").topic("up")
WINDOW = 6


class DiskOfTheTest:
    """A journal whose commits happen, or fail, when the test says so."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.upto = 0
        self.waiting: list[tuple] = []

    async def append_gateways(self, appends) -> list[int]:
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((appends, done))
        return await done

    def commit(self, how_many: int, reported: bool = True) -> None:
        """One group commit; `reported` False: durable, but its answer was lost."""
        for appends, done in self._next(how_many):
            reached = [self._append(append) for append in appends]
            if done.done():
                continue
            if reported:
                done.set_result(reached)
            else:
                done.set_exception(JournalBusy("input/output error"))

    def _append(self, append) -> int:
        if append.first == self.upto + 1:
            self.upto = append.upto
            self.kept.append(append.first)
        return self.upto

    def fail(self, how_many: int) -> None:
        for appends, done in self._next(how_many):
            if len(appends) > 1:  # each goes again, alone
                done.set_exception(OverflowError("one of them"))
            else:
                done.set_exception(JournalBusy("disk full"))

    def _next(self, how_many: int) -> list[tuple]:
        group, self.waiting = self.waiting[:how_many], self.waiting[how_many:]
        return group


class GoBackN(RuleBasedStateMachine):
    """The sender lives in the machine; the receiver is the ingest as it runs."""

    def __init__(self, fake_mqtt) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.mqtt = fake_mqtt()
        self.patch = mock.patch("backend.ingest.mqtt.connect", self.mqtt.connect)
        self.patch.start()
        self.disk = DiskOfTheTest()
        self.acked = self.next = self.last = 0
        self.channel: list[int] = []
        self.start_receiver()

    def start_receiver(self) -> None:
        committed = {LANE: self.disk.upto} if self.disk.upto else {}
        self.ingest = Ingest(mqtt.Broker("nowhere", 1, "me"), self.disk, Custody(committed), lambda: 1)
        self.ingest.listening = Listening({"s1/g1": Gateway("s1", "g1", "a")})
        self.task = self.loop.create_task(self.ingest.run())
        self.turn()
        self.seen_acks = 0

    def turn(self) -> None:
        """Lets the receiver do what it can."""
        for _ in range(6):
            self.loop.run_until_complete(asyncio.sleep(0))

    @property
    def connection(self):
        return self.mqtt.connections[-1]

    @rule(count=st.integers(1, WINDOW))
    def send(self, count: int) -> None:
        for _ in range(count):
            if self.next < self.acked + WINDOW:
                self.next += 1
                self.last = max(self.last, self.next)
                self.channel.append(self.next)

    @rule()
    def send_again(self) -> None:
        self.next = self.acked

    @precondition(lambda self: self.channel)
    @rule(data=st.data(), copies=st.integers(0, 2))
    def deliver(self, data, copies: int) -> None:
        """In any order, twice, or not at all."""
        seq = self.channel.pop(data.draw(st.integers(0, min(2, len(self.channel) - 1))))
        for _ in range(copies):
            self.receive(seq)

    @precondition(lambda self: self.channel)
    @rule(count=st.integers(2, WINDOW))
    def deliver_together(self, count: int) -> None:
        """In one piece of what the socket had."""
        together, self.channel = self.channel[:count], self.channel[count:]
        for seq in together:
            self.arrive(seq)
        self.turn()

    def receive(self, seq: int) -> None:
        self.arrive(seq)
        self.turn()

    def arrive(self, seq: int) -> None:
        beat = codec.encode(Heartbeat("", seq, "hearing", 1, 1, 0, 0, 0, 0, True, "1"))
        properties = Envelope("live", EPOCH, seq, 1).properties()
        self.loop.call_soon(self.connection.receive, TOPIC, beat, properties)

    @precondition(lambda self: self.disk.waiting)
    @rule(
        how_many=st.integers(1, 4), fate=st.sampled_from(["kept", "failed", "kept, but said to have failed"])
    )
    def commit(self, how_many: int, fate: str) -> None:
        if fate == "failed":
            self.disk.fail(how_many)
        else:
            self.disk.commit(how_many, reported=fate == "kept")
        self.turn()

    @rule(lost=st.booleans())
    def hear_acks(self, lost: bool) -> None:
        for _topic, ack in self.connection.acks[self.seen_acks :]:
            assert ack.upto <= self.disk.upto, "acknowledged before it was committed"
            if not lost:
                assert ack.upto <= self.last, "acknowledged what was never sent"
                self.acked = max(self.acked, ack.upto)
                self.next = self.acked if ack.gap else max(self.next, self.acked)
        self.seen_acks = len(self.connection.acks)

    @rule()
    def receiver_dies(self) -> None:
        self.stop_receiver()
        self.disk.waiting.clear()
        self.start_receiver()

    def stop_receiver(self) -> None:
        self.task.cancel()
        for _appends, done in self.disk.waiting:
            done.cancel()
        self.turn()

    @invariant()
    def exactly_once_and_in_order(self) -> None:
        assert self.disk.kept == list(range(1, self.disk.upto + 1))
        assert self.acked <= self.disk.upto

    def teardown(self) -> None:
        """Once the faults end, everything arrives, and soon: no state may be a dead end."""
        try:
            target = self.last = self.last + 3
            for _ in range(12):
                self.channel = list(range(self.acked + 1, target + 1))
                self.next = target
                while self.channel:
                    self.receive(self.channel.pop(0))
                self.disk.commit(1000)
                self.turn()
                self.hear_acks(lost=False)
                self.exactly_once_and_in_order()
                if self.acked >= target:
                    break
            assert self.acked >= target, "the lane is stuck"
        finally:
            self.stop_receiver()
            self.patch.stop()
            self.loop.close()


@pytest.fixture
def quiet():
    """Thousands of receivers each say that they are connected."""
    with structlog.testing.capture_logs():
        yield


def test_exactly_once_in_order_and_never_acknowledged_before_it_is_committed(fake_mqtt, quiet, monkeypatch):
    monkeypatch.setattr("backend.ingest.GATHER_S", 0.0)  # the machine turns its loop by hand
    run_state_machine_as_test(
        lambda: GoBackN(fake_mqtt),
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(
    ("taken", "seq", "verdict"),
    [
        (0, 1, Verdict.ACCEPT),
        (0, 2, Verdict.GAP),
        (4, 5, Verdict.ACCEPT),
        (4, 4, Verdict.DUPLICATE),
        (4, 1, Verdict.DUPLICATE),
        (4, 6, Verdict.GAP),
    ],
)
def test_only_the_next_sequence_is_accepted(taken, seq, verdict):
    custody = Custody({})
    if taken:
        custody.take(LANE, taken)
    assert custody.judge(LANE, seq) is verdict
    assert custody.committed(LANE) == 0


def test_a_commit_that_comes_after_its_lane_was_abandoned_leaves_no_dead_end():
    custody = Custody({})
    custody.take(LANE, 1)
    custody.abandon(LANE)
    custody.commit(LANE, 1)
    assert custody.judge(LANE, 2) is Verdict.ACCEPT


def test_lanes_and_epochs_are_apart():
    other = LaneKey("s1/g1", EPOCH, "backlog")
    custody = Custody({LANE: 7, other: 3})
    assert custody.judge(LANE, 8) is Verdict.ACCEPT
    assert custody.judge(other, 8) is Verdict.GAP
    assert custody.lanes_of("s1/g1") == [LANE, other]
    assert custody.lanes_of("s1/g2") == []


def test_a_gateway_that_begins_epochs_for_ever_takes_no_more_memory():
    custody = Custody({})
    lanes = [LaneKey("s1/g1", f"{number:016x}", "live") for number in range(5 * LANES_A_GATEWAY)]
    for lane in lanes:
        custody.take(lane, 1)
        custody.commit(lane, 1)
    assert custody.lanes_of("s1/g1") == lanes[-LANES_A_GATEWAY:]


def test_strangers_asked_about_leave_nothing_behind():
    custody = Custody({})
    for number in range(1000):
        custody.judge(LaneKey("s1/g1", f"{number:016x}", "live"), 5)
    assert custody.lanes_of("s1/g1") == []
