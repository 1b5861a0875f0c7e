"""A short cut of `make test-density`, and what the listener remembers on behalf of its speed."""

from gateway import config
from gateway.allow import AllowList
from gateway.app import Listener
from gateway.presence import Presence
from gateway.scanner import Hearing
from simulators.endurance.clock import SimulatedClock
from simulators.endurance.density import FLAT, Crowd, run_crowd
from simulators.frames import ibeacon

UUIDS = ("11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555")


async def test_half_a_minute_of_a_thousand_beacons_is_heard_whole_and_costs_no_memory(tmp_path):
    lines = []
    figures = await run_crowd(Crowd(seconds=30), tmp_path, lines.append)
    strangers = figures.forgotten
    assert (figures.adverts - strangers) % 1000 == 0 and figures.adverts > 290_000
    assert figures.dropped == 0 and figures.readings == 30 * 1000
    assert figures.swing < FLAT and len(figures.memory) > 20
    assert len(lines) == 30


def hear(listener, clock, times=5):
    for number in range(times):
        clock.now += 200
        for uuid in UUIDS:
            listener.heard(
                f"C0:00:00:00:00:0{uuid[0]}", ibeacon(uuid, 1, 7).manufacturer_data, {}, -50 - number
            )
    return {key for batch in listener.close(flush=True) for key in batch.keys}


def test_a_changed_allow_list_holds_at_once_for_beacons_that_were_judged_before(tmp_path):
    clock = SimulatedClock()
    hearing = Hearing(frozenset(), 30_000, clock.now)
    listener = Listener(AllowList.of(ibeacons=UUIDS), Presence(), hearing, clock)
    assert hear(listener, clock) == {f"ibeacon:{uuid}:1:7" for uuid in UUIDS}
    table = {
        "store": "a",
        "gateway": "b",
        "data_dir": "d",
        "mqtt": {"host": "h"},
        "allow": {"ibeacon": [UUIDS[1]]},
    }
    listener.adopt(config.read(table, tmp_path / "gateway.toml"))
    clock.now += 300_000
    listener.close(flush=True)  # whoever is away by now is told of once more
    assert hear(listener, clock) == {f"ibeacon:{UUIDS[1]}:1:7"}
