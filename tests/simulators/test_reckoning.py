"""The demo's figures see what is missing and what is doubled: a reckoning that cannot fail proves nothing."""

import json

import pytest

from backend.storage.accounts import Accounts
from simulators.demo.ledger import IN_HAND_MS, Ledger, balance
from simulators.demo.reckoning import Evidence, percentile, read_deliveries, summary

A, B = "demo/a", "demo/b"


def heard(**adverts: int) -> Ledger:
    ledger = Ledger()
    for gateway, count in adverts.items():
        for number in range(count):
            ledger.heard(f"demo/{gateway}", number * 100)
    return ledger


def figures(*, adverts=None, forgotten=None, messages=None, delivered=(), promised=()):
    evidence = Evidence(heard(a=10, b=5), ["m1", "m2"], delivered, promised)
    held = {A: 8, B: 5} if adverts is None else adverts
    known = {"m1": 1, "m2": 1} if messages is None else messages
    counted = {A: 2} if forgotten is None else forgotten
    found = summary(evidence, Accounts(held, counted, known, 3, {"accepted": 1}, 1, [10, 20]))
    return found["lost"], found["duplicates"]


@pytest.mark.parametrize(
    ("why", "changes", "expected"),
    [
        ("stored and forgotten together are what was sent", {}, (0, 0)),
        ("an advert is missing", {"adverts": {A: 7, B: 5}}, (1, 0)),
        ("a gateway is missing", {"adverts": {A: 8}}, (5, 0)),
        ("an advert is there twice", {"adverts": {A: 9, B: 5}}, (0, 1)),
        ("one gateway's surplus hides no other's loss", {"adverts": {A: 9, B: 4}}, (1, 1)),
        ("adverts of a gateway that heard nothing", {"adverts": {A: 8, B: 5, "demo/c": 2}}, (0, 2)),
        ("an event answered 200 is missing", {"messages": {"m1": 1}}, (1, 0)),
        ("an event is stored twice", {"messages": {"m1": 2, "m2": 1}}, (0, 1)),
        ("one push reached a phone twice", {"delivered": [("p1", "t"), ("p1", "t")]}, (0, 1)),
        ("one push reached two phones", {"delivered": [("p1", "t"), ("p1", "u")]}, (0, 0)),
        ("a campaign reached a phone by two pushes", {"promised": [("c", "t"), ("c", "t")]}, (0, 1)),
    ],
)
def test_what_is_missing_or_doubled_shows(why, changes, expected):
    assert figures(**changes) == expected, why


def test_a_kill_excuses_only_its_last_moments():
    ledger = heard(a=100)
    last = 99 * 100
    ledger.killed(A, last)
    excused = ledger.in_hand[A]
    assert excused == IN_HAND_MS // 100 + 1
    assert balance(ledger, {A: 100 - excused}).lost == 0
    assert balance(ledger, {A: 100 - excused - 1}).lost == 1
    assert balance(ledger, {A: 101}).duplicates == 1
    ledger.killed(A, last)
    assert ledger.in_hand[A] == excused, "the same adverts are not excused twice"


def test_a_line_cut_off_by_a_kill_is_no_delivery(tmp_path):
    log = tmp_path / "messages.jsonl"
    assert read_deliveries(log) == []
    log.write_text(json.dumps({"value": "t"}) + "\n" + '{"value": "u', "utf-8")
    assert read_deliveries(log) == [{"value": "t"}]


@pytest.mark.parametrize(
    ("ordered", "percent", "expected"),
    [([], 95, None), ([7], 50, 7), ([1, 2, 3, 4], 50, 2), (list(range(1, 101)), 95, 95), ([1, 9], 95, 9)],
)
def test_the_nearest_rank(ordered, percent, expected):
    assert percentile(ordered, percent) == expected


def test_the_last_moments_are_those_before_the_kill_however_late_bluez_knows_of_it():
    ledger = heard(a=100)
    ledger.killed(A, 70 * 100)
    assert ledger.in_hand[A] == IN_HAND_MS // 100 + 1 + 29
