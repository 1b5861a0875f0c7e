"""Shoppers' phones with the shop's app: they register, consent, get pushes from FCM, report and open them."""

import asyncio
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog

from sdk_bridge.client import BridgeClient, ClientSettings, Who
from sdk_bridge.server.proof import user_hash
from sdk_bridge.wire.app_events import PushAddress

log = structlog.get_logger()

RECONNECT_S = 0.2
LINGER_S = 5.0
SETTLE_S = 20.0  # after this long something is broken, and the figures will say so
REGISTER_AT_ONCE = 500
OPEN_AT_ONCE = 10_000  # opens that wait for their moment; more would be a flood of pushes, which is counted


@dataclass(frozen=True, slots=True)
class PhoneOwner:
    """A shopper as the shop's app knows them; `consent` None: was never asked."""

    user_id: str
    device_id: str
    push_address: PushAddress
    platform: str = "android"
    anonymous_id: str | None = None
    beacon_key: str | None = None
    consent: Mapping[str, bool] | None = None
    traits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppSource:
    """The app's source at the bridge. The secret is the shop's server's, which hands out hashes at login."""

    url: str
    write_key: str
    proof_secret: str


@dataclass(frozen=True, slots=True)
class Habits:
    """What people do with a push: how many open it, and after how many seconds at least and at most."""

    opens: float = 0.6
    opens_after_s: tuple[float, float] = (0.5, 4.0)


class Delivery(msgspec.Struct, frozen=True):
    """A message that FCM accepted for an address; `line` is its number in FCM's log."""

    kind: str
    value: str
    message: dict[str, Any]
    accepted_at: int
    line: int = 0

    @property
    def push_id(self) -> str | None:
        """Our id of the push, which travels in the message's data."""
        data = self.message.get("data")
        found = data.get("push_id") if isinstance(data, dict) else None
        return found if isinstance(found, str) else None


class Phone:
    """One phone. What it does with a push depends on the seed and the push alone, not on when it comes."""

    def __init__(
        self, owner: PhoneOwner, client: BridgeClient, proof_secret: str, habits: Habits, seed: int
    ) -> None:
        self.owner = owner
        self.client = client
        self.shown: dict[str, int] = {}
        self.opened: set[str] = set()
        self._habits = habits
        self._seed = seed
        self._who = Who(owner.user_id, owner.anonymous_id, user_hash(proof_secret, owner.user_id))

    def switch_on(self) -> None:
        """The person logs in and answers the questions that the app asks."""
        owner = self.owner
        self.client.identify(self._who, owner.traits)
        self.client.register_device(
            self._who, owner.device_id, owner.platform, owner.push_address, owner.beacon_key
        )
        if owner.consent is not None:
            self.client.consent(self._who, owner.consent)

    def show(self, delivery: Delivery) -> float | None:
        """Shows a push and reports it; the seconds until its owner opens it, or None.

        A push that comes twice is shown twice, which is what `duplicates` counts, but reported once.
        """
        push_id = delivery.push_id
        if push_id is None:
            return None
        self.shown[push_id] = self.shown.get(push_id, 0) + 1
        if self.shown[push_id] > 1:
            return None
        self.client.push_received(push_id)
        dice = random.Random(f"{self._seed}/{self.owner.device_id}/{push_id}")
        return dice.uniform(*self._habits.opens_after_s) if dice.random() < self._habits.opens else None

    def open(self, push_id: str) -> None:
        """The person taps it."""
        self.opened.add(push_id)
        self.client.push_opened(push_id)

    @property
    def duplicates(self) -> int:
        """How often a push was shown again."""
        return sum(times - 1 for times in self.shown.values())


class PhoneFleet:
    """The phones of many shoppers; use as `async with`. Inside, they live by themselves.

    `fcm_url` is the FCM simulator's. With a `queue_folder` each phone keeps its unsent calls in a file there.
    """

    def __init__(
        self,
        owners: Sequence[PhoneOwner],
        source: AppSource,
        fcm_url: str,
        *,
        habits: Habits | None = None,
        seed: int = 0,
        queue_folder: Path | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self._owners = owners
        self._source = source
        self._fcm = fcm_url.rstrip("/")
        self._habits = habits or Habits()
        self._seed = seed
        self._queue_folder = queue_folder
        # Waiting is done for all phones at once, in __aexit__; one after the other would take minutes.
        self._settings = replace(settings or ClientSettings(), linger_s=0.0)
        self._phones: dict[PushAddress, Phone] = {}
        self._stack = AsyncExitStack()
        self._line = 0
        self._opening: set[asyncio.Task[None]] = set()
        self.opens_skipped = 0

    async def __aenter__(self) -> "PhoneFleet":
        async with AsyncExitStack() as stack:
            connector = aiohttp.TCPConnector(limit=64)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            await self._register(session)
            for owner in self._owners:
                await self._take(owner, stack, session)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            listening = group.create_task(self._listen(session, group))
            stack.callback(self._stop, listening)
            for phone in self:
                phone.switch_on()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        flushed = (phone.client.flush(LINGER_S) for phone in self)
        await asyncio.gather(*flushed, return_exceptions=True)  # a TimeoutError: the rest stays unsent
        await self._stack.__aexit__(*error)

    def __iter__(self) -> Iterator[Phone]:
        return iter(self._phones.values())

    async def settle(self, within_s: float = SETTLE_S) -> bool:
        """Waits until every shown push that will be opened is, and every call is answered; False if not."""
        try:
            async with asyncio.timeout(within_s):
                while self._opening or self._unsent:
                    if self._opening:
                        await asyncio.wait(set(self._opening))
                    await asyncio.gather(*(phone.client.flush(within_s) for phone in self))
        except TimeoutError:
            return False
        return True

    @property
    def acknowledged(self) -> list[str]:
        """The message id of every call that the bridge answered 200."""
        return [message_id for phone in self for message_id in phone.client.acknowledged]

    @property
    def received(self) -> int:
        """Pushes shown, each once."""
        return sum(len(phone.shown) for phone in self)

    @property
    def opened(self) -> int:
        """Pushes opened."""
        return sum(len(phone.opened) for phone in self)

    @property
    def duplicates(self) -> int:
        """Pushes shown again."""
        return sum(phone.duplicates for phone in self)

    @property
    def refused(self) -> int:
        """Calls that the bridge refused for good, and those that a full queue lost."""
        return sum(phone.client.tally.refused + phone.client.tally.dropped_full for phone in self)

    @property
    def _unsent(self) -> int:
        return sum(phone.client.queued for phone in self)

    async def _register(self, session: aiohttp.ClientSession) -> None:
        """Tells FCM of the addresses, as the apps' first start would. Raises ClientResponseError."""
        addresses = [
            {"value": owner.push_address.value, "kind": owner.push_address.kind} for owner in self._owners
        ]
        for chunk in _chunks(addresses, REGISTER_AT_ONCE):
            async with session.post(f"{self._fcm}/sim/register", json=chunk) as answer:
                answer.raise_for_status()

    async def _take(self, owner: PhoneOwner, stack: AsyncExitStack, session: aiohttp.ClientSession) -> None:
        source = self._source
        path = self._queue_folder / f"{owner.device_id}.db" if self._queue_folder else None
        client = BridgeClient(source.url, source.write_key, path, session=session, settings=self._settings)
        await stack.enter_async_context(client)
        phone = Phone(owner, client, source.proof_secret, self._habits, self._seed)
        self._phones[owner.push_address] = phone

    async def _listen(self, session: aiohttp.ClientSession, group: asyncio.TaskGroup) -> None:
        """FCM's deliveries from the first on; after a broken connection from where it broke."""
        while True:
            try:
                url = f"{self._fcm}/sim/deliveries"
                async with session.ws_connect(url, params={"since": self._line}) as socket:
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            self._deliver(msgspec.json.decode(message.data, type=Delivery), group)
            except (aiohttp.ClientError, OSError) as error:
                log.info("fcm_unreachable", reason=str(error))
            await asyncio.sleep(RECONNECT_S)

    def _deliver(self, delivery: Delivery, group: asyncio.TaskGroup) -> None:
        self._line = delivery.line or self._line + 1
        phone = self._phones.get(_address(delivery))
        push_id = delivery.push_id
        if phone is None or push_id is None:
            return
        delay = phone.show(delivery)
        if delay is None:
            return
        if len(self._opening) >= OPEN_AT_ONCE:
            self.opens_skipped += 1
            return
        task = group.create_task(_open_later(phone, push_id, delay))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _stop(self, listening: asyncio.Task[None]) -> None:
        for task in (listening, *self._opening):
            task.cancel()


async def _open_later(phone: Phone, push_id: str, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    phone.open(push_id)


def _address(delivery: Delivery) -> PushAddress:
    return PushAddress("fid" if delivery.kind == "fid" else "token", delivery.value)


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
