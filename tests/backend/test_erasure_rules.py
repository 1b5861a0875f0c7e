"""The rules of erasure: what a tombstone refuses, what is left of others' events, and what is a trace."""

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.eraser import GuardedJournal
from backend.profiles.erasure import (
    ERASED,
    ErasureKeys,
    SealBroken,
    Tombstones,
    Traces,
    is_telling,
    names_in,
    scrubbed,
)
from backend.secret_file import SecretUnusable, kept_secret, make_secret, read_secret
from backend.storage import erasure
from sdk_bridge.server.refusals import Refusal
from sdk_bridge.wire.app_events import AppEvent, ExternalId, Link, PushAddress, encode_each

KEYS = ErasureKeys(b"k" * 32)
ERASED_AT = 1_000
ANNA, MAIL, DEVICE, TOKEN, TAG = (
    "anna-4711",
    "anna@example.com",
    "device-1",
    "token-of-anna",
    "altbeacon:" + "a" * 40,
)


def tombstones(*names: str) -> Tombstones:
    stones = Tombstones(KEYS.digest)
    stones.learn({KEYS.digest(name): ERASED_AT for name in names}, "r1")
    return stones


def event(at: int = ERASED_AT, **more) -> AppEvent:
    return AppEvent(more.pop("kind", "track"), "m1", "web", at, more.pop("received_at", 5_000), **more)


# Tombstones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "refused"), [(0, True), (999, True), (1_000, True), (1_001, False)])
def test_only_what_happened_before_is_refused(at, refused):
    stones = tombstones(ANNA)
    assert stones.refuses(ANNA, at) is refused
    assert (stones.admitted(event(at, user_id=ANNA)) is None) is refused
    assert not stones.refuses("berta", at)


def test_what_arrived_before_is_refused_whatever_its_own_clock_says():
    assert tombstones(ANNA).admitted(event(9_000, received_at=1_000, user_id=ANNA)) is None


async def test_a_link_token_says_what_was_so_when_it_was_made():
    """Redeemed within its ten minutes, but after the erasure, it would bring visitor and account back."""
    later = 2 * ERASED_AT
    token, fresh = (Link("n" * 16, "web", "visitor", at, 10_000, ANNA) for at in (ERASED_AT, ERASED_AT + 1))
    door = GuardedJournal(_Counting(), tombstones(ANNA))
    assert await door.append_events([event(later, kind="link", device_id=DEVICE, link=fresh)]) == 1
    for more in ({"device_id": DEVICE}, {"device_id": DEVICE, "user_id": "berta", "proven": True}):
        with pytest.raises(Refusal, match="show a new code"):
            await door.append_events([event(later, kind="link", link=token, **more)])


class _Counting:
    async def append_events(self, events, encoded=None, *, still=None):
        return len(events)


def test_a_later_erasure_of_the_same_person_refuses_what_came_between():
    stones = tombstones(ANNA)
    stones.learn({KEYS.digest(ANNA): 3_000}, "r2")
    assert stones.refuses(ANNA, 2_000)
    assert not stones.refuses(ANNA, 3_001)


def test_addresses_are_one_in_any_case_and_other_names_are_not():
    stones = tombstones(MAIL, "Anna")
    assert stones.refuses(" ANNA@Example.COM ", 1)
    assert not stones.refuses("anna", 1)


def test_without_a_secret_nothing_is_refused():
    assert Tombstones().admitted(event(user_id=ANNA)) is not None


@pytest.mark.parametrize(
    "about_her",
    [
        {"user_id": ANNA, "proven": True},
        {"user_id": ANNA},
        {"user_id": ANNA, "anonymous_id": "stranger"},
        {"anonymous_id": "stranger", "device_id": DEVICE},
        {"anonymous_id": "stranger", "user_id": "berta", "device_id": DEVICE},  # nobody vouches for berta
        {"anonymous_id": "stranger", "push_address": PushAddress("token", TOKEN)},
        {"anonymous_id": "stranger", "traits": {"email": MAIL.upper()}},
        {"anonymous_id": "stranger", "external_ids": [ExternalId("email", MAIL)]},
        {"kind": "alias", "anonymous_id": "stranger", "previous_id": ANNA},
        {"kind": "device", "anonymous_id": "stranger", "beacon_key": TAG},
        {"kind": "link", "link": Link("n" * 16, "web", "stranger", 1, 2, user_id=ANNA)},
    ],
    ids=str,
)
def test_what_is_hers_is_refused(about_her):
    assert tombstones(ANNA, MAIL, DEVICE, TOKEN, TAG).admitted(event(**about_her)) is None


async def test_bytes_tell_no_more_than_their_event():
    """Where the bridge has an event's bytes the journal keeps these; one that lost something has others."""
    kept = []

    class Keeping:
        async def append_events(self, events, encoded=None, *, still=None):
            kept.append((list(events), encoded))
            return len(events)

    door = GuardedJournal(Keeping(), tombstones(ANNA, DEVICE))
    hers, other = event(user_id=ANNA), event(user_id="berta")
    shared = event(user_id="berta", proven=True, device_id=DEVICE)
    for events in ([other], [shared, other], [other, hers], [hers]):
        await door.append_events(events, encode_each(events))
    assert kept == [
        ([other], encode_each([other])),
        ([msgspec.structs.replace(shared, device_id=None), other], None),
        ([other], None),
    ]


def test_of_others_events_only_her_part_goes():
    told = event(
        user_id="berta",
        proven=True,
        anonymous_id="visitor-b",
        device_id=DEVICE,
        push_address=PushAddress("token", TOKEN),
        beacon_key=TAG,
        previous_id=ANNA,
        external_ids=[ExternalId("email", MAIL), ExternalId("phone", "+431")],
        traits={"email": MAIL, "partner": [MAIL, 1]},
        properties={"to": f"<{MAIL}>", "n": 4},
        context={"device": {"id": DEVICE, "token": TOKEN}},
    )
    kept = tombstones(ANNA, MAIL, DEVICE, TOKEN, TAG).admitted(told)
    assert kept is not None
    assert (kept.user_id, kept.anonymous_id) == ("berta", "visitor-b")
    assert (kept.device_id, kept.push_address, kept.beacon_key, kept.previous_id) == (None, None, None, None)
    assert [one.id for one in kept.external_ids] == ["+431"]
    assert kept.properties == {"to": ERASED, "n": 4}
    text = json.dumps(msgspec.to_builtins(kept))
    assert not any(name in text for name in (ANNA, MAIL, DEVICE, TOKEN, TAG))


@given(st.sets(st.sampled_from([ANNA, MAIL, DEVICE, TOKEN, TAG])), st.integers(0, 2_000), st.booleans())
def test_no_admitted_event_of_the_past_names_anybody_erased(erased, at, proven):
    told = event(
        at, user_id="berta", proven=proven, device_id=DEVICE, previous_id=ANNA, beacon_key=TAG,
        push_address=PushAddress("token", TOKEN), traits={"email": MAIL},
    )  # fmt: skip
    kept = tombstones(*erased).admitted(told)
    if at > ERASED_AT or not erased:
        assert kept is told
    elif kept is not None:
        assert erased.isdisjoint(names_in(kept))


def test_the_digest_is_keyed():
    assert KEYS.digest(ANNA) != ErasureKeys(b"x" * 32).digest(ANNA)
    assert len(KEYS.digest(ANNA)) == 32


def test_what_is_left_to_do_can_be_read_with_the_secret_only():
    sealed = KEYS.sealed(b"anna", b"n" * 12)
    assert KEYS.opened(sealed) == b"anna"
    assert b"anna" not in sealed
    with pytest.raises(SealBroken):
        ErasureKeys(b"x" * 32).opened(sealed)


# Traces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "telling"), [("42", False), ("anna", False), ("a@b.c", True), ("12345678", True)]
)
def test_which_names_are_telling(name, telling):
    assert is_telling(name) is telling


names = st.one_of(
    st.sampled_from(
        [ANNA, MAIL, "gästebuch-ännchen", 'odd "name" \\ here', "日本の利用者さん七八", "emoji-😀-name"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=8, max_size=20).filter(
        lambda text: text == text.strip()
    ),
)


@given(names)
def test_a_telling_name_is_found_in_every_form(name):
    traces = Traces([name])
    forms = {
        "plain": f"x{name}y".encode(),
        "json": json.dumps({"a": [name]}).encode(),
        "json, unescaped": msgspec.json.encode({"a": [name]}),
        "json, all escaped": b'"' + b"".join(b"\\u%04x" % unit for unit in units(name)) + b'"',
        "msgpack": msgspec.msgpack.encode({"a": name}),
        "cut off": msgspec.msgpack.encode([1, name, "rest"])[:-3],
    }
    for form, payload in forms.items():
        assert traces.in_payload(payload), form
    assert traces.in_rows(msgspec.msgpack.encode({"x": name}))
    assert traces.in_rows(msgspec.json.encode({"x": name}))


@pytest.mark.parametrize("written", [str.lower, str.upper, str.title])
def test_a_telling_name_is_found_in_any_case_of_any_letter(written):
    traces = Traces(["ärger.öztürk@example.org"])
    told = {"friend": written("ärger.öztürk@example.org")}
    assert traces.in_rows(msgspec.msgpack.encode(told))
    assert traces.in_payload(json.dumps(told).encode())


def units(text: str) -> list[int]:
    raw = text.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"userId":"42"}', True), (b'{"user_id" : 42 }', True), (b'{"anonymousId":"42","x":1}', True),
        (b'{"deviceId":"42"}', True), (b'[{"email":"42"}]', True),
        (b'{"size":"42"}', False), (b'{"userId":"421"}', False), (b'{"userId":"142"}', False), (b"42", False),
        (msgspec.msgpack.encode({"user_id": "42"}), True), (msgspec.msgpack.encode({"size": "42"}), False),
        (msgspec.msgpack.encode({"user_id": "421"}), False),
    ],
)  # fmt: skip
def test_a_short_name_counts_only_where_an_identifier_stands(payload, found):
    assert Traces(["42"]).in_payload(payload) is found


@given(st.binary(max_size=200))
def test_no_bytes_break_the_search(payload):
    Traces([ANNA, "42"]).in_payload(payload)
    assert Traces([]).in_payload(payload) is False


def test_what_is_not_looked_for():
    """Known and documented: nobody finds what was packed or encoded once more."""
    assert not Traces([MAIL]).in_payload(base64.b64encode(MAIL.encode()))


def test_blacking_out_leaves_the_rest_alone():
    told = {"a": [MAIL, 1, None, True], "b": {"c": f"to {MAIL.upper()}!", MAIL: 2}, "size": "42", "n": 42}
    assert scrubbed(told, frozenset({MAIL, "x42"})) == {
        "a": [ERASED, 1, None, True], "b": {"c": ERASED, ERASED: 2}, "size": "42", "n": 42,
    }  # fmt: skip


# The secret's file ------------------------------------------------------------------------------------------


def test_the_secret_is_made_once_and_for_its_owner(tmp_path):
    path = tmp_path / "new" / "erasure.key"
    make_secret(path, b"s" * 32)
    assert read_secret(path) == b"s" * 32
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SecretUnusable):
        make_secret(path, b"t" * 32)
    assert read_secret(path) == b"s" * 32


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab" * 31, b"ab" * 500])
def test_a_damaged_secret_is_refused(tmp_path, content):
    path = tmp_path / "erasure.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SecretUnusable, match="64 hexadecimal digits"):
        read_secret(path)


def test_a_secret_that_others_may_read_or_that_is_gone_is_refused(tmp_path):
    path = tmp_path / "erasure.key"
    with pytest.raises(SecretUnusable, match="No such file"):
        read_secret(path)
    path.write_text("ab" * 32)
    path.chmod(0o640)
    with pytest.raises(SecretUnusable, match="open to other users"):
        read_secret(path)


async def test_a_database_has_one_secret(state):
    assert not await state.read(erasure.has_key)
    assert await state.write(lambda s: erasure.is_key(s, KEYS))
    assert await state.write(lambda s: erasure.is_key(s, KEYS))
    assert await state.read(erasure.has_key)
    assert not await state.write(lambda s: erasure.is_key(s, ErasureKeys(b"x" * 32)))
    stones = Tombstones(KEYS.digest)
    await state.read(lambda s: erasure.catch_up(s, stones))
    assert stones.newest == -1


def test_of_two_processes_that_make_a_secret_the_first_ones_counts(tmp_path):
    path = tmp_path / "erasure.key"

    def while_another_is_faster() -> bytes:
        make_secret(path, b"t" * 32)
        return b"s" * 32

    assert kept_secret(path, while_another_is_faster) == b"t" * 32
    assert kept_secret(path, while_another_is_faster) == b"t" * 32
    with pytest.raises(SecretUnusable):
        kept_secret(tmp_path / "erasure.key" / "none", lambda: b"s" * 32)
