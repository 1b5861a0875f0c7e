"""Home Assistant: discovery by its documented schema, availability by the last will, nobody's tag."""

import asyncio
import json
import re
from pathlib import Path

import msgspec
import pytest

import firmware_configs
from gateway.allow import AllowList
from gateway.config import ConfigError, load
from gateway.homeassistant import (
    MAX_BEACONS,
    MEMORY_FILE,
    ONLINE_BYTE,
    SETTLED_MS,
    STATE_MS,
    HomeAssistant,
    HomeAssistantSettings,
    Memory,
    NamedBeacon,
    Reading,
    components_of,
    config_topic,
    device_config,
    is_prefix,
    messages,
    remembered,
    state_of,
    state_topic,
)
from sdk_bridge.mqtt import Broker, connect
from sdk_bridge.wire.codec import encode
from sdk_bridge.wire.messages import Status
from sdk_bridge.wire.topics import GatewayAddress
from simulators.broker import find_mosquitto, start_broker

ADDRESS = GatewayAddress("berlin-mitte", "door")
UUID = "11111111-2222-3333-4444-555555555555"
SHELF = f"ibeacon:{UUID}:100:1"
TROLLEY = f"eddystone-uid:{'ab' * 10}:{'01' * 6}"
ALLOW = AllowList.of(ibeacons=[UUID], eddystone_namespaces=["ab" * 10])
STATUS_TOPIC = ADDRESS.topic("status")


def settings(enabled=True, prefix="homeassistant", zones=(f"Shoe shelf = {SHELF}",), assets=()):
    return HomeAssistantSettings.of(enabled, prefix, list(zones), list(assets), ALLOW)


# Home Assistant's documented device discovery schema, as far as it concerns these platforms: the root takes
# no other key (one too many and the whole device is refused), a component its platform's keys.


class Device(msgspec.Struct, forbid_unknown_fields=True):
    identifiers: list[str]
    name: str
    manufacturer: str
    model: str
    sw_version: str


class Origin(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    sw_version: str


class Sensor(msgspec.Struct, forbid_unknown_fields=True, tag_field="platform", tag="sensor"):
    unique_id: str
    name: str
    state_topic: str
    value_template: str
    expire_after: int
    availability_topic: str
    availability_template: str
    encoding: str
    unit_of_measurement: str | None = None
    state_class: str | None = None
    entity_category: str | None = None


class BinarySensor(msgspec.Struct, forbid_unknown_fields=True, tag_field="platform", tag="binary_sensor"):
    unique_id: str
    name: str
    state_topic: str
    value_template: str
    encoding: str
    device_class: str
    expire_after: int | None = None
    availability_topic: str | None = None
    availability_template: str | None = None
    entity_category: str | None = None


class Discovery(msgspec.Struct, forbid_unknown_fields=True):
    device: Device
    origin: Origin
    components: dict[str, Sensor | BinarySensor]


def described(**changes):
    return msgspec.convert(device_config(settings(**changes), ADDRESS, "0.1.0", {}), Discovery)


def test_the_description_is_what_home_assistant_documents():
    made = described(assets=[f"Trolley 7 = {TROLLEY}"])
    assert made.device.identifiers == ["footfall/berlin-mitte/door"]
    ids = [component.unique_id for component in made.components.values()]
    assert len(set(ids)) == len(ids) == 6
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", name) for name in made.components)
    for component in made.components.values():
        if isinstance(component, BinarySensor):
            assert component.device_class in ("connectivity", "presence")
        if component.state_topic != STATUS_TOPIC:
            assert component.availability_topic == STATUS_TOPIC and component.expire_after > STATE_MS / 1000
    topic = config_topic("homeassistant", ADDRESS)
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config", topic)


def rendered(template, payload):
    """What the templates used here come to in Jinja2: one byte compared, or a value looked up in JSON."""
    byte = re.fullmatch(r"\{\{ '(\w+)' if value\[(\d+)\] == (\d+) else '(\w+)' \}\}", template)
    if byte is not None:
        at = int(byte[2])
        return byte[1] if len(payload) > at and payload[at] == int(byte[3]) else byte[4]
    value = json.loads(payload)
    path = re.fullmatch(r"\{\{ value_json((?:\['\w+'\])+) \}\}", template)
    for name in re.findall(r"'(\w+)'", path[1]):
        value = value[name]
    return str(value)


@pytest.mark.parametrize(
    ("online", "available", "state"), [(True, "online", "ON"), (False, "offline", "OFF")]
)
def test_availability_and_connection_come_from_the_status_message(online, available, state):
    payload = encode(Status(online, "ab" * 8, "0.1.0"))
    made = described().components
    assert rendered(made["adverts"].availability_template, payload) == available
    assert rendered(made["connectivity"].value_template, payload) == state
    assert payload[ONLINE_BYTE] in (0xC2, 0xC3) and payload[:ONLINE_BYTE] == b"\x94\xa6status"


@pytest.mark.parametrize(
    ("scan", "near", "presence"),
    [
        ("hearing", {SHELF}, "ON"),
        ("quiet", set(), "OFF"),
        ("deaf", {SHELF}, "None"),
        ("starting", set(), "None"),
    ],
)
def test_the_state_is_read_by_the_templates_and_nobody_is_absent_for_a_deaf_gateway(scan, near, presence):
    payload = msgspec.json.encode(state_of(settings(), Reading(scan, 5, 3, frozenset(near)), 12.34))
    made = described().components
    shelf = next(component for component in made.values() if component.name == "Shoe shelf")
    assert rendered(shelf.value_template, payload) == presence
    assert rendered(made["scan"].value_template, payload) == scan
    assert rendered(made["adverts"].value_template, payload) == "12.3"
    assert rendered(made["outbox"].value_template, payload) == "3"


def test_a_new_name_keeps_the_entity():
    before, after = (components_of(settings(zones=[f"{n} = {SHELF}"]), ADDRESS) for n in ("Shoes", "Boots"))
    assert before.keys() == after.keys() and before != after


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (f"Customer = eddystone-eid:{'ab' * 8}", "no key of a fixed identity"),
        ("Telemetry = eddystone-tlm", "no key of a fixed identity"),
        (f"Shelf = ibeacon:{UUID}:1:70000", "no key of a fixed identity"),
        (f"Shelf {SHELF}", "is not `name = beacon key`"),
        (f" = {SHELF}", "is not `name = beacon key`"),
        (f"{'x' * 65} = {SHELF}", "is not `name = beacon key`"),
        (f"Other = ibeacon:{'9' * 8}-9999-9999-9999-{'9' * 12}:1:1", "is not let through by `allow`"),
    ],
)
def test_what_may_not_be_told_of(entry, complaint):
    with pytest.raises(ValueError, match=complaint):
        settings(zones=[entry])


def test_keys_are_written_as_the_gateway_writes_them():
    beacon = NamedBeacon.of(f"Shelf = ibeacon:{UUID.upper()}:007:1", "zone")
    assert beacon.key == f"ibeacon:{UUID}:7:1"
    with pytest.raises(ValueError, match="listed twice"):
        settings(zones=[f"a = {SHELF}"], assets=[f"b = {SHELF}"])


@pytest.mark.parametrize(
    ("prefix", "good"),
    [
        ("homeassistant", True),
        ("home/assistant", True),
        ("footfall", False),
        ("footfall/1", False),
        ("home/+", False),
        ("home/#", False),
        ("", False),
        ("/home", False),
        ("home/", False),
        (3, False),
        ("x" * 65, False),
    ],
)
def test_prefixes(prefix, good):
    assert is_prefix(prefix) is good


def test_the_configuration_names_the_section(tmp_path):
    path = tmp_path / "gateway.toml"
    base = f'store = "a"\ngateway = "b"\ndata_dir = "d"\n[allow]\nibeacon = ["{UUID}"]\n[homeassistant]\n'
    path.write_text(base + f'enabled = true\nprefix = "ha"\nzone_beacons = ["Shelf = {SHELF}"]\n')
    assert load(path).home_assistant == settings(prefix="ha", zones=[f"Shelf = {SHELF}"])
    many = json.dumps([f"B{n} = ibeacon:{UUID}:1:{n}" for n in range(MAX_BEACONS)])
    for text, complaint in (
        ('prefix = "a/+"', "`homeassistant.prefix` may be topic levels"),
        ('zone_beacons = ["Shelf"]', "`homeassistant`: 'Shelf' is not `name = beacon key`"),
        (f'zone_beacons = {many}\nasset_beacons = ["S = {SHELF}"]', "more than 64 with those of the zones"),
    ):
        path.write_text(base + text)
        with pytest.raises(ConfigError, match=re.escape(complaint)):
            load(path)


# --- what is taken back


def test_what_is_no_longer_listed_is_taken_away():
    before = remembered(settings(assets=[f"Trolley = {TROLLEY}"]), ADDRESS)
    [(topic, payload)] = messages(settings(), ADDRESS, "0.1.0", before)
    gone = next(
        beacon.component for beacon in settings(assets=[f"T = {TROLLEY}"]).beacons if beacon.name == "T"
    )
    told = json.loads(payload)["components"]
    assert topic == "homeassistant/device/berlin-mitte/door/config"
    assert told[gone] == {"platform": "binary_sensor"} and len(told) == 6


def test_another_prefix_or_none_clears_what_lies_under_the_old_one():
    before = remembered(settings(prefix="old"), ADDRESS)
    old = [(topic("old", ADDRESS), b"") for topic in (config_topic, state_topic)]
    assert messages(settings(prefix="new"), ADDRESS, "0.1.0", before)[:2] == old
    assert messages(settings(enabled=False), ADDRESS, "0.1.0", before) == old
    assert messages(settings(enabled=False), ADDRESS, "0.1.0", Memory()) == []


class Link:
    """A connection that writes down what it is given."""

    def __init__(self):
        self.connected = True
        self.connection_number = 1
        self.told = []
        self.takes = True

    def publish_retained(self, topic, payload, *, qos):
        if self.takes:
            self.told.append((topic.rpartition("/")[2], payload, qos))
        return self.takes


@pytest.fixture
def home(tmp_path, hand_clock):
    clock, link = hand_clock(running=False), Link()
    reading = {"now": Reading("hearing", 0, 0, frozenset())}

    def make(**changes):
        return HomeAssistant(
            settings(**changes), ADDRESS, "0.1.0", clock, link, lambda: reading["now"], tmp_path
        )

    return make, clock, link, reading


def test_a_state_is_told_at_once_when_it_changes_and_otherwise_now_and_then(home):
    make, clock, link, reading = home
    assistant = make()
    clock.skip(2000)
    assistant.look()
    assert [(leaf, qos) for leaf, _, qos in link.told] == [("config", 1), ("state", 0)]
    link.told.clear()
    for second in range(30):
        clock.skip(1000)
        reading["now"] = Reading("hearing", (second + 1) * 25, 0, frozenset())
        assistant.look()
    assert len(link.told) == 3
    assert {json.loads(payload)["adverts_per_s"] for _, payload, _ in link.told} == {25.0}
    link.told.clear()
    reading["now"] = Reading("hearing", 750, 0, frozenset({SHELF}))
    clock.skip(1000)
    assistant.look()
    assert list(json.loads(link.told[-1][1])["beacons"].values()) == ["ON"]


def test_a_new_connection_is_told_everything_again_and_a_closed_one_nothing(home):
    make, clock, link, _ = home
    assistant = make()
    assistant.look()
    link.told.clear()
    link.connected = False
    clock.skip(STATE_MS)
    assistant.look()
    assert link.told == []
    link.connected, link.connection_number = True, 2
    assistant.look()
    assert [leaf for leaf, _, _ in link.told] == ["config", "state"]


def test_what_could_not_be_handed_over_is_tried_again(home):
    make, _, link, _ = home
    assistant = make()
    link.takes = False
    assistant.look()
    link.takes = True
    assistant.look()
    assert [leaf for leaf, _, _ in link.told] == ["config", "state"]


def test_what_was_told_is_remembered_over_restarts_until_it_is_taken_back(home, tmp_path):
    make, clock, link, _ = home
    make(prefix="old").look()
    assert "old" in (tmp_path / MEMORY_FILE).read_text()
    link.told.clear()
    link.connection_number = 2
    assistant = make(enabled=False)
    assistant.look()
    assert [(leaf, payload) for leaf, payload, _ in link.told] == [("config", b""), ("state", b"")]
    assert "old" in (tmp_path / MEMORY_FILE).read_text()  # not before it is delivered
    clock.skip(SETTLED_MS)
    assistant.look()
    assert "old" not in (tmp_path / MEMORY_FILE).read_text()
    link.told.clear()
    link.connection_number = 3
    make(enabled=False).look()
    assert link.told == []


@pytest.mark.parametrize("content", [b"", b"noise", b'{"prefixes": ["a/#", 3]}', b'{"prefixes": ["../+"]}'])
def test_a_damaged_memory_clears_nothing_strange(home, tmp_path, content):
    make, _, link, _ = home
    (tmp_path / MEMORY_FILE).write_bytes(content)
    make(enabled=False).look()
    assert link.told == []


def test_switched_off_it_writes_nothing_at_all(home, tmp_path):
    make, clock, link, _ = home
    assistant = make(enabled=False)
    for _ in range(30):
        clock.skip(1000)
        assistant.look()
    assert link.told == [] and list(tmp_path.iterdir()) == []


# --- over a real broker


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
async def test_the_documented_acl_lets_each_gateway_tell_of_itself_and_of_no_other(tmp_path, wait_until):
    """The lines of the documentation, and those of the shop's broker, in a real mosquitto."""
    document = Path(firmware_configs.__file__).parent.parent / "docs" / "gateway.md"
    section = document.read_text("utf-8").partition("\n## Home Assistant")[2].partition("\n## ")[0]
    extra = section.partition("```conf\n")[2].partition("```")[0]
    acl = Path(firmware_configs.__file__).with_name("shop_broker") / "acl.conf"
    users = dict.fromkeys(("berlin-mitte/door", "berlin-mitte/till", "homeassistant"), "word")
    running = await start_broker(
        tmp_path / "broker", kind="mosquitto", users=users, acl=f"{acl.read_text()}\n{extra}"
    )
    async with running:
        heard = {}

        def listen(connection, message):
            connection.acknowledge(message)
            heard[message.topic] = message.payload

        def nothing(_connection, _message):
            return None

        def to(user):
            return Broker("127.0.0.1", running.port, user.replace("/", "-"), user, "word")

        async with (
            connect(to("homeassistant"), listen) as assistant,
            connect(to("berlin-mitte/door"), nothing) as door,
            connect(to("berlin-mitte/till"), nothing) as till,
        ):
            await assistant.subscribe(["homeassistant/#", "footfall/1/+/+/+/status", "footfall/1/+/+/+/up"])
            [(topic, payload)] = messages(settings(), ADDRESS, "0.1.0", Memory())
            assert till.publish(topic, b"from the till", retain=True)
            await wait_until(lambda: till.refused == 1)
            door.publish(topic, payload, retain=True)
            door.publish(state_topic("homeassistant", ADDRESS), b"{}", retain=True)
            door.publish(STATUS_TOPIC, encode(Status(True, "ab" * 8, "0.1.0")), retain=True)
            door.publish(ADDRESS.topic("up"), b"not for Home Assistant")
            await wait_until(lambda: len(heard) >= 3)
            await asyncio.sleep(0.1)
        assert heard[topic] == payload
        assert set(heard) == {topic, state_topic("homeassistant", ADDRESS), STATUS_TOPIC}
