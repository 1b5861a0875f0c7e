"""Captures of a simulated shop: what one gateway's radio would have given, in the gateway's own format.

The same seed gives the same bytes. Beside the capture lies the configuration to replay it with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from uuid import UUID

from gateway.allow import AllowList
from gateway.app import FLUSH_SECONDS
from gateway.capture import CaptureWriter
from gateway.presence import PresenceSettings
from gateway.record import Decisions, HeldClock, Recorder, create, header_of
from sdk_bridge.wire.topics import GatewayAddress
from simulators.shop import Shop

STORE = "demo"
STARTED_MS = 60_000  # the boot clock of a Pi that was switched on a minute ago
TICK_MS = int(FLUSH_SECONDS * 1000)


@dataclass(frozen=True, slots=True)
class Made:
    """What a simulated capture holds: `decisions` are those that a replay must come to."""

    gateway: str
    seconds: float
    recorded: int
    forgotten: int
    decisions: Decisions


def write_capture(
    seed: int,
    seconds: float,
    path: Path,
    gateway: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> Made:
    """Writes the capture and, beside it, `<name>.toml`.

    Raises ValueError for a gateway that the shop has not, gateway.record.CaptureNotWritten.
    """
    shop = Shop.demo(seed)
    name = gateway or shop.gateways[0]
    if name not in shop.gateways:
        raise ValueError(f"the shop has no gateway {name!r}, but {', '.join(shop.gateways)}")
    allow = AllowList.of(ibeacons=[shop.proximity_uuid], eddystone_namespaces=[shop.namespace.hex()])
    clock = HeldClock(str(UUID(int=Random(f"boot {seed}").getrandbits(128), version=4)), STARTED_MS)
    address = GatewayAddress(STORE, name)
    writer = CaptureWriter(header_of(address, allow, PresenceSettings(), clock))
    recorder = Recorder(writer, allow, PresenceSettings(), clock)
    with create(path) as file:
        for tick in range(1, round(seconds * 1000 / TICK_MS) + 1):
            _tick(shop, name, recorder, clock, tick * TICK_MS)
            file.write(writer.take())
            if progress is not None:
                progress(tick * TICK_MS / 1000)
        recorder.close(flush=True)
        file.write(writer.take())
    path.with_name(f"{path.name}.toml").write_text(_settings(shop, name), encoding="utf-8")
    return Made(name, seconds, recorder.recorded, recorder.forgotten, recorder.decisions)


def _tick(shop: Shop, gateway: str, recorder: Recorder, clock: HeldClock, until_ms: int) -> None:
    """Half a second of the air, and the close at its end."""
    for sent in shop.transmissions(until_ms / 1000):
        for name, rssi in shop.heard_by(sent):
            if name == gateway:
                clock.now = STARTED_MS + int(sent.time_s * 1000)
                recorder.heard(sent.address, sent.frame.manufacturer_data, sent.frame.service_data, rssi)
    clock.now = STARTED_MS + until_ms
    recorder.close()


def _settings(shop: Shop, gateway: str) -> str:
    zone = next(zone for zone in shop.zones if zone.gateway.name == gateway)
    return (
        f'store = "{STORE}"\ngateway = "{gateway}"\ndata_dir = "{gateway}-data"\n\n'
        f'[mqtt]\nhost = "127.0.0.1"\n\n'
        f'[allow]\nibeacon = ["{shop.proximity_uuid}"]\neddystone = ["{shop.namespace.hex()}"]\n\n'
        f'[zone_beacons]\nkeys = ["{zone.beacon_key}"]\n'
    )
