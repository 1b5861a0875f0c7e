"""The log: identical lines once in ten seconds, bursts bounded, and every line held back is told of."""

import json
import logging
import subprocess
import sys

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.log import BURST, HELD_BACK, MAX_REMEMBERED, REPEAT_SECONDS, Repeats


class Desk:
    """Repeats on a clock turned by hand; `told` are the lines that came through."""

    def __init__(self):
        self.now = 0.0
        self.repeats = Repeats(lambda: self.now)
        self.told = []

    def say(self, event, level="info", **more):
        try:
            self.told.append(self.repeats(None, level, {"event": event, "level": level, **more}))
        except structlog.DropEvent:
            return False
        return True

    def overdue(self, **how):
        return {(line["of"], line.get("cause")): line["repeated"] for line in self.repeats.overdue(**how)}


@pytest.fixture
def desk():
    return Desk()


def test_a_line_that_differs_in_words_is_another_line(desk):
    assert desk.say("adapter", condition="absent") and desk.say("adapter", condition="ready")
    assert not desk.say("adapter", condition="absent")


def test_a_line_that_differs_in_numbers_is_the_same(desk):
    assert [desk.say("outbox unavailable", waiting=n, cause="full") for n in range(3)] == [True, False, False]


def test_what_stops_repeating_is_told_all_the_same(desk):
    for _ in range(5):
        desk.say("no broker", "warning", cause="refused")
    assert desk.overdue() == {}
    desk.now = REPEAT_SECONDS
    [line] = desk.repeats.overdue()
    assert line == {"of": "no broker", "cause": "refused", "repeated": 4, "level": "warning"}
    assert desk.overdue() == {}


def test_at_the_end_everything_is_told(desk):
    desk.say("no broker", cause="refused")
    desk.say("no broker", cause="refused")
    assert desk.overdue(everything=True) == {("no broker", "refused"): 1}


def test_a_cause_that_changes_every_time_is_bounded_too(desk):
    assert sum(desk.say("no broker", cause=f"attempt {n} failed") for n in range(1000)) == BURST
    assert desk.overdue() == {("no broker", None): 1000 - BURST}
    assert desk.say("adapter", condition="ready"), "another event has room of its own"
    desk.now = REPEAT_SECONDS
    assert desk.say("no broker", cause="attempt 1001 failed")


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 400), st.floats(0, 4), st.booleans()),
        max_size=400,
    )
)
def test_every_line_is_told_or_counted_and_memory_is_bounded(lines):
    desk = Desk()
    counted = 0
    for event, cause, seconds, ask in lines:
        desk.now += seconds
        desk.say(f"event {event}", cause=f"cause {cause}")
        if ask:
            counted += sum(desk.overdue().values())
    counted += sum(desk.overdue(everything=True).values())
    repeated = sum(line.get("repeated", 0) for line in desk.told)
    assert len(desk.told) + repeated + counted == len(lines)
    assert len(desk.repeats._told) <= MAX_REMEMBERED and len(desk.repeats._bursts) <= MAX_REMEMBERED


def test_the_account_of_what_was_held_back_is_never_held_back(desk):
    assert all(desk.say(HELD_BACK, of="no broker", repeated=n) for n in range(100))


PROGRAM = """
import logging, sys, structlog
from gateway.log import configure, tell_held_back
configure("info", sys.argv[1], version="0.1.0", gateway="door")
log = structlog.get_logger()
for n in range(50):
    log.warning("no broker", cause="refused\\nby\\x1b[31m nobody", attempt=n)
    logging.getLogger("bleak").warning("lost %s", "it")
logging.getLogger("bleak").debug("C0:00:00:00:00:01")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a worker died")
log.info("long", cause="x" * 5000)
tell_held_back(everything=True)
"""


def test_a_whole_log_in_json():
    done = subprocess.run([sys.executable, "-c", PROGRAM, "json"], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == [
        *("gateway starts", "no broker", "library", "a worker died", "long"),
        *(HELD_BACK, HELD_BACK),
    ]
    assert lines[1]["cause"] == "refused by [31m nobody" and lines[1]["level"] == "warning"
    assert lines[2]["library"] == "bleak" and lines[2]["message"] == "lost it"
    assert "ZeroDivisionError" in lines[3]["exception"] and len(lines[4]["cause"]) == 500
    assert {line["of"]: line["repeated"] for line in lines[5:]} == {"no broker": 49, "library": 49}
    assert all("timestamp" in line for line in lines)


def test_a_whole_log_for_people_keeps_a_line_a_line():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "console"], capture_output=True, text=True, check=True
    )
    assert sum("no broker" in line for line in done.stderr.splitlines()) == 2
    assert "\x1b" not in done.stderr and "refused by" in done.stderr
    assert logging.getLogger("gateway").level == 0
