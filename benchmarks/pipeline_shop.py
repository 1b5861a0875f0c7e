"""Stores full of people, their gateways and live campaigns: what bench_pipeline.py folds."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from backend.campaigns.model import parse_campaign
from backend.fold import Fold
from backend.storage import campaigns as campaign_rows
from backend.storage.entries import LaneKey
from backend.storage.journal import GatewayAppend, Journal
from backend.storage.session import Database, Session
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent, PushAddress
from sdk_bridge.wire.messages import Batch, Readings
from sdk_bridge.wire.topics import GatewayAddress

CORNERS = ((0.0, 0.0), (12.0, 0.0), (0.0, 12.0), (12.0, 12.0))
LOUD, FAR = 58, 76  # dB of loss at the gateway one stands at, and at the others
CAMPAIGNS = 10
EPOCH = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Chain:
    """Stores with a gateway and a zone in each corner, and people; everybody is heard by all four."""

    stores: int
    people: int

    def store_of(self, person: int) -> str:
        return f"s{person % self.stores}"

    def people_of(self, store: int) -> list[int]:
        return list(range(store, self.people, self.stores))

    @property
    def gateways(self) -> Iterator[tuple[int, int, GatewayAddress]]:
        """Store, corner, address."""
        for store in range(self.stores):
            for corner in range(len(CORNERS)):
                yield store, corner, GatewayAddress(f"s{store}", f"g{corner}")


def tag(person: int) -> str:
    return f"ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:{person // 1000}:{person % 1000}"


def stand(session: Session, chain: Chain) -> None:
    """Stores, zones, gateways."""
    for store in range(chain.stores):
        session.run("save_store", store_id=f"s{store}", name="Shop", timezone="UTC")
    for store, corner, address in chain.gateways:
        place = {"store_id": f"s{store}", "zone_id": f"z{corner}"}
        session.run("save_zone", **place, name=f"Zone {corner}", categories="[]")
        x_m, y_m = CORNERS[corner]
        gateway = {"gateway_id": address.gateway, "name": address.gateway, "x_m": x_m, "y_m": y_m}
        session.run("save_gateway", **place, **gateway)


def campaign(number: int, trigger: dict[str, object]) -> bytes:
    """One that is live, at every hour, with a template to render."""
    return json.dumps(
        {
            "campaign_id": f"c{number}",
            "name": f"Campaign {number}",
            "state": "live",
            "trigger": trigger,
            "offer": {
                "title": 'Hello {{ profile.name | default: "you" }}',
                "body": "In {{ zone.name }} today",
            },
            "guardrails": {"quiet_hours": None, "cooldown_s": 0, "max_per_day": 100, "max_per_week": 500},
        }
    ).encode()


def dwells() -> list[bytes]:
    """Ten campaigns on staying in zones."""
    return [
        campaign(
            number,
            {"type": "zone_dwelt", "store_id": f"s{number}", "zone_id": f"z{number % 4}", "dwell_s": 10},
        )
        for number in range(CAMPAIGNS)
    ]


def entries_of_last_corner(chain: Chain) -> list[bytes]:
    """A campaign a store on entering its last corner."""
    return [
        campaign(store, {"type": "zone_entered", "store_id": f"s{store}", "zone_id": f"z{len(CORNERS) - 1}"})
        for store in range(chain.stores)
    ]


def start_campaigns(session: Session, definitions: list[bytes], now: int) -> None:
    for definition in definitions:
        campaign_rows.save_campaign(session, parse_campaign(definition), now)


def introductions(chain: Chain, now: int) -> Iterator[list[AppEvent]]:
    """Everybody logs in on a phone, registers a tag, and agrees; a call a person."""
    for person in range(chain.people):
        who = {"user_id": f"user-{person}", "device_id": f"phone-{person}", "source": "app", "proven": True}
        when = {"occurred_at": now, "received_at": now}
        yield [
            AppEvent(kind="identify", message_id=f"i{person}", traits={"name": f"P{person}"}, **who, **when),
            AppEvent(
                kind="device",
                message_id=f"d{person}",
                platform="android",
                push_address=PushAddress("token", f"token-{person}"),
                beacon_key=tag(person),
                **who,
                **when,
            ),
            AppEvent(
                kind="consent",
                message_id=f"c{person}",
                consent={"proximity": True, "push": True},
                **who,
                **when,
            ),
        ]


def heard(people: list[tuple[int, bool]], base_ms: int, dice: random.Random, boot_id: str = "") -> Batch:
    """What a gateway hears in one second: (person, whether they stand there), three adverts of each."""
    losses = [dice.randint(-3, 3) + (LOUD if near else FAR) for _, near in people]
    rows = len(people)
    readings = Readings(list(range(rows)), [0] * rows, [3] * rows, losses, [loss - 2 for loss in losses])
    return Batch(boot_id, base_ms, [tag(person) for person, _ in people], readings)


async def introduce(chain: Chain, journal: Journal, state: Database, now: int) -> None:
    """Everybody, through journal and fold."""
    fold = Fold(journal, state, lambda: now, on_listening=lambda _: None)
    await fold.load()
    for call in introductions(chain, now):
        await journal.append_events(call)
    await folded(fold)


async def fill(journal: Journal, chain: Chain, begins: int, seconds: int) -> int:
    """The gateways' live batches of so many seconds; how many readings. Everybody goes round the corners."""
    dice, readings = random.Random(7), 0
    for second in range(seconds):
        at = begins + second * 1000
        appends = []
        for store, corner, address in chain.gateways:
            people = [(one, (one + second // 30) % 4 == corner) for one in chain.people_of(store)]
            readings += len(people)
            lane = LaneKey(f"{address.store}/{address.gateway}", EPOCH, "live")
            payload = codec.encode(heard(people, at, dice))
            arrived = at + 1_000 + corner
            appends.append(
                GatewayAppend(lane, second + 1, second + 1, arrived, address.partition, 0, payload)
            )
        await asyncio.gather(*map(journal.append_gateway, appends))
    return readings


async def folded(fold: Fold) -> None:
    """Until everything is folded."""
    running = asyncio.create_task(fold.run())
    caught_up = asyncio.create_task(fold.caught_up("anybody", within_s=3_600))
    await asyncio.wait({running, caught_up}, return_when=asyncio.FIRST_COMPLETED)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    if not await caught_up:
        raise RuntimeError("the fold did not catch up")
