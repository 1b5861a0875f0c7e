"""The reckoning after the chaos sees each kind of fault: one that cannot fail proves nothing."""

from dataclasses import replace

import pytest

from backend.storage.accounts import Accounts, Offered
from simulators.chaos.crowd import Promises
from simulators.chaos.reckoning import Evidence, judge

ANNA, BERTA, CARLA = ("cart", "to-anna"), ("dwell-s1", "to-berta"), "to-carla"
EVIDENCE = Evidence(
    acknowledged=["m1", "m2"],
    heard={"s1/g": 10},
    promises=Promises({ANNA, BERTA}, {CARLA}),
    delivered=[("p1", *ANNA), ("p2", *BERTA)],
)
ACCOUNTS = Accounts({"s1/g": 8}, {"s1/g": 2}, {"m1": 1, "m2": 1}, 1, {}, 0, [])
OFFERED = (
    Offered(1, "cart", "sent", "eligible", "p1", "accepted", "to-anna"),
    Offered(2, "dwell-s1", "sent", "eligible", "p2", "unknown", "to-berta"),
    Offered(3, "cart", "suppressed", "no consent: push", None, None, None),
)
FIRST, SECOND, THIRD = OFFERED


@pytest.mark.parametrize(
    ("why", "evidence", "accounts", "offered", "expected"),
    [
        ("all is well", {}, {}, OFFERED, "lost 0 doubled 0 unfinished 0 astray 0"),
        ("an event", {}, {"messages": {"m1": 1}}, OFFERED, "lost 1 doubled 0 unfinished 0 astray 0"),
        ("adverts", {}, {"forgotten": {}}, OFFERED, "lost 2 doubled 0 unfinished 0 astray 0"),
        ("a push", {}, {}, (FIRST, THIRD), "lost 1 doubled 0 unfinished 0 astray 1"),
        (
            "a decision's push",
            {},
            {},
            (*OFFERED, replace(THIRD, verdict="sent")),
            "lost 1 doubled 0 unfinished 0 astray 0",
        ),
        (
            "an event twice",
            {},
            {"messages": {"m1": 2, "m2": 1}},
            OFFERED,
            "lost 0 doubled 1 unfinished 0 astray 0",
        ),
        ("adverts twice", {}, {"adverts": {"s1/g": 11}}, OFFERED, "lost 0 doubled 3 unfinished 0 astray 0"),
        (
            "a push twice, by FCM's count",
            {"delivered": [("p1", *ANNA), ("p2", *BERTA), ("p2", *BERTA)]},
            {},
            OFFERED,
            "lost 0 doubled 2 unfinished 0 astray 0",
        ),
        (
            "an offer twice, as two pushes",
            {"delivered": [("p1", *ANNA), ("p2", *BERTA), ("p3", *ANNA)]},
            {},
            (*OFFERED, replace(FIRST, decision_id=4, push_id="p3")),
            "lost 0 doubled 2 unfinished 0 astray 0",
        ),
        (
            "a push that waits",
            {},
            {},
            (FIRST, replace(SECOND, state="sending"), THIRD),
            "lost 0 doubled 0 unfinished 1 astray 0",
        ),
        ("a call without answer", {"unanswered": 1}, {}, OFFERED, "lost 0 doubled 0 unfinished 1 astray 0"),
        (
            "left, and said not to have",
            {},
            {},
            (FIRST, replace(SECOND, state="expired"), THIRD),
            "lost 0 doubled 0 unfinished 0 astray 1",
        ),
        (
            "said to have been taken",
            {"delivered": [("p2", *BERTA)]},
            {},
            OFFERED,
            "lost 0 doubled 0 unfinished 0 astray 1",
        ),
        (
            "to somebody who said no",
            {"delivered": [("p1", *ANNA), ("p2", *BERTA), ("p3", "cart", CARLA)]},
            {},
            (*OFFERED, Offered(4, "cart", "sent", "eligible", "p3", "accepted", CARLA)),
            "lost 0 doubled 0 unfinished 0 astray 2",
        ),
    ],
)
def test_each_kind_of_fault_is_seen(why, evidence, accounts, offered, expected):
    verdict = judge(replace(EVIDENCE, **evidence), replace(ACCOUNTS, **accounts), offered)
    assert str(verdict) == expected, verdict.notes
    assert verdict.is_clean == (not verdict.notes) == (why == "all is well")
