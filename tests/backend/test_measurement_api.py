"""Why somebody would get a campaign, who would have got it, and what it brought: over real HTTP."""

import asyncio
import time

import aiohttp
import pytest

from simulators.backend_alone import running_backend

FREE = {"quiet_hours": None, "cooldown_s": 0, "max_total": 9, "max_per_day": 99, "max_per_week": 99}
CAMPAIGN = {
    "campaign_id": "cart",
    "name": "Cart",
    "trigger": {"type": "event", "name": "Product Added"},
    "audience": {"type": "trait", "name": "plan", "test": {"type": "is", "value": "gold"}},
    "offer": {"title": "Hello {{ profile.name }}", "body": "Ten percent", "code_pool": "ten"},
    "guardrails": FREE,
    "goal": {"event": "Order Completed", "within_s": 3600},
}
AGREED = {"push": True, "proximity": True}
PASSED_BY_ANNA = [
    "state",
    "erased",
    "moment",
    "confidence",
    "consent: proximity",
    "consent: push",
    "address",
    "audience",
    "goal",
    "cap: total",
    "cap: day",
    "cap: week",
    "cooldown",
    "cooldown here",
    "one at a time",
    "quiet hours",
    "products",
    "code",
    "priority",
    "text",
]


class Marketer:
    """Somebody with a token, and a shop's server that tells of people."""

    def __init__(self, http, backend):
        self.http, self.backend = http, backend

    async def __call__(self, method, path, body=None, status=200):
        async with self.http.request(
            method, self.backend.url + path, json=body, headers=self.backend.headers
        ) as answer:
            told = await answer.json()
            assert answer.status == status, told
            return told

    async def tell(self, path, **body):
        headers = {"Authorization": f"Bearer {self.backend.write_key}"}
        async with self.http.post(f"{self.backend.url}/v1/{path}", json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def person(self, user, consent=AGREED, address=True, plan="gold"):
        await self.tell("identify", userId=user, traits={"name": user, "plan": plan})
        token = {"kind": "token", "value": f"token-{user}"} if address else None
        await self.tell(
            "devices", userId=user, deviceId=f"phone-{user}", platform="android", pushAddress=token
        )
        await self.tell("consent", userId=user, consent=consent)

    async def campaign(self, state="live", **more):
        await self("PUT", "/api/code-pools/ten", {"name": "Ten", "codes": ["A", "B", "C"]})
        await self("PUT", "/api/campaigns/cart", {**CAMPAIGN, **more})
        if state != "draft":
            await self("POST", "/api/campaigns/cart/state", {"state": state})

    async def why(self, who):
        return await self("POST", f"/api/campaigns/cart/explain?profile={who}")

    async def decided(self, count):
        """The campaign's decisions by verdict and reason, once there are `count` of them."""
        deadline = time.monotonic() + 10
        while True:
            told = (await self("GET", "/api/campaigns/cart"))["decisions"]
            if sum(one["candidates"] for one in told) == count:
                return {(one["verdict"], one["reason"]): one["candidates"] for one in told}
            assert time.monotonic() < deadline, told
            await asyncio.sleep(0.01)

    async def caught_up(self):
        deadline = time.monotonic() + 10
        while (await self("GET", "/health"))["fold_behind"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    async def known(self, user, purpose="push"):
        """Waits until the consent of somebody is folded."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            url = f"{self.backend.url}/api/profiles/user_id:{user}"
            async with self.http.get(url, headers=self.backend.headers) as answer:
                if answer.status == 200 and purpose in (await answer.json())["consents"]:
                    return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{user} is not known")


@pytest.fixture
async def marketer(tmp_path):
    async with running_backend(tmp_path) as backend, aiohttp.ClientSession() as http:
        yield Marketer(http, backend)


async def test_every_rule_is_told_and_the_first_objection_is_the_reason(marketer):
    await marketer.campaign()
    await marketer.person("anna")
    await marketer.known("anna")
    told = await marketer.why("user_id:anna")
    assert (told["send"], told["verdict"], told["reason"]) == (True, "sent", "eligible")
    assert [rule["rule"] for rule in told["rules"]] == PASSED_BY_ANNA
    assert all(rule["passes"] for rule in told["rules"])
    assert told["there_now"] is None


OBJECTIONS = {
    "no consent: push": {"consent": {"push": False, "proximity": True}},
    "no push address": {"address": False},
    "not in the audience": {"plan": "none"},
}


@pytest.mark.parametrize("reason", sorted(OBJECTIONS))
async def test_a_person_who_would_not_get_it(marketer, reason):
    await marketer.campaign()
    await marketer.person("anna", **OBJECTIONS[reason])
    await marketer.known("anna")
    told = await marketer.why("user_id:anna")
    assert (told["send"], told["verdict"], told["reason"]) == (False, "suppressed", reason)
    assert [rule["reason"] for rule in told["rules"] if not rule["passes"]] == [reason]
    assert len(told["rules"]) == len(PASSED_BY_ANNA), "every rule is told, also behind the first objection"


async def test_a_draft_explains_and_rehearses_what_it_would_do(marketer):
    await marketer.campaign("draft")
    await marketer.person("anna")
    await marketer.person("berta", consent={"push": False, "proximity": True})
    for user in ("anna", "berta"):
        await marketer.tell("track", userId=user, event="Product Added")
        await marketer.known(user)
    await marketer.caught_up()
    told = await marketer.why("user_id:anna")
    assert [rule["reason"] for rule in told["rules"] if not rule["passes"]] == ["campaign is draft"]
    rehearsal = await marketer("POST", "/api/campaigns/cart/dry-run?days=1")
    assert (rehearsal["days"], rehearsal["moments"], rehearsal["people"]) == (1, 2, 1)
    assert rehearsal["decisions"] == {"sent": 1, "suppressed: no consent: push": 1}
    assert {one["verdict"] for one in rehearsal["newest"]} == {"sent", "suppressed"}
    assert (await marketer("GET", "/api/campaigns/cart"))["decisions"] == [], "nothing is recorded"


async def test_what_became_known_too_late_would_have_reached_nobody(marketer):
    """A phone that was offline, and an import of old orders: live, such moments make no offer either."""
    await marketer.campaign(offer={**CAMPAIGN["offer"], "life_s": 600})
    await marketer.person("anna")
    await marketer.person("berta")
    await marketer.known("berta")
    for user, minutes in (("anna", 20), ("berta", 5)):
        at = int(time.time() * 1000) - minutes * 60_000
        await marketer.tell("track", userId=user, event="Product Added", timestamp=at)
    told = await marketer.decided(2)
    assert told == {("suppressed", "moment passed"): 1, ("sent", "eligible"): 1}
    rehearsal = await marketer("POST", "/api/campaigns/cart/dry-run?days=1")
    assert rehearsal["decisions"] == {"sent": 1, "suppressed: moment passed": 1}


async def test_what_a_campaign_brought(marketer):
    await marketer.campaign()
    await marketer.person("anna")
    await marketer.person("berta", consent={"push": False, "proximity": True})
    for user in ("anna", "berta"):
        await marketer.tell("track", userId=user, event="Product Added")
    assert await marketer.decided(2) == {
        ("sent", "eligible"): 1,
        ("suppressed", "no consent: push"): 1,
    }
    bought = {"order_id": "o1", "total": 12.5, "currency": "EUR"}
    await marketer.tell("track", userId="anna", event="Order Completed", properties=bought)
    deadline = time.monotonic() + 10
    while not (found := await marketer("GET", "/api/campaigns/cart/results"))["whole"]["reached"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    whole = found["whole"]
    assert (whole["candidates"], whole["suppressed"]) == (2, {"no consent: push": 1})
    assert (whole["sent"], whole["people"], whole["bought"]) == (1, 1, 1)
    assert whole["revenue"] == {"EUR": 1250}
    assert set(found["variants"]) == {"offer"}
    pools = await marketer("GET", "/api/code-pools")
    assert pools["pools"] == [{"pool_id": "ten", "name": "Ten", "codes": 3, "given": 1}]


async def test_a_person_is_found_by_the_profiles_id_as_other_calls_tell_it(marketer):
    await marketer.campaign()
    await marketer.person("anna")
    await marketer.known("anna")
    profile_id = (await marketer.why("user_id:anna"))["profile_id"]
    for who in (profile_id, f"profile_id:{profile_id}"):
        told = await marketer.why(who)
        assert (told["profile_id"], told["send"]) == (profile_id, True)
    await marketer("POST", "/api/campaigns/cart/explain?profile=nobody", status=404)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/campaigns/none/explain?profile=user_id:anna", 404),
        ("POST", "/api/campaigns/none/dry-run", 404),
        ("GET", "/api/campaigns/none/results", 404),
        ("POST", "/api/campaigns/cart/explain?profile=user_id:nobody", 404),
        ("POST", "/api/campaigns/cart/explain", 400),
        ("POST", "/api/campaigns/cart/dry-run?days=1000", 400),
    ],
)
async def test_who_asks_for_nothing_that_is_there_hears_so(marketer, method, path, status):
    await marketer.campaign("draft")
    told = await marketer(method, path, status=status)
    assert told["error"]


async def test_a_campaign_on_approaching_a_fence_has_no_past(marketer):
    circle = {"type": "circle", "latitude": 48.2, "longitude": 16.37, "radius_m": 150}
    await marketer("PUT", "/api/geofences/round", {"fence_id": "round", "name": "Round", "shape": circle})
    await marketer.campaign("draft", trigger={"type": "fence_approached", "fence_id": "round"})
    told = await marketer("POST", "/api/campaigns/cart/dry-run", status=409)
    assert "approached" in str(told)


# The state by the clock -----------------------------------------------------------------------------------


async def test_a_schedule_moves_the_state_that_is_told(marketer):
    now = int(time.time() * 1000)
    times = {"starts_at": now - 1000, "ends_at": now + 2_000}
    plan = {**CAMPAIGN, "offer": {"title": "t", "body": "b"}}
    later = {**plan, "state": "scheduled", "starts_at": now + 3_600_000}
    assert (await marketer("PUT", "/api/campaigns/cart", later))["state"] == "scheduled"
    assert (await marketer("PUT", "/api/campaigns/cart", {**plan, **times, "state": "scheduled"}))[
        "state"
    ] == "live"
    assert (await marketer("GET", "/api/campaigns/cart"))["state"] == "live"
    await marketer("POST", "/api/campaigns/cart/state", {"state": "draft"}, status=409)
    deadline = time.monotonic() + 10
    while (await marketer("GET", "/api/campaigns"))["campaigns"][0]["state"] != "ended":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    for state in ("live", "paused", "scheduled", "draft"):
        await marketer("POST", "/api/campaigns/cart/state", {"state": state}, status=409)
        again = {**plan, "state": state, "starts_at": now, "ends_at": now + 10**9}
        await marketer("PUT", "/api/campaigns/cart", again, status=409)
    versions = (await marketer("GET", "/api/campaigns/cart/versions"))["versions"]
    assert [one["version"] for one in versions] == [2, 1]


async def test_a_campaign_cannot_begin_after_its_end(marketer):
    plan = {**CAMPAIGN, "offer": {"title": "t", "body": "b"}, "ends_at": 1_700_000_000}
    told = await marketer("PUT", "/api/campaigns/cart", {**plan, "state": "live"}, status=409)
    assert "ends_at has passed" in told["error"]["message"]
    await marketer("PUT", "/api/campaigns/cart", plan)
    await marketer("POST", "/api/campaigns/cart/state", {"state": "live"}, status=409)


async def test_blanks_are_no_part_of_a_code(marketer):
    pool = {"name": "Ten", "codes": ["A", " A", "A ", "\tB\n"]}
    assert (await marketer("PUT", "/api/code-pools/ten", pool))["added"] == 2
    await marketer("PUT", "/api/code-pools/ten", {"name": "Ten", "codes": ["  "]}, status=400)
