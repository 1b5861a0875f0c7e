"""Phones in shops whose zones have fixed beacons and no gateway, over real HTTP."""

import asyncio
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest

from simulators.backend_alone import running_backend

UUID = "f7826da6-4fa2-4e98-8024-bc5b71e0893e"
ZONES = {("s1", "a"): 1, ("s1", "bags"): 2, ("kiosk", "counter"): 3}
"""The first has a gateway, which tells nothing; the kiosk has none at all."""


class Visitor:
    """Somebody whose phone tells of beacons, and the shop's people who look on."""

    def __init__(self, http, backend) -> None:
        self._http, self._backend = http, backend

    async def ask(self, method: str, path: str, body=None):
        url, headers = self._backend.url + path, self._backend.headers
        async with self._http.request(method, url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def tell(self, path: str, **body) -> None:
        headers = {"Authorization": f"Bearer {self._backend.write_key}"}
        async with self._http.post(f"{self._backend.url}/v1/{path}", json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def hears(self, what: str = "range", **dbm: int | None) -> None:
        """A phone's word of beacons, by zone."""
        minor = {zone_id: minor for (_, zone_id), minor in ZONES.items()}
        await self.tell(
            "beacons",
            deviceId="phone",
            userId="anna",
            sightings=[
                {"event": what, "uuid": UUID, "major": 100, "minor": minor[zone_id], "rssi": level}
                for zone_id, level in dbm.items()
            ],
        )

    async def whereabouts(self) -> list[tuple[str, str]]:
        people = (await self.ask("GET", "/api/floor"))["people"]
        return [(one["store_id"], one["zone_id"]) for one in people if one["zone_id"]]

    async def gets_to(self, *places: tuple[str, str], what: str = "range", **dbm: int | None) -> None:
        """Once a second, for as long as an app would be."""
        until = time.monotonic() + 30
        while await self.whereabouts() != list(places):
            assert time.monotonic() < until, f"{await self.whereabouts()} instead of {places}"
            if dbm:
                await self.hears(what, **dbm)
            await asyncio.sleep(0.5)


@asynccontextmanager
async def visiting(folder):
    async with running_backend(folder) as backend, aiohttp.ClientSession() as http:
        yield Visitor(http, backend)


@pytest.fixture
async def anna(tmp_path):
    async with visiting(tmp_path) as visitor:
        await visitor.ask("PUT", "/api/stores/kiosk", {"name": "Kiosk", "timezone": "Europe/Vienna"})
        for (store_id, zone_id), minor in ZONES.items():
            await visitor.ask(
                "PUT", f"/api/stores/{store_id}/zones/{zone_id}", {"name": zone_id, "categories": []}
            )
            fixed = {"role": "zone", "store_id": store_id, "zone_id": zone_id}
            await visitor.ask("POST", "/api/beacons", {"beacon_key": f"ibeacon:{UUID}:100:{minor}", **fixed})
        await visitor.tell("identify", userId="anna", traits={})
        await visitor.tell("consent", userId="anna", deviceId="phone", consent={"proximity": True})
        yield visitor


async def test_a_phone_is_in_the_zone_whose_beacon_it_hears_best(anna):
    await anna.gets_to(("s1", "bags"), bags=-60, a=-88)
    await anna.gets_to(("s1", "a"), a=-60, bags=-88)


async def test_a_shop_without_any_gateway_knows_who_comes_stays_and_leaves(anna):
    await anna.gets_to(("kiosk", "counter"), counter=-60)
    await anna.hears("leave", counter=None)
    await anna.gets_to()
    await anna.hears("enter", counter=None)
    await anna.gets_to(("kiosk", "counter"))
    await anna.gets_to()  # its silence, after ten seconds
