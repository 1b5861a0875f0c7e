"""Segment's browser SDK, unmodified, in a real Chromium, on a page of another origin than the backend's."""

import asyncio
import json

import pytest

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("sdk_modules"),
]
ANONYMOUS_ID = "analytics.then(([it]) => it.user().anonymousId())"
BATCHING = {"strategy": "batching", "config": {"size": 5, "timeout": 300}}


def loading(settings):
    """The SDK and its `load`, as a shop's page has them in its head."""
    return f"""<script src="/sdk/index.js"></script><script>
      var analytics = AnalyticsNext.AnalyticsBrowser.load({json.dumps(settings)});
    </script>"""


def told_by_page(source, door, **segment_io):
    """Where to send stands in the page (`cdnSettings`), so that nothing has to be asked first."""
    scheme, _, host = door.url.partition("://")
    segment = {"apiKey": source.write_key, "apiHost": f"{host}/v1", "protocol": scheme, **segment_io}
    settings = {"integrations": {"Segment.io": segment}, "metrics": {"sampleRate": 0}}
    return loading({"writeKey": source.write_key, "cdnSettings": settings})


def snippet(source, door):
    """The copy-and-paste form: a stub that queues calls, and a loader that asks the stub's `_cdn`."""
    return f"""<script>
      var analytics = window.analytics = [];
      analytics.invoked = true;
      analytics._writeKey = {json.dumps(source.write_key)};
      analytics._cdn = {json.dumps(door.url)};
      ["page", "track", "identify"].forEach(function (name) {{
        analytics[name] = function () {{ analytics.push([name].concat([].slice.call(arguments))); }};
      }});
      analytics.page("Boots");
    </script><script src="/sdk/standalone.js"></script>"""


async def test_every_call_from_another_origin_arrives_and_makes_a_profile(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(told_by_page(source, door))
    anonymous = await page.evaluate(ANONYMOUS_ID)
    proof = json.dumps({"context": {"userHash": source.hash_of("b-u1")}})
    for call in (
        "page('Boots', {shelf: 7})",
        "track('Product Viewed', {price: 9.5})",
        "screen('App', 'Start')",
        "group('club', {name: 'Club'})",
        f"identify('b-u1', {{email: 'anna@example.org'}}, {proof})",
        "alias('b-u1', 'b-a2')",
    ):
        await page.evaluate(f"analytics.{call}")
    events = {event.kind: event for event in await backend.stored(source, 6)}
    assert set(events) == {"page", "track", "screen", "group", "identify", "alias"}
    assert all(event.anonymous_id == anonymous for event in events.values())
    assert events["page"].properties["url"] == f"{shop.origin}/boots"
    assert events["page"].properties["shelf"] == 7
    assert events["page"].context["library"]["name"] == "analytics.js"
    assert (events["alias"].user_id, events["alias"].previous_id) == ("b-u1", "b-a2")
    assert events["identify"].proven
    assert "userHash" not in events["identify"].context
    person = backend.profile("user_id", "b-u1")
    assert person["traits"] == {"email": "anna@example.org"}
    assert backend.profile("anonymous_id", anonymous)["profile_id"] == person["profile_id"]
    assert [post.path for post in door.posts] == [f"/v1/{letter}" for letter in "ptsgia"]
    assert door.preflights > 0  # the browser asked before it sent an Authorization header
    assert page.complaints == []


@pytest.mark.parametrize("form", ["package", "snippet"])
async def test_the_sdk_asks_our_settings_route_and_nobody_else(backend, tls_door, shop, form):
    source = backend.open_source("web")
    cdn = {"writeKey": source.write_key, "cdnURL": tls_door.url}
    package = loading(cdn) + "<script>analytics.page('Boots')</script>"
    page = await shop.open(snippet(source, tls_door) if form == "snippet" else package, clock=True)
    (event,) = await backend.stored(source, 1)
    assert (event.kind, event.name) == ("page", "Boots")
    assert f"{tls_door.url}/v1/projects/{source.write_key}/settings" in page.asked
    await page.evaluate("window.dispatchEvent(new Event('load')); analytics.page('Again')")
    await page.clock.run_for(95_000)  # the SDK reports on itself every 30 s, unless it is told not to
    assert len(await backend.stored(source, 2)) == 2
    assert [url for url in page.asked if not url.startswith((shop.origin, tls_door.url))] == []
    assert page.complaints == []


async def test_a_claim_without_proof_stays_with_the_visitor(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(told_by_page(source, door))
    await page.evaluate("analytics.identify('b-victim', {email: 'thief@example.org'})")
    await backend.stored(source, 1)
    assert backend.profile("user_id", "b-victim") is None
    visitor = backend.profile("anonymous_id", await page.evaluate(ANONYMOUS_ID))
    assert not visitor["identified"]


async def test_a_middleware_proves_every_later_call(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(told_by_page(source, door))
    await page.evaluate("analytics.page('Before')")
    await page.evaluate(
        """hash => analytics.addSourceMiddleware(({payload, next}) => {
             payload.obj.context.userHash = hash;
             next(payload);
           })""",
        source.hash_of("b-u2"),
    )
    await page.evaluate("analytics.identify('b-u2')")
    await page.evaluate("analytics.track('Order Completed', {total: 19})")
    before, login, order = await backend.stored(source, 3)
    assert (before.proven, login.proven, order.proven) == (False, True, True)


async def test_what_went_wrong_on_the_way_comes_again_and_is_stored_once(backend, doors, shop):
    async def through(fault, strategy):
        source, door = backend.open_source("web"), await doors()
        page = await shop.open(told_by_page(source, door, **strategy), path=f"/{source.source_id}")
        await page.evaluate(ANONYMOUS_ID)
        door.faults.extend([fault, fault])
        door.retry_after = "1" if fault == "429" else None
        await page.evaluate("for (let n = 0; n < 5; n++) analytics.track('Tick', {n})")
        events = await backend.stored(source, 5)
        assert (fault, sorted(event.properties["n"] for event in events)) == (fault, list(range(5)))
        assert (fault, door.outcomes.count(fault)) == (fault, 2)

    faults = ("503", "429", "408", "reset", "lost answer")
    each_call, batches = {}, {"deliveryStrategy": BATCHING}
    await asyncio.gather(*(through(fault, how) for fault in faults for how in (each_call, batches)))


async def test_batches_go_at_their_size_and_at_the_end_of_the_page(backend, door, shop):
    source = backend.open_source("web")
    slow = {"strategy": "batching", "config": {"size": 5, "timeout": 60_000}}
    page = await shop.open(told_by_page(source, door, deliveryStrategy=slow))
    await page.evaluate("for (let n = 0; n < 8; n++) analytics.track('Tick', {n})")
    assert len(await backend.stored(source, 5)) == 5
    await page.close(run_before_unload=True)
    assert sorted(event.properties["n"] for event in await backend.stored(source, 8)) == list(range(8))
    assert {post.path for post in door.posts} == {"/v1/b"}


async def test_what_a_closed_page_could_not_send_the_next_page_sends(backend, door, shop):
    source = backend.open_source("web")
    visitor = await shop.visitor()
    page = await shop.open(told_by_page(source, door), visitor)
    await page.evaluate(ANONYMOUS_ID)
    door.faults.extend(["503"] * 50)
    await page.evaluate("analytics.track('Order Completed', {total: 19})")
    await page.goto("about:blank")
    assert "503" in door.outcomes
    door.faults.clear()
    await shop.open(told_by_page(source, door), visitor)
    assert [event.name for event in await backend.stored(source, 1)] == ["Order Completed"]


async def test_two_people_at_one_browser_stay_two(backend, door, shop):
    source = backend.open_source("web")
    page = await shop.open(told_by_page(source, door))
    anonymous = []
    for user in ("b-u3", "b-u4"):
        anonymous.append(await page.evaluate(ANONYMOUS_ID))
        await page.evaluate(f"analytics.track('Product Viewed', {{by: '{user}'}})")
        proof = {"context": {"userHash": source.hash_of(user)}}
        await page.evaluate(f"analytics.identify('{user}', {{name: '{user}'}}, {json.dumps(proof)})")
        await page.evaluate("analytics.reset()")
    await backend.stored(source, 4)
    people = [backend.profile("user_id", user) for user in ("b-u3", "b-u4")]
    visitors = [backend.profile("anonymous_id", one) for one in anonymous]
    assert [one["profile_id"] for one in people] == [one["profile_id"] for one in visitors]
    assert people[0]["profile_id"] != people[1]["profile_id"]
