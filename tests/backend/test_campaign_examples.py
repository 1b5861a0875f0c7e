"""The shipped example campaigns, each played through a fold on real files, from the web page to the push."""

from pathlib import Path

import msgspec
import pytest

from backend.campaigns import examples as shipped
from backend.campaigns.examples import examples
from backend.campaigns.model import parse_campaign
from backend.catalog.shelves import CategoryMapping
from backend.eraser import Eraser, Places
from backend.profiles.erasure import ErasureKeys, Tombstones
from backend.proximity.fences import METRES_A_DEGREE, parse_fence
from backend.proximity.visits import AWAY_MS
from backend.storage import campaigns as campaign_rows
from backend.storage import catalog, results
from backend.storage import fences as fence_rows
from backend.storage.offers import SendChecks
from backend.storage.pushes import PushStore
from backend.storage.wipe import SqliteWiper
from sdk_bridge.wire.app_events import Location

TAG = "altbeacon:" + "a" * 40
SHOE = {
    "product_id": "p1",
    "name": "Trail 5",
    "category": "Footwear > Running",
    "price": 129.9,
    "currency": "EUR",
    "url": "https://shop.example/p1",
}
DAY_MS = 86_400_000
LATITUDE, LONGITUDE = 48.2, 16.37
BY_ID = {one.campaign.campaign_id: one.campaign for one in examples()}


def test_every_file_is_an_example_that_may_be_saved_as_it_is():
    files = sorted(Path(shipped.__file__).parent.glob("*.json"))
    assert [file.stem for file in files] == [one.campaign.campaign_id for one in examples()]
    for one in examples():
        assert parse_campaign(msgspec.json.encode(one.campaign)) == one.campaign
        assert one.campaign.state == "draft"
        assert 0 < one.campaign.holdout_percent < 50, "without a control group nothing is measured"
        assert one.needs


class Play:
    """A shop in which one example is live, and what a sender would do with its pushes."""

    def __init__(self, shop) -> None:
        self.shop = shop

    async def start(self, name: str, holdout: float = 0, state: str = "live") -> None:
        campaign = msgspec.structs.replace(BY_ID[name], state=state, holdout_percent=holdout)

        def write(session) -> None:
            session.run("save_zone", store_id="s1", zone_id="a", name="Shoe wall", categories='["Shoes"]')
            catalog.put_mappings(session, [CategoryMapping("Footwear", "Shoes")])
            session.run("add_code_pool", pool_id="shelf-discount", name="Shelf", created_at=0)
            campaign_rows.add_codes(session, "shelf-discount", ["TEN-1", "TEN-2"], 0)
            shape = {"type": "circle", "latitude": LATITUDE, "longitude": LONGITUDE, "radius_m": 150}
            named = {"fence_id": "around-the-shop", "name": "Around", "shape": shape, "store_id": "s1"}
            fence_rows.put_fences(session, [parse_fence(msgspec.json.encode(named))], self.shop.clock())
            assert campaign_rows.missing_references(session, campaign) is None
            campaign_rows.save_campaign(session, campaign, self.shop.clock())

        await self.shop.state.write(write)
        self.shop.fold.refresh()

    async def tell(self, *events) -> None:
        self.shop.clock.forward(10)
        await self.shop.journal.append_events(list(events))
        await self.shop.folded()

    async def look_at_the_shoe(self, **who) -> None:
        await self.tell(self.shop.event("track", name="Product Viewed", properties=SHOE, source="web", **who))

    async def buy(self, product: str = "p1", **who) -> None:
        order = {"order_id": "o1", "products": [{"product_id": product, "quantity": 1, "price": 129.9}]}
        await self.tell(self.shop.event("track", name="Order Completed", properties=order, **who))

    async def anna(self) -> None:
        """She looks at a shoe on the web, unknown, and logs in afterwards."""
        await self.look_at_the_shoe(anonymous_id="browser")
        await self.shop.person("anna", TAG)
        await self.tell(self.shop.event("identify", user_id="anna", anonymous_id="browser", source="web"))

    async def go_away(self, seconds: int) -> None:
        for _ in range(seconds // 4 + 1):
            self.shop.clock.forward(4_000)
            for gateway in ("g-a", "g-b"):
                await self.shop.heartbeat(gateway)
        await self.shop.folded()

    async def wait(self, milliseconds: int) -> None:
        self.shop.clock.forward(milliseconds)
        await self.shop.heartbeat()
        await self.shop.folded()

    async def be_at(self, metres: float) -> None:
        self.shop.clock.forward(10_000)
        where = Location(LATITUDE + metres / METRES_A_DEGREE, LONGITUDE, 10)
        await self.tell(self.shop.event("location", user_id="anna", device_id="phone-anna", location=where))

    async def reach(self, name: str) -> None:
        """What the example waits for, up to the moment of the decision."""
        if name == "viewed-at-the-shelf":
            await self.shop.hear(TAG, "g-a", seconds=25)
        elif name == "welcome":
            await self.shop.hear(TAG, "g-a", seconds=4)
        elif name == "come-in":
            for metres in (640, 600, 500):
                await self.be_at(metres)
        else:
            await self.shop.hear(TAG, "g-a", seconds=10)
            await self.go_away(AWAY_MS // 1000 + 30)
            await self.wait(2 * 3_600_000)
        await self.shop.folded()

    async def decided(self) -> list[tuple[str, str]]:
        rows = await self.shop.rows("select verdict, reason from decisions order by decision_id")
        return [tuple(row.values()) for row in rows]

    async def rehearsed(self, name: str) -> list[tuple[str, str]]:
        """What a dry run over the last day says."""
        now, everybody = self.shop.clock(), msgspec.structs.replace(BY_ID[name], holdout_percent=0)
        asked = await self.shop.state.read(lambda s: results.rehearsed(s, everybody, now - DAY_MS, now))
        return [(played.decision.verdict, played.decision.reason) for played in asked]

    async def leave(self) -> list[tuple[str, str, object]]:
        """Every due push with the answer of the last checks, as the sender asks for them."""
        queue, checks = PushStore(self.shop.state), SendChecks(self.shop.state)
        asked = []
        for push in await queue.claim("sender", self.shop.clock(), 99):
            assert await self.shop.fold.caught_up(push.profile_id, 5)
            objection = await checks.may_send(push, self.shop.clock())
            asked.append((push.content.title, push.content.body, objection))
        return asked


@pytest.fixture
def play(live_shop) -> Play:
    return Play(live_shop)


TEXTS = {
    "viewed-at-the-shelf": (
        "10 % off Trail 5",
        "anna, what you looked at is right here: Trail 5 for 129.90 EUR. Your code: TEN-1",
    ),
    "welcome": ("Welcome, anna", "Good to see you at Shop."),
    "come-in": ("Trail 5 is around the corner", "You are a few steps away. Come in and try it on."),
    "come-back": ("Still thinking it over?", "anna, we keep it for you at Shop."),
}
EXAMPLES = pytest.mark.parametrize("name", sorted(TEXTS))


@EXAMPLES
async def test_the_person_gets_the_message_once(play, name):
    await play.start(name)
    await play.anna()
    await play.reach(name)
    assert await play.decided() == [("sent", "eligible")]
    assert await play.leave() == [(*TEXTS[name], None)]


@EXAMPLES
async def test_whoever_is_held_out_gets_nothing_and_takes_no_code(play, name):
    await play.start(name, holdout=100)
    await play.anna()
    await play.reach(name)
    assert await play.decided() == [("held_out", "holdout")]
    assert await play.leave() == []
    assert await play.shop.column("select count(*) from codes where decision_id is not null") == [0]


@EXAMPLES
async def test_whoever_said_no_to_pushes_gets_nothing(play, name):
    await play.start(name)
    await play.anna()
    await play.tell(play.shop.event("consent", user_id="anna", consent={"push": False}))
    await play.reach(name)
    assert await play.decided() == [("suppressed", "no consent: push")]
    assert await play.leave() == []


@EXAMPLES
async def test_whoever_says_no_while_the_push_waits_gets_nothing(play, name):
    await play.start(name)
    await play.anna()
    await play.reach(name)
    await play.tell(play.shop.event("consent", user_id="anna", consent={"push": False}))
    assert [objection for *_text, objection in await play.leave()] == ["no consent: push"]


@EXAMPLES
async def test_whoever_withdraws_from_being_seen_gets_nothing(play, name):
    await play.start(name)
    await play.anna()
    await play.reach(name)
    await play.tell(play.shop.event("consent", user_id="anna", consent={"proximity": False}))
    assert [objection for *_text, objection in await play.leave()] == ["no consent: proximity"]


@pytest.mark.parametrize(
    "who", [{"user_id": "anna"}, {"anonymous_id": "tablet"}, {"anonymous_id": "browser"}]
)
@pytest.mark.parametrize("name", ["viewed-at-the-shelf", "come-in", "come-back"])
async def test_whoever_bought_meanwhile_gets_nothing_on_whichever_device_it_was(play, name, who):
    """The tablet becomes hers only later, by a login, though the purchase came first."""
    await play.start(name)
    await play.anna()
    await play.reach(name)
    assert await play.decided() == [("sent", "eligible")]
    await play.buy(**who)
    await play.tell(play.shop.event("identify", user_id="anna", anonymous_id="tablet", source="web"))
    [(*_text, objection)] = await play.leave()
    assert objection in ("goal reached: Order Completed", "not in the audience")


async def test_whoever_bought_the_shoe_before_hears_no_more_of_it(play):
    await play.start("viewed-at-the-shelf")
    await play.anna()
    await play.buy(user_id="anna")
    await play.reach("viewed-at-the-shelf")
    assert await play.decided() == [("suppressed", "no viewed product")]


async def test_another_shelf_is_not_where_it_lies(play):
    await play.start("viewed-at-the-shelf")
    await play.anna()
    await play.shop.hear(TAG, "g-b", seconds=25)
    await play.shop.folded()
    assert await play.decided() == []


async def test_two_people_get_two_codes_and_the_third_is_told_why_not(play):
    await play.start("viewed-at-the-shelf")
    for number in range(3):
        await play.shop.person(f"u{number}", f"altbeacon:{number:040}")
        await play.look_at_the_shoe(user_id=f"u{number}")
        await play.shop.hear(f"altbeacon:{number:040}", "g-a", seconds=25)
        await play.shop.folded()
    assert [reason for _, reason in await play.decided()] == ["eligible", "eligible", "no code left"]
    assert await play.shop.column("select count(distinct decision_id) from codes") == [2]


async def test_who_bought_in_the_shop_is_not_asked_to_come_back(play):
    await play.start("come-back")
    await play.anna()
    await play.shop.hear(TAG, "g-a", seconds=10)
    await play.buy(user_id="anna")
    await play.go_away(AWAY_MS // 1000 + 30)
    await play.wait(2 * 3_600_000)
    assert await play.decided() == [("suppressed", "not in the audience")]


async def test_a_late_visit_is_answered_in_the_morning(play):
    """Noon and seven hours in UTC is nine in the evening in Vienna."""
    await play.start("come-back")
    await play.anna()
    play.shop.clock.forward(7 * 3_600_000)
    await play.reach("come-back")
    assert await play.decided() == [("sent", "held for quiet hours")]
    assert await play.leave() == []
    play.shop.clock.now = 1_750_140_000_000  # 17 June 2025, 06:00 UTC: eight in Vienna
    assert [objection for *_text, objection in await play.leave()] == [None]


async def test_who_is_erased_while_the_push_waits_gets_nothing(play, tmp_path):
    shop, keys = play.shop, ErasureKeys(b"k" * 32)
    tombstones = Tombstones(keys.digest)
    shop.fold._tombstones = tombstones
    places = Places(
        shop.state,
        shop.journal_file,
        shop.journal,
        shop.fold,
        tmp_path,
        SqliteWiper(shop.state, may_rebuild=True),
        SqliteWiper(shop.journal_file, may_rebuild=False),
    )
    await play.start("welcome")
    await play.anna()
    await play.reach("welcome")
    [claimed] = await PushStore(shop.state).claim("sender", shop.clock(), 9)
    eraser = Eraser(places, keys, tombstones, shop.clock)
    assert await eraser.erase("user_id", "anna", "tester") is not None
    while await eraser.work_off():
        pass
    assert await SendChecks(shop.state).may_send(claimed, shop.clock()) == "erased"
    assert await PushStore(shop.state).mark_sending([claimed], shop.clock()) == []
    assert await shop.column("select count(*) from campaign_waits") == [0]
    assert await shop.column("select state || ': ' || reason from pushes") == ["suppressed: erased"]
    assert await shop.column("select count(*) from pushes where address_value = 'token-anna'") == [0]


# A dry run over what has passed -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["viewed-at-the-shelf", "welcome", "come-back"])
async def test_a_dry_run_says_what_the_campaign_would_have_decided(play, name):
    await play.start(name, state="draft")
    await play.anna()
    await play.reach(name)
    assert await play.decided() == []
    assert await play.rehearsed(name) == [("sent", "eligible")]


async def test_a_dry_run_knows_what_was_looked_at_and_bought_by_then(play):
    await play.start("viewed-at-the-shelf", state="draft")
    await play.shop.person("anna", TAG)
    await play.reach("viewed-at-the-shelf")
    await play.look_at_the_shoe(user_id="anna")
    assert await play.rehearsed("viewed-at-the-shelf") == [("suppressed", "no viewed product")]


async def test_a_dry_run_keeps_an_offer_that_was_bought_after_it(play):
    await play.start("viewed-at-the-shelf", state="draft")
    await play.anna()
    await play.reach("viewed-at-the-shelf")
    await play.buy(user_id="anna")
    assert await play.rehearsed("viewed-at-the-shelf") == [("sent", "eligible")]
