"""What authors learn before anybody gets it: how it reads, what FCM says to it, and that it is too long."""

import asyncio
import time

import aiohttp
import pytest

from backend.config import Push
from simulators.backend_alone import running_backend
from simulators.fcm_process import FcmProcess

CAMPAIGN = {
    "campaign_id": "cart",
    "name": "Cart",
    "trigger": {"type": "zone_entered", "store_id": "s1", "zone_id": "a"},
    "offer": {
        "title": "Hello {{ profile.name }}",
        "body": "In {{ zone.name }} of {{ store.name }}: {{ code }}",
        "deeplink": "https://shop.example/{{ campaign.id }}",
        "code_pool": "ten",
    },
}


class Marketer:
    """Somebody with a token, and a shop's server that tells of Anna and her phones."""

    def __init__(self, http, backend):
        self.http, self.backend = http, backend

    async def __call__(self, method, path, body=None, status=200):
        url, headers = self.backend.url + path, self.backend.headers
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            told = await answer.json()
            assert answer.status == status, told
            return told

    async def tell(self, path, **body):
        headers = {"Authorization": f"Bearer {self.backend.write_key}"}
        async with self.http.post(self.backend.url + path, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def ready(self, *phones):
        """Anna, her phones, a pool with one code, and the campaign."""
        await self("PUT", "/api/code-pools/ten", {"name": "Ten", "codes": ["ONE"]})
        await self("PUT", "/api/campaigns/cart", CAMPAIGN)
        await self.tell("/v1/identify", userId="anna", traits={"name": "Anna"})
        for phone in phones:
            address = {"kind": "token", "value": phone}
            await self.tell(
                "/v1/devices", userId="anna", deviceId=phone, platform="android", pushAddress=address
            )
        deadline = time.monotonic() + 10
        while not await self.known(len(phones)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    async def known(self, phones):
        url, headers = f"{self.backend.url}/api/profiles/user_id:anna", self.backend.headers
        async with self.http.get(url, headers=headers) as answer:
            return answer.status == 200 and len((await answer.json())["push_addresses"]) == phones

    async def preview(self, who="user_id:anna", status=200):
        return await self("POST", f"/api/campaigns/cart/preview?profile={who}", status=status)


@pytest.fixture
def fcm(tmp_path):
    with FcmProcess(tmp_path / "fcm") as process:
        process.call("/sim/register", [{"value": "phone"}])
        yield process


@pytest.fixture
async def marketer(tmp_path):
    async with running_backend(tmp_path) as backend, aiohttp.ClientSession() as http:
        yield Marketer(http, backend)


async def test_fcm_is_asked_for_each_address_and_delivers_nothing(tmp_path, fcm):
    push = Push(fcm.where.service_account, fcm.where.send_url)
    async with running_backend(tmp_path, push) as backend, aiohttp.ClientSession() as http:
        marketer = Marketer(http, backend)
        await marketer.ready("phone", "gone")
        told = await marketer.preview()
        assert (told["title"], told["body"]) == ("Hello Anna", "In Coffee of Shop: ONE")
        assert told["deeplink"] == "https://shop.example/cart"
        assert (told["variant"], told["reason"]) == ("offer", None)
        verdicts = [(one["verdict"], one["platform"]) for one in told["addresses"]]
        assert sorted(verdicts) == [("accepted", "android"), ("rejected", "android")]
        [refused] = [one["reason"] for one in told["addresses"] if one["verdict"] == "rejected"]
        assert "Unregistered" in refused
        assert await marketer.preview() == told, "nothing was given away, and no address was dropped"
        fcm.call("/sim/faults", {"faults": [{"kind": "unavailable"}]})
        assert {one["verdict"] for one in (await marketer.preview())["addresses"]} == {"undecided"}
    assert fcm.call("/sim/messages?since=0") == []


async def test_without_push_the_texts_are_shown_all_the_same(marketer):
    await marketer.ready("phone")
    told = await marketer.preview()
    assert told["title"] == "Hello Anna"
    assert [one["verdict"] for one in told["addresses"]] == [None]
    campaign = await marketer("GET", "/api/campaigns/cart")
    assert (campaign["decisions"], campaign["pushes"]) == ([], [])
    [pool] = (await marketer("GET", "/api/code-pools"))["pools"]
    assert pool["given"] == 0


async def test_who_gets_no_text_is_told_why(marketer):
    await marketer.ready()
    await marketer(
        "PUT", "/api/campaigns/cart", {**CAMPAIGN, "offer": {"title": "{{ profile.x }}", "body": "b"}}
    )
    told = await marketer.preview()
    assert (told["title"], told["reason"]) == (None, "the title or the body comes out empty")


async def test_nobody_and_no_campaign_are_404(marketer):
    await marketer.ready()
    await marketer.preview("user_id:nobody", status=404)
    await marketer("POST", "/api/campaigns/other/preview?profile=user_id:anna", status=404)


LONG = {"title": "t", "body": "\N{GRINNING FACE}" * 1000}
TOO_LONG = {
    "the body": ({"offer": LONG}, "offer.body"),
    "around a name": ({"offer": {**LONG, "body": "{{ profile.name }} " + LONG["body"]}}, "offer.body"),
    "images count thrice": (
        {"offer": {"title": "t", "body": "b" * 900, "image": "https://shop.example/" + "i" * 970}},
        "offer.image",
    ),
    "a variant": (
        {"offer": {"title": "t", "body": "b"}, "variants": [{"variant_id": "v", "offer": LONG}]},
        "variants[0].offer.body",
    ),
}


@pytest.mark.parametrize(("change", "field"), TOO_LONG.values(), ids=TOO_LONG)
async def test_what_fcm_would_never_take_is_refused_when_it_is_saved(marketer, change, field):
    told = await marketer("PUT", "/api/campaigns/cart", {**CAMPAIGN, **change}, status=400)
    message = told["error"]["message"]
    assert message.startswith(f"{field}: the payload has ")
    assert "FCM takes 4096" in message


async def test_what_fits_is_saved(marketer):
    offer = {"title": "t", "body": "x" * 4000, "image": "{{ product.image_url }}"}
    await marketer("PUT", "/api/campaigns/cart", {**CAMPAIGN, "offer": offer})


NEVER = [
    ({"image": "http://shop.example/a.png"}, "offer.image"),
    ({"image": "file:///etc/passwd"}, "offer.image"),
    ({"image": "{{ zone.name }}"}, "offer.image"),
    ({"deeplink": "javascript:alert(1)"}, "offer.deeplink"),
    ({"deeplink": " JavaScript:alert('{{ profile.name }}')"}, "offer.deeplink"),
    ({"title": " \n "}, "offer.title"),
    ({"title": "{{ product.name | titelcase }}"}, "offer: "),
    ({"body": "{% if code %}Your code: {{ code }}{% endif %}"}, "offer.body"),
]


@pytest.mark.parametrize(("part", "field"), NEVER)
async def test_what_nobody_would_ever_get_is_refused_when_it_is_saved(marketer, part, field):
    offer = {"title": "t", "body": "b", **part}
    told = await marketer("PUT", "/api/campaigns/cart", {**CAMPAIGN, "offer": offer}, status=400)
    assert told["error"]["message"].startswith(field)


@pytest.mark.parametrize(
    "link", ["shop://product/{{ product.product_id }}", "{{ product.url }}", "/shoes", ""]
)
async def test_an_apps_own_links_are_saved(marketer, link):
    offer = {"title": "t", "body": "b", "deeplink": link}
    await marketer("PUT", "/api/campaigns/cart", {**CAMPAIGN, "offer": offer})
