"""The sender's window: tables of cases, and a simulated world that loses, repeats, reorders and kills."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.gobackn import FIRST_RESEND_MS, FORGOT_MS, LAST_RESEND_MS, STALL_MS, WINDOW, Window, Word


def opened(acked: int = 0, last: int = 0, now: int = 0) -> Window:
    window = Window(acked, last)
    window.connected(now)
    return window


def send_all(window: Window, now: int) -> list[int]:
    due = list(window.due(now))
    for seq in due:
        window.sent(seq, now)
    return due


def test_nothing_is_due_before_there_is_a_connection():
    assert not Window(0, 5).due(0)
    assert Window(0, 5).room(0) == 0


def test_a_window_holds_no_more_than_sixty_four():
    window = opened(last=100)
    assert send_all(window, 0) == list(range(1, WINDOW + 1))
    assert window.acknowledge(10, False, 5) is Word.PROGRESS
    assert send_all(window, 5) == list(range(65, 75))
    assert window.room(5) == 0


def test_a_new_connection_starts_after_the_last_acknowledged():
    window = opened(last=5)
    send_all(window, 0)
    window.acknowledge(2, False, 1)
    window.disconnected()
    assert not window.due(2) and window.deadline is None
    window.connected(3)
    assert send_all(window, 3) == [3, 4, 5]


def test_silence_resends_after_one_second_doubling_to_ten():
    window = opened(last=2)
    send_all(window, 0)
    now, waits = 0, []
    for _ in range(6):
        assert window.deadline is not None
        assert not window.due(window.deadline - 1)
        waits.append(window.deadline - now)
        now = window.deadline
        assert send_all(window, now) == [1, 2]
    assert waits == [FIRST_RESEND_MS, 2000, 4000, 8000, LAST_RESEND_MS, LAST_RESEND_MS]


def test_progress_makes_it_patient_anew():
    window = opened(last=3)
    send_all(window, 0)
    send_all(window, 1000)
    window.acknowledge(1, False, 1500)
    assert window.deadline == 1500 + FIRST_RESEND_MS
    window.acknowledge(3, False, 1600)
    assert window.deadline is None


def test_of_many_complaints_about_one_gap_only_the_first_rewinds():
    window = opened(last=64)
    send_all(window, 0)
    assert window.acknowledge(9, True, 400) is Word.GAP
    assert send_all(window, 400)[0] == 10
    assert [window.acknowledge(9, True, 401 + n) for n in range(50)] == [Word.NOTHING] * 50
    assert not window.due(460)
    assert window.acknowledge(20, True, 470) is Word.GAP  # another gap, at once


def test_a_complaint_right_after_connecting_repeats_nothing():
    window = opened(last=10)
    send_all(window, 0)
    assert window.acknowledge(0, True, 100) is Word.NOTHING
    assert not window.due(100)


def test_an_unacknowledged_lane_takes_nothing_new_for_the_time_being():
    window = opened(last=3)
    send_all(window, 0)
    assert window.room(STALL_MS - 1) == WINDOW - 3
    assert window.room(STALL_MS) == 0
    window.acknowledge(3, False, 60_000)
    assert window.room(60_000) == WINDOW


def test_an_acknowledgement_of_what_was_never_numbered_spends_the_epoch():
    assert opened(last=3).acknowledge(4, False, 0) is Word.WE_FORGOT


@pytest.mark.parametrize(
    ("complaints", "expected"),
    [
        ([(0, True)], Word.NOTHING),  # late, from a former owner
        ([(0, True), (FORGOT_MS - 1, True)], Word.NOTHING),
        ([(0, True), (FORGOT_MS, False)], Word.NOTHING),  # late, and no complaint
        ([(0, True), (FORGOT_MS, True)], Word.THEY_FORGOT),
    ],
)
def test_a_receiver_that_insists_on_what_it_acknowledged_has_forgotten(complaints, expected):
    window = opened(acked=10, last=12)
    assert [window.acknowledge(4, gap, now) for now, gap in complaints][-1] is expected
    window.acknowledge(10, False, 99_999)
    assert window.acknowledge(4, True, 100_000) is Word.NOTHING, "a good word in between starts anew"


def test_a_skip_covers_several_sequences_at_once():
    window = opened(last=9)
    window.sent(7, 0)
    assert list(window.due(0)) == [8, 9]


class Receiver:
    """Accepts the next sequence only; answers everything with what it has. Its log is the truth."""

    def __init__(self) -> None:
        self.upto = 0
        self.log: list[int] = []

    def take(self, seq: int) -> tuple[int, bool]:
        if seq == self.upto + 1:
            self.upto = seq
            self.log.append(seq)
            return self.upto, False
        return self.upto, seq > self.upto


class World:
    """Sender, channel and receiver in simulated milliseconds; `trouble` fades out so that all must arrive."""

    def __init__(self, seed: int, records: int, trouble: float) -> None:
        self.random = Random(seed)
        self.trouble = trouble
        self.records = records
        self.stored = (0, 0)  # acked and last, as the outbox would have them after a kill
        self.window = opened()
        self.receiver = Receiver()
        self.air: list[tuple[int, str, int, bool]] = []
        self.most_in_flight = 0

    def step(self, now: int) -> None:
        calm = now > 120_000
        if self.window.last < self.records and self.window.room(now):
            self.window.given(self.window.last + 1, now)
            self.stored = (self.stored[0], self.window.last)
        for seq in send_all(self.window, now):
            self.fly("up", seq, False, now, calm)
        self.most_in_flight = max(self.most_in_flight, self.window.outstanding)
        arrived = [flight for flight in self.air if flight[0] <= now]
        self.air = [flight for flight in self.air if flight[0] > now]
        for _, way, number, gap in arrived:
            if way == "up":
                upto, complaint = self.receiver.take(number)
                self.fly("down", upto, complaint, now, calm)
            else:
                word = self.window.acknowledge(number, gap, now)
                assert word is not Word.WE_FORGOT
                self.stored = (
                    (self.window.acked, self.window.last) if self.random.random() < 0.5 else self.stored
                )
        if not calm and self.random.random() < 0.002:
            self.kill_something(now)

    def fly(self, way: str, number: int, gap: bool, now: int, calm: bool) -> None:
        copies = 1 if calm else self.random.choices([0, 1, 2], [self.trouble, 1, self.trouble / 2])[0]
        for _ in range(copies):
            delay = 5 if calm else self.random.randint(1, 400)
            self.air.append((now + delay, way, number, gap))

    def kill_something(self, now: int) -> None:
        if self.random.random() < 0.5:
            self.air = []  # the connection broke
            self.window.disconnected()
            self.window.connected(now)
        else:  # the sender was killed: it knows what its outbox knew, and numbered records survive
            self.window = opened(self.stored[0], self.window.last, now)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), records=st.integers(1, 200), trouble=st.floats(0, 0.6))
def test_everything_arrives_once_and_in_order_whatever_the_channel_does(seed, records, trouble):
    world = World(seed, records, trouble)
    now = 0
    while now < 400_000 and world.window.acked < records:
        world.step(now)
        now += 20
    assert world.receiver.log == list(range(1, records + 1))
    assert world.window.acked == records
    assert world.most_in_flight <= WINDOW
