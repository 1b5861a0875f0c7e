"""Telemetry finds its beacon by the radio address, once per report."""

from gateway.beacons import EddystoneTlm
from gateway.health import HealthDesk

FIRST = EddystoneTlm(3000, 20.0, 1, 0.1)
SECOND = EddystoneTlm(3000, 20.0, 2, 0.2)


def test_a_report_belongs_to_the_name_last_heard_from_its_address() -> None:
    desk = HealthDesk()
    assert desk.told("aa", FIRST) is None
    desk.name("aa", "tag:1")
    desk.name("bb", "tag:2")
    assert desk.told("aa", FIRST) == "tag:1"
    assert desk.told("bb", FIRST) == "tag:2"
    desk.name("aa", "tag:3")
    assert desk.told("aa", SECOND) == "tag:3"


def test_a_repeated_report_is_no_news() -> None:
    desk = HealthDesk()
    desk.name("aa", "tag:1")
    assert [desk.told("aa", report) for report in (FIRST, FIRST, SECOND, SECOND)] == [
        "tag:1",
        None,
        "tag:1",
        None,
    ]


def test_addresses_are_bounded_and_a_forgotten_one_is_named_again() -> None:
    desk = HealthDesk(limit=3)
    for address in ("aa", "bb", "cc", "dd"):
        desk.name(address, address)
    assert (len(desk), desk.forgotten) == (3, 1)
    assert desk.told("aa", FIRST) is None
    desk.name("aa", "aa")
    assert [desk.told(address, FIRST) for address in ("aa", "bb", "cc")] == ["aa", None, "cc"]
