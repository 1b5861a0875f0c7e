"""The load: people with phones, and gateways that hear them. Both keep what is not acknowledged."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from random import Random

import aiohttp

from sdk_bridge import mqtt
from sdk_bridge.client import BridgeClient, ClientSettings, Who
from sdk_bridge.server.proof import user_hash
from sdk_bridge.wire.app_events import PushAddress
from sdk_bridge.wire.topics import GatewayAddress
from simulators.broker import HOST
from simulators.chaos.stage import Stage
from simulators.demo.shopkeeper import Shopkeeper
from simulators.pretend_gateway import PretendGateway

STORES = [f"s{number}" for number in range(8)]  # enough for both replicas to have some
UUID = "2f234454-cf6d-4a0f-adf2-f4911ba9ffa6"
CONNECTIONS = 12  # the phones of so many people side by side, to each replica half of them
WALKS = 5  # every fifth comes into a shop; the others fill a cart on the web
SAYS_NO = 9  # every ninth wants no pushes
DWELL_S = 2.0
CART = "Cart Filled"
LOOKS = 3  # what else a phone tells of
PATIENCE = ClientSettings(longest_retry_s=2.0, linger_s=0.0)  # of 30 s the end of a run would wait for
POLL_S = 0.5


@dataclass(slots=True)
class Promises:
    """What must come of what was acknowledged: one push for each (campaign, address), none for `refused`."""

    offers: set[tuple[str, str]] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


class Crowd:
    """Use as `async with`; people come while `arrive` runs, and it lets the last of them finish."""

    def __init__(self, stage: Stage, write_key: str, proof_secret: str, dice: Random) -> None:
        self._stage = stage
        self._secret = proof_secret
        self._dice = dice
        self._stack = AsyncExitStack()
        self._write_key = write_key
        self._line = 0
        self.welcome = True
        self.people = 0
        self.promises = Promises()
        self.clients: list[BridgeClient] = []
        self.gateways = {store: _gateway(store, number, stage) for number, store in enumerate(STORES)}

    async def __aenter__(self) -> "Crowd":
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            for number in range(CONNECTIONS):
                url = self._stage.replicas[number % len(self._stage.replicas)].url
                client = BridgeClient(url, self._write_key, session=http, settings=replace(PATIENCE))
                self.clients.append(await stack.enter_async_context(client))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            lives = [group.create_task(gateway.stay()) for gateway in self.gateways.values()]
            lives.append(group.create_task(self._show_pushes()))
            for life in lives:
                stack.callback(life.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.__aexit__(*error)  # type: ignore[arg-type] # whatever `async with` was told

    async def arrive(self, per_second: float) -> None:
        """People come at random moments while they are `welcome`, whatever is down meanwhile."""
        async with asyncio.TaskGroup() as visits:
            while self.welcome:
                visits.create_task(self._visit(self.people))
                self.people += 1
                await asyncio.sleep(self._dice.expovariate(per_second))

    def close_doors(self) -> None:
        """The gateways hear nobody any more; what they have heard they still hand on."""
        for gateway in self.gateways.values():
            gateway.hearing = False

    @property
    def delivered(self) -> bool:
        """Whether everything is acknowledged."""
        told = all(client.queued == 0 for client in self.clients)
        return told and all(gateway.delivered for gateway in self.gateways.values())

    @property
    def acknowledged(self) -> list[str]:
        """Every message id that the bridge answered 200."""
        return [message for client in self.clients for message in client.acknowledged]

    @property
    def unanswered(self) -> int:
        """Calls without a 200: those that wait, and those that the bridge refused, which it should not."""
        return sum(
            client.queued + client.tally.refused + client.tally.dropped_full for client in self.clients
        )

    @property
    def heard(self) -> Counter[str]:
        """Adverts by gateway, every one of them acknowledged once `delivered`."""
        return Counter({f"{store}/g": gateway.adverts for store, gateway in self.gateways.items()})

    async def _visit(self, number: int) -> None:
        """Somebody installs the app, agrees or not, and walks into a shop or fills a cart."""
        user, address = f"u{number}", f"address-of-u{number}-{'x' * 20}"
        client = self.clients[number % CONNECTIONS]
        who = Who(user, f"a{number}", user_hash(self._secret, user))
        await self._stage.fcm_says("/sim/register", {"value": address})
        walks, agrees = number % WALKS == 0, number % SAYS_NO != SAYS_NO - 1
        client.identify(who, {"firstName": user})
        key = _tag(number) if walks else None
        client.register_device(who, f"phone-{number}", "android", PushAddress("token", address), key)
        client.consent(who, {"proximity": True, "push": agrees})
        store = STORES[number % len(STORES)]
        (self.promises.offers.add if agrees else self._refuses)(
            (f"dwell-{store}" if walks else "cart", address)
        )
        await asyncio.sleep(self._dice.uniform(0, 2))
        for _ in range(LOOKS):
            client.page(who, "Shelf")
        if walks:
            self.gateways[store].meet(_tag(number))
        else:
            client.track(who, CART)

    def _refuses(self, offer: tuple[str, str]) -> None:
        self.promises.refused.add(offer[1])

    async def _show_pushes(self) -> None:
        """Every push that FCM delivers is reported by the phone, as the app would."""
        while True:
            with suppress(OSError):  # a busy FCM simulator is asked again
                for message in await self._stage.fcm_says(f"/sim/messages?since={self._line}"):
                    self._line = message["line"]
                    self.clients[self._line % CONNECTIONS].push_received(message["push_id"])
            await asyncio.sleep(POLL_S)


async def set_up(keeper: Shopkeeper, offer_life_s: int) -> dict[str, str]:
    """Shops, gateways and campaigns; the app's write key and proof secret."""
    offer = {"title": "Hello", "body": "Only today", "life_s": offer_life_s}
    guardrails = {"max_total": 1, "max_per_day": 3, "cooldown_s": 0, "quiet_hours": None}
    triggers: dict[str, dict[str, object]] = {"cart": {"type": "event", "name": CART}}
    for number, store in enumerate(STORES):
        await keeper.set_up_store(
            store, {"a": "Zone a"}, {"g": {"zone_id": "a", "x_m": 0, "y_m": 0}}, {_shelf(number): "a"}
        )
        triggers[f"dwell-{store}"] = {
            "type": "zone_dwelt",
            "store_id": store,
            "zone_id": "a",
            "dwell_s": DWELL_S,
        }
    for name, trigger in triggers.items():
        campaign = {"campaign_id": name, "name": name, "state": "live", "trigger": trigger}
        await keeper.start_campaign({**campaign, "offer": offer, "guardrails": guardrails})
    return await keeper.open_app_source()


def _gateway(store: str, number: int, stage: Stage) -> PretendGateway:
    broker = mqtt.Broker(HOST, stage.broker.port, f"gateway-{store}")
    return PretendGateway(GatewayAddress(store, "g"), broker, [_shelf(number)])


def _shelf(number: int) -> str:
    return f"ibeacon:{UUID}:100:{number}"


def _tag(number: int) -> str:
    return f"ibeacon:{UUID}:{1000 + number // 65536}:{number % 65536}"
