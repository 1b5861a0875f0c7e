"""Sets the demo's shop up through the backend's own API, as an operator and a marketer would."""

from collections.abc import Mapping
from typing import Any

import aiohttp

from simulators.eid_tags import EidTag
from simulators.frames import ROTATING

DWELL_S = 3.0
OFFER_LIFE_S = 120


class SetupFailed(RuntimeError):
    """The backend refused what the demo wanted to set up; the text is its answer."""


class Shopkeeper:
    """Talks to the API with an admin token."""

    def __init__(self, url: str, token: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session = session

    async def set_up_store(
        self,
        store: str,
        zones: Mapping[str, str],
        gateways: Mapping[str, Mapping[str, Any]],
        beacons: Mapping[str, str],
    ) -> None:
        """`zones`: id → name; `gateways`: id → zone id and place; `beacons`: fixed beacon's key → zone id."""
        await self._put(f"stores/{store}", {"name": "Demo shop", "timezone": "Europe/Vienna"})
        for zone, name in zones.items():
            await self._put(f"stores/{store}/zones/{zone}", {"name": name, "categories": [name]})
        for gateway, body in gateways.items():
            await self._put(f"stores/{store}/gateways/{gateway}", body)
        for key, zone in beacons.items():
            body = {"beacon_key": key, "role": "zone", "store_id": store, "zone_id": zone}
            await self._call("POST", "beacons", body)

    async def register_eid_tags(self, tags: Mapping[str, EidTag]) -> dict[str, str]:
        """Provisions tags whose ids rotate, as the till would; each one's stable key, by the same names."""
        resolver = bytes.fromhex((await self._call("GET", "eid/resolver"))["public_key"])
        return {name: await self._register(tag, resolver) for name, tag in tags.items()}

    async def _register(self, tag: EidTag, resolver: bytes) -> str:
        tag.provision(resolver)
        body = {
            "public_key": tag.public_key.hex(),
            "exponent": tag.exponent,
            "clock_s": tag.counter(0),
            "initial_eid": tag.frame(0).key.removeprefix(ROTATING),
        }
        made: dict[str, str] = await self._call("POST", "beacons/eid", body)
        return made["beacon_key"]

    async def open_app_source(self) -> dict[str, str]:
        """The shop's app; its write key and its proof secret."""
        made: dict[str, str] = await self._put("sources/shop-app", {"name": "Shop app", "kind": "app"})
        return made

    async def start_campaigns(self, store: str, zones: Mapping[str, str]) -> None:
        """One offer a zone, once a person."""
        for zone, name in zones.items():
            await self.start_campaign(_campaign(store, zone, name))

    async def start_campaign(self, campaign: Mapping[str, Any]) -> None:
        """One campaign, as the API has it."""
        await self._put(f"campaigns/{campaign['campaign_id']}", campaign)

    async def floor(self) -> dict[str, Any]:
        """Who is where, for the screen."""
        found: dict[str, Any] = await self._call("GET", "floor")
        return found

    async def _put(self, path: str, body: Mapping[str, Any]) -> Any:
        return await self._call("PUT", path, body)

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = f"{self._url}/api/{path}"
        async with self._session.request(method, url, json=body, headers=self._headers) as answer:
            if answer.status >= 400:
                raise SetupFailed(f"{method} /api/{path}: {answer.status} {await answer.text()}")
            return await answer.json()


def _campaign(store: str, zone: str, name: str) -> dict[str, Any]:
    return {
        "campaign_id": f"dwell-{zone}",
        "name": f"Offer at {name}",
        "state": "live",
        "trigger": {"type": "zone_dwelt", "store_id": store, "zone_id": zone, "dwell_s": DWELL_S},
        "offer": {
            "title": "{{ profile.firstName | default: 'Hello' }}, look around you",
            "body": "20 % on everything in {{ zone.name }} while you are here.",
            "deeplink": f"shop://zones/{zone}",
            "life_s": OFFER_LIFE_S,
        },
        "guardrails": {"max_total": 1, "max_per_day": 3, "cooldown_s": 0, "quiet_hours": None},
    }
