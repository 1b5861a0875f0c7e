"""A shop's radio: how strongly a packet arrives, or that it is lost. Pure, and the same for the same seed.

RSSI = P1m − 10·n·log10(d) + X + C_channel − walls − body + 20·log10|h|, of which each part is a function of
the seed, the two ends and the time, never of what was asked before. Sources: Strzoda 2022 (doi
10.1145/3551662.3560933) for means and deviations at 2.4 GHz, Gentner 2022 (doi 10.1109/ACCESS.2022.3140803)
for the three advertising channels, Rappaport for retail and grocery halls at 914 MHz.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

CHANNELS = (37, 38, 39)
ADVERTISING_DELAY_S = 0.010  # Core Specification, volume 6, part B, 4.4.2.2: 0 to 10 ms, anew each time
PACKET_S = 376e-6  # a legacy advertisement of 31 bytes on the air at 1 Mbit/s
NEAREST_M = 0.1  # below this the far-field law would invent strengths that no antenna delivers
WALLS_DB = {"drywall": 4.0, "concrete": 12.0, "metal": 25.0}
_WAVES = 48  # of the shadowing field; fewer, and its values are visibly not Gaussian
_UNIT = 2.0**-64


@dataclass(frozen=True, slots=True)
class Point:
    """A place on the floor, in metres."""

    x: float
    y: float

    def distance(self, other: "Point") -> float:
        return math.hypot(self.x - other.x, self.y - other.y)

    def towards(self, other: "Point", share: float) -> "Point":
        """The place at a share of the way to another: 0 is here, 1 is there."""
        return Point(self.x + share * (other.x - self.x), self.y + share * (other.y - self.y))


@dataclass(frozen=True, slots=True)
class Wall:
    """A straight wall between two points, which takes `loss_db` from what passes through it."""

    start: Point
    end: Point
    loss_db: float


@dataclass(frozen=True, slots=True)
class Transmitter:
    """A beacon. `power_at_1m` is the mean RSSI in dBm that one metre of free sight gives.

    `heading` is the direction in radians into which its bearer looks, None where nobody carries it: the body
    takes up to `body_db` from what lies behind it.
    """

    name: str
    at: Point
    power_at_1m: float = -65.5
    heading: float | None = None
    body_db: float = 12.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """A gateway's antenna."""

    name: str
    at: Point


@dataclass(frozen=True, slots=True)
class RadioSettings:
    """A place's radio. Decibels, metres, seconds; `rice_*` is Rician K in dB, in and out of sight.

    A fade stays the same within `coherence_m` and `coherence_s`: a tag at rest in a bad spot is not saved by
    averaging. `interference` is the share of packets that other radio traffic destroys.
    """

    exponent: float = 2.0
    shadowing_db: float = 4.3
    shadowing_m: float = 2.0
    channel_db: float = 2.0
    rice_in_sight_db: float = 6.0
    rice_out_of_sight_db: float = 0.0
    coherence_m: float = 0.06  # half a wavelength at 2.4 GHz
    coherence_s: float = 1.0
    sensitivity_dbm: float = -93.0
    edge_db: float = 1.5
    interference: float = 0.2
    scan_window_s: float = 0.01125  # Linux's discovery: after it the receiver listens on the next channel
    walls: tuple[Wall, ...] = ()


MEASURED = RadioSettings()
"""Within 1.5 dB of Strzoda's means, −65.5, −78.4, −84.1, −90.8 dBm at 1, 5, 10, 16 m, before any is lost."""
RETAIL = RadioSettings(exponent=2.2, shadowing_db=8.7)
GROCERY = RadioSettings(exponent=1.8, shadowing_db=5.2)


class RadioModel:
    """Hears packets, or loses them."""

    def __init__(self, settings: RadioSettings = MEASURED, seed: int = 0) -> None:
        self.settings = settings
        self._key = struct.pack(">q", seed)
        self._field = lru_cache(maxsize=256)(self._new_field)
        self._scan_phase = lru_cache(maxsize=256)(lambda name: 3 * self._uniforms("scan", name)[0])
        self._channel_offset = lru_cache(maxsize=4096)(self._new_channel_offset)

    def hear(
        self, transmitter: Transmitter, receiver: Receiver, time_s: float, packets_per_s: float = 0.0
    ) -> int | None:
        """The RSSI in dBm at which one advertising event arrives, or None where the receiver lost it.

        `packets_per_s` is what everybody in range sends on each channel: each packet may collide.
        """
        strength = self.strength(transmitter, receiver, time_s)
        chance = self._survival(packets_per_s) * self._decodable(strength)
        packet = round(time_s * 1e6)
        if self._uniforms("loss", transmitter.name, receiver.name, packet)[0] >= chance:
            return None
        return max(-126, min(20, round(strength)))

    def strength(self, transmitter: Transmitter, receiver: Receiver, time_s: float) -> float:
        """The signal strength in dBm at the antenna, decodable or not."""
        channel = self.channel(receiver, time_s)
        hidden_db = self._walls(transmitter.at, receiver.at) + _body(transmitter, receiver)
        return (
            self._path(transmitter, receiver)
            + self.shadowing(transmitter.at, receiver)
            + self._channel_offset(transmitter.name, receiver.name, channel)
            - hidden_db
            + self._fade(transmitter, receiver, channel, time_s, hidden_db >= 3.0)
        )

    def shadowing(self, at: Point, receiver: Receiver) -> float:
        """X in dB at a place, as this receiver sees it: correlated in space by exp(−Δ / shadowing_m)."""
        waves = self._field(receiver.name)
        total = sum(math.cos(kx * at.x + ky * at.y + phase) for kx, ky, phase in waves)
        return self.settings.shadowing_db * math.sqrt(2 / _WAVES) * total

    def channel(self, receiver: Receiver, time_s: float) -> int:
        """The advertising channel on which the receiver listens at that time."""
        return CHANNELS[int(time_s / self.settings.scan_window_s + self._scan_phase(receiver.name)) % 3]

    def _path(self, transmitter: Transmitter, receiver: Receiver) -> float:
        """The mean over fades in sight; the fades' own mean in dB lies below theirs in power."""
        distance = max(transmitter.at.distance(receiver.at), NEAREST_M)
        free = _rician_mean_db(self.settings.rice_in_sight_db)
        return transmitter.power_at_1m - free - 10 * self.settings.exponent * math.log10(distance)

    def _walls(self, a: Point, b: Point) -> float:
        return sum(wall.loss_db for wall in self.settings.walls if _crosses(a, b, wall.start, wall.end))

    def _survival(self, packets_per_s: float) -> float:
        return (1 - self.settings.interference) * math.exp(-2 * packets_per_s * PACKET_S)

    def _decodable(self, strength: float) -> float:
        """The receiver's soft edge: half of the packets at its sensitivity."""
        excess = (strength - self.settings.sensitivity_dbm) / self.settings.edge_db
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, excess))))

    def _fade(
        self, transmitter: Transmitter, receiver: Receiver, channel: int, time_s: float, hidden: bool
    ) -> float:
        """20·log10|h| in dB: a direct ray and scattered ones, still within a cell of place and time."""
        settings = self.settings
        cell = settings.coherence_m
        place = (math.floor(transmitter.at.x / cell), math.floor(transmitter.at.y / cell))
        moment = math.floor(time_s / settings.coherence_s)
        drawn = self._uniforms("fade", transmitter.name, receiver.name, channel, *place, moment)
        k = 10 ** ((settings.rice_out_of_sight_db if hidden else settings.rice_in_sight_db) / 10)
        real, imaginary = _gaussians(drawn[0], drawn[1])
        scatter = math.sqrt(0.5 / (k + 1))
        power = (math.sqrt(k / (k + 1)) + scatter * real) ** 2 + (scatter * imaginary) ** 2
        return 10 * math.log10(max(power, 1e-6))

    def _new_field(self, receiver: str) -> Sequence[tuple[float, float, float]]:
        """Plane waves whose spectrum is that of exp(−Δ/ℓ) in two dimensions: a Cauchy distribution."""
        dice = Random(hashlib.blake2b(receiver.encode(), key=self._key).digest())
        waves = []
        for _ in range(_WAVES):
            spread = self.settings.shadowing_m * max(abs(dice.gauss(0, 1)), 1e-9)
            waves.append((dice.gauss(0, 1) / spread, dice.gauss(0, 1) / spread, dice.uniform(0, math.tau)))
        return waves

    def _new_channel_offset(self, transmitter: str, receiver: str, channel: int) -> float:
        drawn = self._uniforms("channel", transmitter, receiver, channel)
        return self.settings.channel_db * _gaussians(drawn[0], drawn[1])[0]

    def _uniforms(self, *what: str | int) -> tuple[float, float]:
        """Two numbers in [0, 1) that depend on the seed and `what` alone."""
        digest = hashlib.blake2b(repr(what).encode(), key=self._key, digest_size=16).digest()
        first, second = struct.unpack(">QQ", digest)
        return first * _UNIT, second * _UNIT


def advertising_times(interval_s: float, dice: Random, start_s: float = 0.0) -> Iterator[float]:
    """The times of a beacon's advertising events: the interval and a delay of 0 to 10 ms, each time."""
    time_s = start_s + dice.uniform(0, interval_s)
    while True:
        yield time_s
        time_s += interval_s + dice.uniform(0, ADVERTISING_DELAY_S)


def _body(transmitter: Transmitter, receiver: Receiver) -> float:
    """What the bearer's body takes, in dB: nothing ahead, all of it straight behind."""
    if transmitter.heading is None:
        return 0.0
    towards = math.atan2(receiver.at.y - transmitter.at.y, receiver.at.x - transmitter.at.x)
    return transmitter.body_db * (1 - math.cos(towards - transmitter.heading)) / 2


def _crosses(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments a–b and c–d intersect; merely touching is no wall in the way."""
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Point, b: Point, p: Point) -> float:
    return (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x)


def _gaussians(first: float, second: float) -> tuple[float, float]:
    """Two independent standard normal numbers from two uniform ones (Box and Muller)."""
    radius = math.sqrt(-2 * math.log(1 - first))
    return radius * math.cos(math.tau * second), radius * math.sin(math.tau * second)


@lru_cache(maxsize=16)
def _rician_mean_db(k_db: float) -> float:
    """The mean of 20·log10|h| for unit power: (10/ln 10)·(ln(K/(K+1)) + E1(K))."""
    k = 10 ** (k_db / 10)
    return 10 / math.log(10) * (math.log(k / (k + 1)) + _exponential_integral(k))


def _exponential_integral(x: float) -> float:
    """E1(x) by its series; beyond 20, where that loses its digits, E1 is below 1e-10."""
    if x > 20:
        return 0.0
    term, total = 1.0, -0.5772156649015329 - math.log(x)
    for n in range(1, 200):
        term *= -x / n
        total -= term / n
    return total
