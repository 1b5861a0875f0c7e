"""Our own snippet for web pages, in a real Chromium, on a page of another origin than the backend's."""

import asyncio
import gzip
import json
from pathlib import Path

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")
FILE = Path(__file__).parent.parent.parent / "sdk_bridge/web/footfall.js"
# To the last character, which only a key of one letter and no value still takes.
FILL_STORAGE = """for (let size = 1 << 22; size; size >>= 1)
  try { for (;;) localStorage.setItem(Math.random(), "x".repeat(size)); } catch {}
for (let letter = 33; letter < 99; letter++)
  try { localStorage.setItem(String.fromCharCode(letter), ""); } catch {}"""
ASKED_TO_WAIT = "footfall.sender.quiet"  # the refusal has come, and so has how long to wait
NO_STORAGE = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('forbidden'); }})"


def tag(source, door, earlier=(), **data):
    """What a shop puts in its pages; `earlier` are calls made before the file has come."""
    given = {"write-key": source.write_key, **data}
    attributes = " ".join(f'data-{name}="{value}"' for name, value in given.items())
    calls = json.dumps(list(earlier))
    return f"""<script>var footfall = window.footfall || []; footfall.push(...{calls});</script>
      <script src="{door.url}/v1/footfall.js" {attributes}></script>"""


def names(events):
    return [event.name for event in events]


async def stored_keys(page):
    return await page.evaluate("Object.keys(localStorage)")


async def test_everybody_gets_the_file_packed_and_caches_it(backend):
    url = f"{backend.url}/v1/footfall.js"
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.get(url) as answer:
            assert (answer.status, answer.content_type) == (200, "text/javascript")
            assert gzip.decompress(await answer.read()) == FILE.read_bytes()
            known = {"If-None-Match": answer.headers["ETag"]}
        async with session.get(url, headers=known) as answer:
            assert answer.status == 304


async def test_one_tag_tells_of_the_page_and_replays_what_was_called_before(backend, door, shop):
    source = backend.open_source("web")
    early = [["track", "Product Viewed", {"price": 9.5}], ["track", "Product Added"]]
    page = await shop.open(tag(source, door, early), path="/boots?utm_source=mail&utm_campaign=may#secret")
    viewed, *tracked = await backend.stored(source, 3)
    assert viewed.kind == "page"
    assert viewed.properties["url"] == f"{shop.origin}/boots?utm_source=mail&utm_campaign=may"
    assert viewed.context["campaign"] == {"source": "mail", "name": "may"}
    assert viewed.context["library"]["name"] == "footfall.js"
    assert names(tracked) == ["Product Viewed", "Product Added"]
    assert tracked[0].properties == {"price": 9.5}
    assert len({event.anonymous_id for event in (viewed, *tracked)}) == 1
    assert (door.preflights, len(door.posts)) == (0, 1)
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith((shop.origin, door.url))] == []


async def test_a_login_with_proof_makes_one_profile_and_a_logout_ends_it(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(tag(source, door))
    for user in ("f-u1", "f-u2"):
        await page.evaluate(f"footfall.track('Before', {{by: '{user}'}})")
        await page.evaluate(f"footfall.identify('{user}', {{name: '{user}'}}, '{source.hash_of(user)}')")
        await page.evaluate("footfall.track('After'); footfall.reset()")
    events = await backend.stored(source, 7)
    ids = {event.anonymous_id for event in events}
    assert len(ids) == 2
    assert [event.proven for event in events if event.name == "After"] == [True, True]
    people = [backend.profile("user_id", user) for user in ("f-u1", "f-u2")]
    assert [person["traits"] for person in people] == [{"name": "f-u1"}, {"name": "f-u2"}]
    assert {backend.profile("anonymous_id", one)["profile_id"] for one in ids} == {
        person["profile_id"] for person in people
    }


async def test_an_id_token_goes_with_the_login_and_with_nothing_after_it(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(tag(source, door, page="manual"))
    await page.evaluate("footfall.identify('f-u9', {}, {idToken: 'header.claims.signature'})")
    await page.evaluate("footfall.track('After')")
    await backend.stored(source, 2)
    calls = [call for post in door.posts for call in json.loads(post.body)["batch"]]
    assert [(call["type"], call.get("idToken")) for call in calls] == [
        ("identify", "header.claims.signature"),
        ("track", None),
    ]


NOBODY = ["undefined", "null", "''", "'undefined'", "false", "0", "NaN", "{}", "'Guest'", "'00000000-0000'"]


@pytest.mark.parametrize("nobody", NOBODY)
async def test_a_login_of_nobody_leaves_the_visitor_as_they_are(backend, door, shop, nobody):
    """Pages say `identify(user && user.id)`; what was looked at before the login must not be lost by that."""
    source = backend.open_source("web")
    page = await shop.open(tag(source, door, page="manual"))
    await page.evaluate(f"footfall.identify({nobody}, {{city: 'Graz'}})")
    await page.evaluate("footfall.track('Looked')")
    user = f"f-n{abs(hash(nobody))}"
    await page.evaluate(f"footfall.identify('{user}', {{}}, '{source.hash_of(user)}'); footfall.flush()")
    events = await backend.stored(source, 3)
    assert len({event.anonymous_id for event in events}) == 1
    assert [event.user_id for event in events] == [None, None, user]
    assert backend.profile("user_id", user)["traits"] == {"city": "Graz"}


async def test_whoever_logs_in_over_somebody_else_takes_nothing_of_theirs(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(tag(source, door))
    for user in ("f-u3", "f-u4"):
        await page.evaluate(f"footfall.identify('{user}', {{}}, '{source.hash_of(user)}')")
    viewed, first, second = await backend.stored(source, 3)
    assert viewed.anonymous_id == first.anonymous_id != second.anonymous_id
    people = [backend.profile("user_id", user)["profile_id"] for user in ("f-u3", "f-u4")]
    assert backend.profile("anonymous_id", first.anonymous_id)["profile_id"] == people[0] != people[1]


async def test_what_went_wrong_on_the_way_comes_again_and_is_stored_once(backend, doors, shop):
    async def through(fault):
        source, door = backend.open_source("web"), await doors()
        door.faults.extend([fault, fault])
        calls = [["track", "Order Completed"]]
        page = await shop.open(tag(source, door, calls), path=f"/{source.source_id}")
        await page.wait_for_function("footfall.queued === 0")
        assert (fault, door.outcomes) == (fault, [fault, fault, "200"])
        assert (fault, len(await backend.stored(source, 2))) == (fault, 2)

    faults = ("302", "408", "410", "429", "500", "503", "reset", "lost answer", "hotspot")
    await asyncio.gather(*map(through, faults))


@pytest.mark.parametrize("status", ["400", "401", "404", "413", "501"])
async def test_what_is_refused_for_good_is_counted_and_not_sent_again(backend, door, shop, status):
    source = backend.open_source("web")
    door.faults.append(status)
    page = await shop.open(tag(source, door))
    await page.evaluate("footfall.flush()")
    await page.wait_for_function("footfall.refused === 1")
    await page.evaluate("footfall.track('Next'); footfall.flush()")
    assert names(await backend.stored(source, 1)) == ["Next"]
    assert door.outcomes == [status, "200"]


async def test_it_waits_as_long_as_the_bridge_asks_whatever_is_called_meanwhile(backend, door, shop):
    source = backend.open_source("web")
    door.faults.append("429")
    door.retry_after = "2"
    page = await shop.open(tag(source, door))
    await page.wait_for_function(ASKED_TO_WAIT)
    # More than enough to be sent at once at any other time, and all before the two seconds are over.
    await page.evaluate("for (let n = 0; n < 25; n++) footfall.track('Tick', {n})")
    assert len(await backend.stored(source, 26)) == 26
    refused, taken = door.posts
    assert taken.at - refused.at >= 1.9


async def test_a_clock_that_is_set_back_makes_no_wait_longer(backend, door, shop):
    source = backend.open_source("web")
    door.faults.append("429")
    door.retry_after = "1"
    page = await shop.open(tag(source, door))
    await page.wait_for_function(ASKED_TO_WAIT)
    await page.evaluate("{ const now = Date.now; Date.now = () => now() - 3600000; }")
    await page.wait_for_function("footfall.queued === 0")
    # From here on only the end of the page sends: no timer that is set now ever rings.
    await page.evaluate("window.setTimeout = () => 0; footfall.track('Last')")
    await page.evaluate("dispatchEvent(new Event('pagehide'))")
    assert names(await backend.stored(source, 2)) == [None, "Last"]


async def test_offline_calls_are_kept_bounded_and_sent_by_the_next_page(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    page = await shop.open(tag(source, door, page="manual"), visitor)
    await visitor.set_offline(True)
    await page.evaluate("for (let n = 0; n < 520; n++) footfall.track('Tick', {n})")
    assert await page.evaluate("[footfall.queued, footfall.dropped]") == [500, 20]
    await page.close()
    await visitor.set_offline(False)
    page = await shop.open(tag(source, door, page="manual"), visitor)
    events = await backend.stored(source, 500)
    assert sorted(event.properties["n"] for event in events) == list(range(20, 520))
    await page.wait_for_function("footfall.queued === 0")


async def test_the_queue_takes_no_more_of_the_shops_storage_than_agreed(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    page = await shop.open(tag(source, door, page="manual"), visitor)
    await visitor.set_offline(True)
    await page.evaluate("for (let n = 0; n < 40; n++) footfall.track('Big', {text: 'x'.repeat(30000)})")
    held = await page.evaluate("Object.values(localStorage).reduce((sum, value) => sum + value.length, 0)")
    assert 400_000 < held < 530_000
    await page.evaluate("footfall.track('Too Big', {text: 'ü'.repeat(17000)})")
    assert await page.evaluate("footfall.dropped + footfall.queued") == 41


async def test_back_online_it_does_not_wait_for_its_next_try(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    page = await shop.open(tag(source, door, page="manual"), visitor)
    await visitor.set_offline(True)
    await page.evaluate("footfall.track('Order Completed'); footfall.flush()")
    await page.clock.install()  # from here on nothing comes of waiting
    await visitor.set_offline(False)
    assert names(await backend.stored(source, 1)) == ["Order Completed"]


@pytest.mark.parametrize("storage", ["storage", "no storage"])
async def test_what_is_called_last_on_a_page_arrives(backend, door, shop, storage):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    if storage == "no storage":
        await visitor.add_init_script(NO_STORAGE)
    page = await shop.open(tag(source, door, page="manual"), visitor)
    await page.evaluate("footfall.track('Order Completed'); location.href = 'about:blank'")
    assert names(await backend.stored(source, 1)) == ["Order Completed"]
    await page.wait_for_url("about:blank")


async def test_without_storage_it_sends_all_the_same(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    await visitor.add_init_script(NO_STORAGE)
    page = await shop.open(tag(source, door, [["track", "Product Viewed"]]), visitor)
    events = await backend.stored(source, 2)
    assert len(events) == 2
    assert len({event.anonymous_id for event in events}) == 1
    assert page.complaints == []


async def test_where_the_browser_denies_storage_and_locks_it_sends_all_the_same(backend, door, shop):
    """As in a frame without an origin, and wherever somebody has switched cookies off."""
    source = backend.open_source("web")
    shop.pages["/frame"] = tag(source, door, [["track", "Product Viewed"]])
    page = await shop.open('<iframe sandbox="allow-scripts" src="/frame"></iframe>')
    assert names(await backend.stored(source, 2)) == [None, "Product Viewed"]
    assert page.complaints == []


async def test_what_a_full_storage_does_not_take_leaves_nothing_older_there(backend, door, shop):
    """Or the next page would go on as whoever was here before, and as if they had agreed."""
    source = backend.open_source("web")
    visitor = await shop.visitor()
    page = await shop.open(tag(source, door, consent="analytics"), visitor)
    await page.evaluate("footfall.consent({analytics: true}); footfall.identify('anna')")
    await page.wait_for_function("footfall.queued === 0")
    await page.evaluate(FILL_STORAGE)
    await page.evaluate("footfall.identify('bertha with a longer id')")
    await backend.stored(source, 4)
    assert await page.evaluate("localStorage.getItem('footfall:who')") is None
    await page.evaluate(FILL_STORAGE)
    await page.evaluate("footfall.consent({analytics: false})")
    assert await page.evaluate("localStorage.getItem('footfall:consent')") is None
    await page.wait_for_function("footfall.queued === 0")
    page = await shop.open(tag(source, door, consent="analytics"), visitor)
    await page.evaluate("footfall.flush()")
    assert (len(backend.events(source)), await page.evaluate("footfall.queued")) == (5, 1)


async def test_what_is_no_json_breaks_neither_the_page_nor_the_calls_beside_it(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(tag(source, door, page="manual"))
    last = "footfall.push(['track', 'Bad', {n: 1n}], ['track', 'Good']); footfall.dropped"
    assert await page.evaluate(f"footfall.track('Clicked', {{target: window}}); {last}") == 2
    [event] = await backend.stored(source, 1)
    assert event.name == "Good"


async def test_what_is_no_call_costs_neither_the_page_nor_the_calls_beside_it(backend, door, shop):
    """`footfall.push(sold && ["track", …])` pushes `false` where nothing was sold."""
    source = backend.open_source("web")
    early = [False, ["track", "Product Viewed"], None, ["nothing"], [], "track"]
    page = await shop.open(tag(source, door, early, page="manual"))
    await page.evaluate("footfall.push(false, undefined, ['track', 'Product Added'])")
    assert names(await backend.stored(source, 2)) == ["Product Viewed", "Product Added"]
    assert page.complaints == []


async def test_a_page_that_has_the_tag_twice_is_looked_at_once(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(2 * tag(source, door))
    await page.evaluate("footfall.track('Last'); footfall.flush()")
    await page.wait_for_function("footfall.queued === 0")
    sent = [call["type"] for post in door.posts for call in json.loads(post.body)["batch"]]
    assert sent == ["page", "track"]
    assert names(await backend.stored(source, 2)) == [None, "Last"]


async def test_what_waited_for_the_persons_word_tells_of_the_page_it_happened_on(backend, door, shop):
    source = backend.open_source("web")
    html = tag(source, door, [["track", "Product Viewed"]], consent="analytics")
    page = await shop.open(html, path="/boots?utm_source=mail")
    await page.evaluate("history.pushState({}, '', '/next'); footfall.consent({analytics: true})")
    viewed, tracked, _ = await backend.stored(source, 3)
    assert [event.context["page"]["path"] for event in (viewed, tracked)] == ["/boots", "/boots"]
    assert tracked.context["campaign"] == {"source": "mail"}


async def test_a_visitor_outlives_the_write_key_and_so_do_calls_that_waited(backend, door, shop):
    before, after = backend.open_source("web"), backend.open_source("web")
    visitor = await shop.visitor()
    page = await shop.open(tag(before, door), visitor)
    [viewed] = await backend.stored(before, 1)
    await visitor.set_offline(True)
    await page.evaluate("footfall.track('Order Completed')")
    await page.close()
    await visitor.set_offline(False)
    page = await shop.open(tag(after, door), visitor)
    _, waited = await backend.stored(before, 2)
    [viewed_again] = await backend.stored(after, 1)
    assert waited.name == "Order Completed"
    assert len({event.anonymous_id for event in (viewed, waited, viewed_again)}) == 1
    await page.wait_for_function("Object.keys(localStorage).join() === 'footfall:who'")


async def test_tabs_share_one_visitor_and_lose_nothing_of_each_other(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    tabs = [await shop.open(tag(source, door), visitor) for _ in range(3)]
    assert len(await backend.stored(source, 3)) == 3
    door.faults.extend(["503", "lost answer"])
    call = "for (let n = 0; n < 30; n++) footfall.track('Tick', {tab: %d, n})"
    await asyncio.gather(*(page.evaluate(call % number) for number, page in enumerate(tabs)))
    events = await backend.stored(source, 93)
    ticks = [(event.properties["tab"], event.properties["n"]) for event in events if event.name == "Tick"]
    assert sorted(ticks) == [(number, n) for number in range(3) for n in range(30)]
    assert len({event.anonymous_id for event in events}) == 1


async def test_nothing_is_stored_or_sent_before_the_person_agrees(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(tag(source, door, [["track", "Product Viewed"]], consent="analytics"))
    await page.evaluate("footfall.consent({marketing: false})")
    await page.evaluate("footfall.flush()")
    assert (door.posts, await page.evaluate("footfall.queued")) == ([], 3)
    assert await stored_keys(page) == ["footfall:consent"]
    await page.evaluate("footfall.consent({analytics: true})")
    events = await backend.stored(source, 4)
    assert sorted(event.kind for event in events) == ["consent", "consent", "page", "track"]
    profile = backend.profile("anonymous_id", events[0].anonymous_id)
    assert profile["consents"] == {"analytics": True, "marketing": False}


async def test_a_word_in_one_tab_is_a_word_in_all(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    first, second = [await shop.open(tag(source, door, consent="analytics"), visitor) for _ in range(2)]
    await first.evaluate("footfall.consent({analytics: true})")
    events = await backend.stored(source, 3)
    assert sorted(event.kind for event in events) == ["consent", "page", "page"]
    assert len({event.anonymous_id for event in events}) == 1
    await first.evaluate("localStorage.clear()")
    await second.evaluate("footfall.track('Product Viewed')")
    await first.evaluate("footfall.consent({analytics: false})")
    await second.wait_for_function("footfall.queued === 0")
    await second.evaluate("footfall.consent({analytics: true}); footfall.flush()")
    assert [event.name for event in await backend.stored(source, 4)] == [None] * 4


async def test_a_no_sends_nothing_now_or_on_the_next_page(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    page = await shop.open(tag(source, door, consent="analytics"), visitor)
    await page.evaluate("footfall.consent({analytics: false}); footfall.track('Product Viewed')")
    await page.close()
    page = await shop.open(tag(source, door, [["track", "Order Completed"]], consent="analytics"), visitor)
    await page.evaluate("footfall.flush()")
    assert (door.posts, await page.evaluate("footfall.queued")) == ([], 0)
    assert await stored_keys(page) == ["footfall:consent"]


async def test_a_no_and_a_visitor_outlive_the_names_they_were_kept_under(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    old = f"footfall:{source.write_key}:"
    page = await shop.open("", visitor)
    await page.evaluate(f"""localStorage.setItem('{old}consent', '{{"analytics":false}}')""")
    await page.evaluate(f"""localStorage.setItem('{old}who', '{{"anonymousId":"known"}}')""")
    page = await shop.open(tag(source, door, consent="analytics"), visitor)
    assert (door.posts, await page.evaluate("footfall.queued")) == ([], 0)
    assert sorted(await stored_keys(page)) == ["footfall:consent", "footfall:who"]
    await page.evaluate("footfall.consent({analytics: true}); footfall.track('Asked Again')")
    *_, tracked = await backend.stored(source, 2)
    assert (tracked.name, tracked.anonymous_id) == ("Asked Again", "known")
    await page.evaluate("localStorage.setItem('footfall:another-key:who', '{}')")
    await page.evaluate("footfall.consent({analytics: false})")
    await page.wait_for_function("footfall.queued === 0")
    assert await stored_keys(page) == ["footfall:consent"]


async def test_whoever_withdraws_is_heard_and_then_forgotten(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(tag(source, door, consent="analytics"))
    await page.evaluate("footfall.consent({analytics: true}); footfall.flush()")
    (agreed, viewed) = await backend.stored(source, 2)
    await page.evaluate("footfall.track('Never Sent'); footfall.consent({analytics: false})")
    *_, withdrawn = await backend.stored(source, 3)
    assert (withdrawn.kind, withdrawn.anonymous_id) == ("consent", viewed.anonymous_id)
    assert backend.profile("anonymous_id", agreed.anonymous_id)["consents"] == {"analytics": False}
    await page.wait_for_function("footfall.queued === 0")
    assert await stored_keys(page) == ["footfall:consent"]


async def test_a_link_is_shown_and_an_app_that_redeems_it_is_the_visitors(backend, door, shop):
    site, app = backend.open_source("web"), backend.open_source("app")
    page = await shop.open(tag(site, door))
    await page.evaluate("document.body.append(Object.assign(document.createElement('div'), {id: 'code'}))")
    link = await page.evaluate("footfall.link('#code')")
    assert link["url"] == await page.evaluate("document.querySelector('#code a').href")
    assert await page.evaluate("document.querySelector('#code img').decode().then(() => true)")
    assert door.preflights == 0
    call = {"token": link["token"], "deviceId": "phone", "anonymousId": "app", "writeKey": app.write_key}
    async with aiohttp.ClientSession() as session:
        for device, expected in (("phone", 200), ("phone", 200), ("thief", 409)):
            body = {**call, "deviceId": device}
            async with session.post(f"{backend.url}/v1/link/redeem", json=body) as answer:
                assert answer.status == expected, await answer.text()
    linked = next(event for event in await backend.stored(site, 2) if event.kind == "link")
    visitor = json.loads(
        await page.evaluate(
            "localStorage.getItem(Object.keys(localStorage).find((key) => key === 'footfall:who'))"
        )
    )
    assert linked.link.anonymous_id == visitor["anonymousId"]
    assert page.complaints == []


async def test_without_consent_there_is_no_link(backend, door, shop):
    page = await shop.open(tag(backend.open_source("web"), door, consent="analytics"))
    refused = await page.evaluate("footfall.link().then(() => 'a link', (error) => error.message)")
    assert "consent" in refused
    assert await stored_keys(page) == []
