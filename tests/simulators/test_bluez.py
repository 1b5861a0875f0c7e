"""BlueZ as unmodified bleak meets it, and the rules beneath as tables of cases."""

import asyncio
import os
import random
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable

import pytest
from bleak import BleakScanner
from bleak.args.bluez import OrPattern
from bleak.assigned_numbers import AdvertisementDataType
from bleak.exc import BleakBluetoothNotAvailableError, BleakDBusError, BleakError
from dbus_fast import Message, Variant
from dbus_fast.aio import MessageBus
from hypothesis import given
from hypothesis import strategies as st

from simulators.bluez import DeafClient, FakeBluez
from simulators.bluez_adapter import Adapter, BluezError, BluezSettings, Cure, DiscoveryFilter
from simulators.bluez_devices import DeviceTable, Listening
from simulators.bus import PrivateBus
from simulators.bus_link import BusNameTaken
from simulators.packets import (
    FLAGS,
    LEGACY_BYTES,
    MANUFACTURER,
    NAME,
    SERVICE_16,
    SERVICE_32,
    SERVICE_128,
    UUIDS_16,
    Content,
    PacketTooLong,
    compose,
    encode,
    matches,
)

Until = Callable[[Callable[[], bool]], Awaitable[None]]
EDDYSTONE = "0000feaa-0000-1000-8000-00805f9b34fb"
TAG = "C0:00:00:00:00:01"
IBEACON = {0x004C: b"\x02\x15" + bytes(21)}
OTHER = {0x004C: b"\x02\x15" + bytes(20) + b"\x01"}
EVERY = Listening(rssi_step=0, duplicates=True)
SPARING = Listening()


def dbus_error(name: str):
    return pytest.raises(BleakDBusError, check=lambda error: error.dbus_error == name)


# The device table


def table_with(*adverts: tuple[Content, int], listening: Listening = EVERY) -> tuple[DeviceTable, list]:
    table = DeviceTable()
    return table, [table.hear(TAG, content, rssi, 0.0, listening) for content, rssi in adverts]


@pytest.mark.parametrize(
    ("listening", "first", "second", "changed"),
    [
        (EVERY, (Content(IBEACON), -60), (Content(IBEACON), -60), ("RSSI", "ManufacturerData")),
        (SPARING, (Content(IBEACON), -60), (Content(IBEACON), -60), None),
        (SPARING, (Content(IBEACON), -60), (Content(IBEACON), -67), None),
        (SPARING, (Content(IBEACON), -60), (Content(IBEACON), -68), ("RSSI",)),
        (SPARING, (Content(IBEACON), -60), (Content(IBEACON), -52), ("RSSI",)),
        (SPARING, (Content(IBEACON), -60), (Content(OTHER), -61), ("ManufacturerData",)),
        (Listening(0, False), (Content(IBEACON), -60), (Content(IBEACON), -60), ("RSSI",)),
        (Listening(8, True), (Content(IBEACON), -60), (Content(IBEACON), -61), ("ManufacturerData",)),
        (SPARING, (Content(), -60), (Content(service_data={EDDYSTONE: b"a"}), -60), ("ServiceData",)),
        (SPARING, (Content(), -60), (Content(service_uuids=[EDDYSTONE]), -60), ("UUIDs",)),
        (SPARING, (Content(), -60), (Content(name="Tag"), -60), ("Name", "Alias")),
        (SPARING, (Content(name="Tag"), -60), (Content(), -60), None),
    ],
)
def test_which_signal_follows_from_a_second_advertisement(listening, first, second, changed):
    _, (added, signal) = table_with(first, second, listening=listening)
    assert added.changed is None
    assert (signal and signal.changed) == changed


def test_small_steps_are_measured_from_the_last_signalled_strength():
    _, signals = table_with(*((Content(), rssi) for rssi in (-60, -64, -67, -68, -71)), listening=SPARING)
    assert [signal is not None for signal in signals] == [True, False, False, True, False]


def test_values_accumulate_over_packets():
    table, _ = table_with((Content(IBEACON), -60), (Content(service_data={EDDYSTONE: b"uid"}), -61))
    device = table.get(TAG)
    assert (device.manufacturer_data, device.service_data) == (IBEACON, {EDDYSTONE: b"uid"})


@pytest.mark.parametrize(("listening", "companies"), [(EVERY, [2]), (SPARING, [1, 2])])
def test_duplicate_data_replaces_the_map_and_without_it_companies_gather(listening, companies):
    adverts = [(Content({1: b"a"}), -60), (Content({2: b"b"}), -60)]
    table, _ = table_with(*adverts, listening=listening)
    assert list(table.get(TAG).manufacturer_data) == companies


def test_devices_expire_in_the_order_in_which_they_were_last_heard():
    table = DeviceTable(timeout_s=30)
    for address, now in (("A", 0), ("B", 5), ("A", 10)):
        table.hear(address, Content(), -60, now, EVERY)
    assert table.expire(34.9) == []
    assert table.expire(35) == ["B"]
    assert table.expire(40) == ["A"]
    assert len(table) == 0


def test_after_a_discovery_the_first_strength_is_signalled_again():
    table, _ = table_with((Content(IBEACON), -60))
    assert [device.address for device in table.forget_rssi()] == [TAG]
    assert table.forget_rssi() == []
    assert table.hear(TAG, Content(IBEACON), -60, 1.0, SPARING).changed == ("RSSI",)


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(-100, -40)), max_size=60))
def test_a_filtered_scan_signals_every_advertisement(adverts):
    table = DeviceTable()
    assert all(table.hear(address, Content(), rssi, 0.0, EVERY) for address, rssi in adverts)


# Packets


@pytest.mark.parametrize(
    ("manufacturer", "service", "name", "kinds", "answered"),
    [
        (IBEACON, {}, None, [FLAGS, MANUFACTURER], None),
        ({0x0118: bytes(24)}, {}, None, [FLAGS, MANUFACTURER], None),
        ({}, {EDDYSTONE: bytes(20)}, None, [FLAGS, UUIDS_16, SERVICE_16], None),
        ({0x004C: bytes(27)}, {}, None, [MANUFACTURER], None),
        (IBEACON, {}, "Shoes", [FLAGS, MANUFACTURER], "Shoes"),
        ({}, {"12345678-0000-1000-8000-00805f9b34fb": b"a"}, "T", [FLAGS, SERVICE_32, NAME], None),
        ({}, {"12345678-1234-1000-8000-00805f9b34fb": b"a"}, None, [FLAGS, SERVICE_128], None),
        ({}, {}, None, [FLAGS], None),
    ],
)
def test_what_fits_into_a_legacy_packet(manufacturer, service, name, kinds, answered):
    packet = compose(manufacturer, service, name)
    assert [kind for kind, _ in packet.structures] == kinds
    assert len(encode(packet.structures)) <= LEGACY_BYTES
    assert packet.active == Content(manufacturer, service, packet.active.service_uuids, name)
    assert packet.passive.name == (None if answered else name)


@pytest.mark.parametrize(
    ("manufacturer", "service"),
    [
        ({1: bytes(28)}, {}),
        ({1: bytes(20), 2: bytes(20), 3: bytes(20)}, {}),
        (IBEACON, {EDDYSTONE: bytes(28)}),
    ],
)
def test_more_than_a_packet_and_its_scan_response_is_refused(manufacturer, service):
    with pytest.raises(PacketTooLong, match="31"):
        compose(manufacturer, service)


@pytest.mark.parametrize(("manufacturer", "service"), [({65536: b""}, {}), ({}, {"FEAA": b""})])
def test_impossible_keys_are_refused(manufacturer, service):
    with pytest.raises(ValueError, match=r"company id|UUID"):
        compose(manufacturer, service)


def test_an_ibeacon_on_the_air_is_the_published_thirty_bytes():
    packet = compose({0x004C: b"\x02\x15" + bytes(range(21))}, {})
    assert encode(packet.structures).hex() == "020106" + "1aff4c000215" + bytes(range(21)).hex()


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ((0, MANUFACTURER, b"\x4c\x00\x02\x15"), True),
        ((2, MANUFACTURER, b"\x02\x15"), True),
        ((1, MANUFACTURER, b"\x02\x15"), False),
        ((0, SERVICE_16, b"\xaa\xfe"), False),
        ((0, NAME, b"Shoes"), False),  # only in the scan response, which a passive scan never sees
    ],
)
def test_or_patterns_look_into_the_advertisement_itself(pattern, matched):
    assert matches(compose(IBEACON, {}, "Shoes"), [pattern]) is matched


# The adapter


def adapter(**settings) -> Adapter:
    return Adapter("hci0", "B8:27:EB:00:00:00", BluezSettings(**settings))


@pytest.mark.parametrize(
    ("version", "wanted", "second"),
    [
        ((5, 66), DiscoveryFilter(duplicates=False), True),
        ((5, 88), DiscoveryFilter(duplicates=False), False),
        ((5, 88), DiscoveryFilter(rssi=-127, duplicates=False), True),
        ((5, 66), None, False),
    ],
)
def test_the_eight_decibel_rule_of_each_version(version, wanted, second):
    radio = adapter(version=version)
    radio.set_filter("client", wanted)
    radio.start_discovery("client", 0.0)
    packet = compose(IBEACON, {})
    assert radio.hear(TAG, packet, -60, 0.0) is not None
    assert (radio.hear(TAG, packet, -61, 0.1) is not None) is second


@pytest.mark.parametrize(
    ("wanted", "heard"),
    [
        (DiscoveryFilter(rssi=-70), True),
        (DiscoveryFilter(rssi=-50), False),
        (DiscoveryFilter(uuids=frozenset({EDDYSTONE})), False),
        (DiscoveryFilter(pattern="C0:"), True),
        (DiscoveryFilter(pattern="Sho"), True),
        (DiscoveryFilter(pattern="D0:"), False),
        (DiscoveryFilter(pathloss=60), False),
    ],
)
def test_discovery_filters_admit_or_drop(wanted, heard):
    radio = adapter()
    radio.set_filter("client", wanted)
    radio.start_discovery("client", 0.0)
    assert (radio.hear(TAG, compose(IBEACON, {}, "Shoes"), -60, 0.0) is not None) is heard


@pytest.mark.parametrize("values", [{"rssi": -60, "pathloss": 10}, {"rssi": 21}, {"rssi": -128}])
def test_impossible_filters_are_refused(values):
    with pytest.raises(BluezError, match="Invalid"):
        DiscoveryFilter(**values)


def test_monitors_of_one_client_are_bounded():
    radio = adapter()
    for number in range(64):
        radio.register_monitor("client", f"/{number}")
    with pytest.raises(BluezError):
        radio.register_monitor("client", "/64")


CURES = {
    "rescan": lambda radio: radio.stop_discovery("client"),
    "power": lambda radio: (radio.power(False), radio.power(True)),
    "daemon": lambda radio: radio.daemon_restarted(0.0),
    "replug": lambda radio: (radio.unplug(), radio.replug()),
}


@pytest.mark.parametrize("cure", list(Cure))
@pytest.mark.parametrize(("strength", "remedy"), list(enumerate(CURES, start=1)))
def test_a_stuck_discovery_needs_its_cure_or_a_stronger_one(cure, strength, remedy):
    radio = adapter()
    radio.start_discovery("client", 0.0)
    radio.stall(cure)
    packet = compose(IBEACON, {})
    assert radio.hear(TAG, packet, -60, 0.0) is None
    CURES[remedy](radio)
    radio.start_discovery("client", 1.0)
    assert (radio.hear(TAG, packet, -60, 1.0) is not None) is (strength >= cure)


# Unmodified bleak


async def test_bleak_hears_what_is_advertised(bluez: FakeBluez, ears):
    async with ears.scanner():
        sent = await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-61, name="Shoes tag")
        await bluez.drain()
    [(address, data)] = ears.heard
    assert sent and address == TAG
    assert (data.rssi, data.manufacturer_data, data.local_name) == (-61, IBEACON, "Shoes tag")


async def test_nothing_is_heard_before_or_after_a_scan_nor_on_another_adapter(bluez: FakeBluez, ears):
    frame = {"manufacturer_data": IBEACON, "rssi": -60}
    assert not await bluez.advertise("hci0", TAG, **frame)
    async with ears.scanner("hci1"):
        assert bluez.listening("hci1") and not bluez.listening("hci0")
        assert not await bluez.advertise("hci0", TAG, **frame)
        assert await bluez.advertise("hci1", TAG, **frame)
        await bluez.drain()
    assert not await bluez.advertise("hci1", TAG, **frame)
    await bluez.drain()
    assert len(ears.heard) == 1


async def test_every_true_is_one_callback_with_its_own_strength_under_load(bluez: FakeBluez, ears):
    """New devices, the same strength again, frames interleaved on one key, all mixed."""
    dice = random.Random(1)
    frames = [
        {"manufacturer_data": IBEACON},
        {"manufacturer_data": OTHER},
        {"service_data": {EDDYSTONE: b"\x00" + bytes(19)}},
        {"service_data": {EDDYSTONE: b"\x20\x00" + bytes(12)}},
        {"manufacturer_data": {0x0118: b"\xbe\xac" + bytes(22)}, "name": "Tag"},
    ]
    expected = []
    async with ears.scanner():
        for number in range(10_000):
            address = f"C0:00:00:00:{number % 1500 // 250:02X}:{number % 250:02X}"
            rssi = dice.choice((-60, -60, -61, -75))
            assert await bluez.advertise("hci0", address, rssi=rssi, **dice.choice(frames))
            expected.append((address, rssi))
        await bluez.drain()
    assert [(address, data.rssi) for address, data in ears.heard] == expected


@pytest.mark.parametrize(
    ("version", "filters"),
    [((5, 66), {}), ((5, 88), {}), ((5, 88), {"DuplicateData": True}), ((5, 88), {"RSSI": -70})],
)
async def test_true_and_callbacks_agree_whatever_the_filters(bus: PrivateBus, ears, version, filters):
    dice = random.Random(2)
    async with (
        FakeBluez(bus.address, settings=BluezSettings(version=version)) as bluez,
        ears.scanner(filters=filters),
    ):
        sent = [
            await bluez.advertise(
                "hci0",
                f"C0:00:00:00:00:{dice.randrange(9):02X}",
                manufacturer_data=dice.choice((IBEACON, IBEACON, OTHER)),
                rssi=dice.randrange(-80, -55),
            )
            for _ in range(2000)
        ]
        await bluez.drain()
    assert sum(sent) == len(ears.heard)
    assert (0 < sum(sent) < 2000) is not (version == (5, 66) or filters.get("DuplicateData", False))


async def test_values_accumulate_in_what_bleak_delivers(bluez: FakeBluez, ears):
    async with ears.scanner():
        await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
        await bluez.advertise("hci0", TAG, service_data={EDDYSTONE: b"uid"}, rssi=-61)
        await bluez.advertise("hci0", TAG, service_data={EDDYSTONE: b"tlm"}, rssi=-62)
        await bluez.drain()
    last = ears.heard[-1][1]
    assert last.manufacturer_data == IBEACON
    assert last.service_data == {EDDYSTONE: b"tlm"}
    assert last.service_uuids == [EDDYSTONE]


async def test_a_passive_scan_hears_its_patterns_in_steps_of_eight_decibels(
    bluez: FakeBluez, ears, until: Until
):
    pattern = OrPattern(0, AdvertisementDataType.MANUFACTURER_SPECIFIC_DATA, b"\x4c\x00\x02\x15")
    async with ears.passive(pattern):
        await until(lambda: bluez.listening("hci0"))
        await _until_heard(bluez, manufacturer_data=IBEACON, rssi=-60, name="Shoes")
        sent = [
            await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=rssi)
            for rssi in (-60, -67, -68, -61, -60)
        ]
        assert not await bluez.advertise("hci0", "C0:00:00:00:00:02", manufacturer_data={1: b"a"}, rssi=-60)
        assert not bluez.discovering("hci0")
        await bluez.drain()
    assert sent == [False, False, True, False, True]
    assert ears.rssi == [-60, -68, -60]
    assert ears.heard[0][1].local_name is None  # the name is in the scan response that nobody asked for
    assert not bluez.listening("hci0")


async def _until_heard(bluez: FakeBluez, **frame) -> None:
    """A monitor becomes active when its client has exported it, a moment after `start` returned."""
    deadline = time.monotonic() + 5
    while not await bluez.advertise("hci0", TAG, **frame):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_without_experimental_features_there_is_no_passive_scan(bus: PrivateBus, ears):
    pattern = OrPattern(0, AdvertisementDataType.MANUFACTURER_SPECIFIC_DATA, b"\x4c\x00")
    async with FakeBluez(bus.address, settings=BluezSettings(experimental=False)):
        with pytest.raises(BleakError, match="experimental"):
            await ears.passive(pattern).start()


async def test_a_second_client_is_told_in_progress(bluez: FakeBluez, ears):
    async with ears.scanner():
        with dbus_error("org.bluez.Error.InProgress"):
            await ears.scanner().start()
        assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
        await bluez.drain()
    assert len(ears.heard) == 1


async def test_the_end_of_a_discovery_is_told_as_minus_127(bluez: FakeBluez, ears, until: Until):
    scanner = ears.scanner()
    await scanner.start()
    await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    await bluez.power("hci0", False)
    await until(lambda: ears.invalidated == 1)
    await scanner.stop()  # bleak takes NotReady for granted here


async def test_devices_are_removed_when_they_fall_silent(bus: PrivateBus, ears, until: Until):
    async with FakeBluez(bus.address, settings=BluezSettings(temporary_timeout_s=0.2)) as bluez:
        async with ears.scanner() as scanner:
            assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
            await until(lambda: len(scanner.discovered_devices) == 1)
            await until(lambda: scanner.discovered_devices == [])
            assert bluez.devices("hci0") == 0
            assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
            await bluez.drain()
        assert len(ears.heard) == 2


async def test_a_client_that_comes_late_knows_the_devices_from_before(
    bluez: FakeBluez, bus: PrivateBus, ears
):
    """More devices than fit into the socket at once; adverts go on while the big reply is under way."""
    other = await _raw_discovery(bus)
    for number in range(3000):
        address = f"C0:00:00:00:{number // 250:02X}:{number % 250:02X}"
        assert await bluez.advertise("hci1", address, manufacturer_data=IBEACON, rssi=-60)
    keep_on = asyncio.create_task(_advertise_for_long(bluez, "hci1"))
    async with ears.scanner("hci0"):
        await keep_on
        assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
        await bluez.drain()
    assert len(ears.heard) == 1
    assert bluez.running
    other.disconnect()


async def _raw_discovery(bus: PrivateBus) -> MessageBus:
    """A discovery on hci1 by a client that is not bleak."""
    client = await MessageBus(bus_address=bus.address).connect()
    for member, signature, body in (
        ("SetDiscoveryFilter", "a{sv}", [{"RSSI": Variant("n", -127)}]),
        ("StartDiscovery", "", []),
    ):
        call = Message("org.bluez", "/org/bluez/hci1", "org.bluez.Adapter1", member)
        reply = await client.call(
            Message("org.bluez", call.path, call.interface, member, signature=signature, body=body)
        )
        assert reply.error_name is None
    return client


async def _advertise_for_long(bluez: FakeBluez, adapter: str) -> None:
    for number in range(1000):
        await bluez.advertise(adapter, TAG, manufacturer_data=IBEACON, rssi=-60 - number % 9)


# Faults


async def test_a_restarted_daemon_silences_bleak_and_is_busy_for_a_while(
    bluez: FakeBluez, ears, until: Until
):
    scanner = ears.scanner()
    await scanner.start()
    await bluez.restart_daemon(busy_s=0.3)
    assert not await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    with dbus_error("org.bluez.Error.Failed"):
        await scanner.stop()
    with dbus_error("org.bluez.Error.InProgress"):
        await ears.scanner().start()
    started = time.monotonic()
    await _start_with_patience(ears)
    assert time.monotonic() - started < 2
    assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    await bluez.drain()
    assert len(ears.heard) == 1


async def _start_with_patience(ears, adapter: str = "hci0") -> BleakScanner:
    deadline = time.monotonic() + 5
    while True:
        scanner = ears.scanner(adapter)
        try:
            await scanner.start()
        except BleakError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        else:
            return scanner


async def test_while_the_daemon_is_down_its_service_is_unknown(bluez: FakeBluez, ears):
    async with ears.scanner():
        pass
    await bluez.stop_daemon()
    assert not bluez.running
    with dbus_error("org.freedesktop.DBus.Error.ServiceUnknown"):
        await ears.scanner().start()
    await bluez.start_daemon()
    async with ears.scanner():
        assert bluez.discovering("hci0")


async def test_an_unplugged_adapter_is_gone_and_comes_back_without_its_scan(
    bluez: FakeBluez, ears, until: Until
):
    scanner = ears.scanner()
    await scanner.start()
    await ears.scanner("hci1").start()  # keeps the client one that is listened to when draining
    await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    await bluez.unplug("hci0")
    await bluez.drain()
    assert scanner.discovered_devices == []
    assert not await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    with pytest.raises(BleakError, match="hci0"):
        await ears.scanner().start()
    await bluez.replug("hci0")
    assert not await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    await _start_with_patience(ears)
    assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)


async def test_a_radio_without_power_is_reported_so(bus: PrivateBus, ears):
    async with FakeBluez(bus.address) as bluez:
        await bluez.power("hci0", False)
        with dbus_error("org.bluez.Error.NotReady"):
            await ears.scanner().start()
        with pytest.raises(BleakBluetoothNotAvailableError):
            await BleakScanner(ears).start()
        assert not await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
        await bluez.power("hci0", True)
        await _start_with_patience(ears)
        assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)


async def test_a_client_may_cycle_the_power_itself(bluez: FakeBluez, bus: PrivateBus, ears):
    await ears.scanner().start()
    client = await MessageBus(bus_address=bus.address).connect()
    for on in (False, True):
        reply = await client.call(
            _properties_call("Set", "ssv", ["org.bluez.Adapter1", "Powered", Variant("b", on)])
        )
        assert reply.error_name is None
        reply = await client.call(_properties_call("Get", "ss", ["org.bluez.Adapter1", "Powered"]))
        assert reply.body[0].value is on
    assert not bluez.discovering("hci0")
    reply = await client.call(_properties_call("GetAll", "s", ["org.bluez.Adapter1"]))
    assert reply.body[0]["Discovering"].value is False
    client.disconnect()


def _properties_call(member: str, signature: str, body: list) -> Message:
    interface = "org.freedesktop.DBus.Properties"
    return Message("org.bluez", "/org/bluez/hci0", interface, member, signature=signature, body=body)


@pytest.mark.parametrize("answer_late", [False, True])
async def test_a_hung_daemon_answers_nobody(bluez: FakeBluez, ears, until: Until, answer_late: bool):
    async with ears.scanner("hci1"):
        bluez.hang()
        start = asyncio.create_task(ears.scanner().start())
        assert not await bluez.advertise("hci1", TAG, manufacturer_data=IBEACON, rssi=-60)
        done, _ = await asyncio.wait({start}, timeout=0.2)
        assert not done
        await bluez.unhang(answer_late)
        if answer_late:
            await start
            assert bluez.discovering("hci0")
        else:
            start.cancel()
            await asyncio.wait({start})
        assert await bluez.advertise("hci1", TAG, manufacturer_data=IBEACON, rssi=-60)
        await bluez.drain()
    assert len(ears.heard) == 1


@pytest.mark.parametrize("cure", [Cure.RESCAN, Cure.POWER_CYCLE])
async def test_a_stuck_discovery_claims_to_run_until_it_is_cured(bluez: FakeBluez, ears, cure: Cure):
    frame = {"manufacturer_data": IBEACON, "rssi": -60}
    scanner = ears.scanner()
    await scanner.start()
    bluez.stall("hci0", cure)
    assert bluez.discovering("hci0")
    assert not await bluez.advertise("hci0", TAG, **frame)
    await scanner.stop()
    await ears.scanner().start()
    assert await bluez.advertise("hci0", TAG, **frame) is (cure is Cure.RESCAN)
    await bluez.power("hci0", False)
    await bluez.power("hci0", True)
    await ears.scanner().start()
    assert await bluez.advertise("hci0", TAG, **frame)


async def test_the_discovery_of_a_killed_client_ends(bluez: FakeBluez, ears, until: Until):
    program = textwrap.dedent(
        """
        import asyncio
        from bleak import BleakScanner
        async def main():
            async with BleakScanner(bluez={"adapter": "hci0", "filters": {"RSSI": -127}}):
                print("scanning", flush=True)
                await asyncio.sleep(60)
        asyncio.run(main())
        """
    )
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    try:
        assert client.stdout is not None
        await client.stdout.readline()
        assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    finally:
        client.kill()
        await client.communicate()
    await until(lambda: not bluez.listening("hci0"))
    async with ears.scanner():
        assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)


async def test_draining_tells_of_a_client_that_does_not_listen(
    bluez: FakeBluez, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("simulators.bluez.CALL_TIMEOUT_S", 0.1)
    client = await _raw_discovery(bus)
    client.add_message_handler(lambda message: True)  # swallows the ping
    with pytest.raises(DeafClient):
        await bluez.drain()
    client.disconnect()


async def test_the_daemon_dies_with_its_bus_and_can_be_started_on_the_next(
    bluez: FakeBluez, bus: PrivateBus, ears
):
    scanner = ears.scanner()
    await scanner.start()
    await bus.kill()
    with pytest.raises((OSError, EOFError)):
        await scanner.stop()
    assert not await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    assert not bluez.running
    await bluez.drain()
    with pytest.raises(OSError, match=r"No such file|refused"):
        await bluez.start_daemon()
    await bus.restart()
    await bluez.start_daemon()
    await _start_with_patience(ears)
    assert await bluez.advertise("hci0", TAG, manufacturer_data=IBEACON, rssi=-60)
    await bluez.drain()
    assert len(ears.heard) == 1


async def test_a_second_bluetoothd_is_refused(bluez: FakeBluez, bus: PrivateBus):
    assert bluez.running
    with pytest.raises(BusNameTaken):
        async with FakeBluez(bus.address):
            pass


@pytest.mark.parametrize(
    ("address", "rssi"), [("c0:00:00:00:00:01", -60), ("nobody", -60), (TAG, -127), (TAG, 21)]
)
async def test_impossible_adverts_are_refused(bluez: FakeBluez, address: str, rssi: int):
    with pytest.raises(ValueError, match=r"address|dBm"):
        await bluez.advertise("hci0", address, rssi=rssi)


async def test_strange_calls_get_an_error_and_no_more(bluez: FakeBluez, bus: PrivateBus):
    client = await MessageBus(bus_address=bus.address).connect()
    calls = {
        "org.freedesktop.DBus.Error.UnknownMethod": [
            Message("org.bluez", "/org/bluez/hci9", "org.bluez.Adapter1", "StartDiscovery"),
            Message("org.bluez", "/org/bluez/hci0", "org.bluez.Adapter1", "Fly"),
            _properties_call("GetAll", "s", ["org.bluez.Battery1"]),
        ],
        "org.bluez.Error.InvalidArguments": [
            _filter_call({"RSSI": Variant("s", "loud")}),
            _filter_call({"Colour": Variant("s", "red")}),
            _properties_call("Set", "ssv", ["org.bluez.Adapter1", "Address", Variant("s", "mine")]),
            _properties_call("Get", "ss", ["org.bluez.Adapter1", "Colour"]),
        ],
        "org.bluez.Error.DoesNotExist": [
            Message(
                "org.bluez",
                "/org/bluez/hci0",
                "org.bluez.Adapter1",
                "RemoveDevice",
                signature="o",
                body=["/a"],
            ),
        ],
    }
    for error, messages in calls.items():
        for message in messages:
            assert (await client.call(message)).error_name == error
    client.disconnect()


def _filter_call(wanted: dict) -> Message:
    path, interface = "/org/bluez/hci0", "org.bluez.Adapter1"
    return Message("org.bluez", path, interface, "SetDiscoveryFilter", signature="a{sv}", body=[wanted])
