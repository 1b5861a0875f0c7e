"""A profile has a bounded number of traits, and in whatever order its events came, the same ones."""

import itertools
import random
from functools import partial

import pytest

from backend.profiles import memory
from backend.profiles.model import MAX_TRAIT_BYTES, MAX_TRAIT_NAME
from backend.profiles.service import Numbered, ProfileService
from backend.storage import profile_rows, profiles
from backend.storage.profile_rows import ProfileRows
from sdk_bridge.wire.app_events import AppEvent

MOST = 3
NAMES = ("a", "b", "B", "c", "email", "ä", "z", "\N{GRINNING FACE}")
SERVICE = ProfileService()


def said(number: int, at: int, traits: dict) -> Numbered:
    event = AppEvent("identify", f"m{number}", "shop", at, at, user_id="anna", proven=True, traits=traits)
    return Numbered(event, number, number * 7919 % 13)


def life(chance: random.Random) -> list[Numbered]:
    """Often several at one moment, names said again and again, some taken back."""
    return [
        said(
            number,
            chance.randrange(6),
            {name: chance.choice([None, number, "x" * number]) for name in chance.sample(NAMES, 2)},
        )
        for number in range(chance.randrange(1, 14))
    ]


def expected(events: list[Numbered]) -> dict[str, object]:
    """The newest statement of each name; of those an address and the newest, of one moment by their names."""
    newest = {}
    for event, _, event_hash in events:
        for name, value in event.traits.items():
            newest[name] = max(
                newest.get(name, (-1, -1, None)),
                (event.occurred_at, event_hash, value),
                key=lambda one: one[:2],
            )
    ranked = sorted(
        newest, key=lambda name: (name != "email", -newest[name][0], -newest[name][1], name.encode())
    )
    return {name: newest[name][2] for name in ranked[:MOST]}


def tell(session, events: list[Numbered], portion: int) -> None:
    """Some events in each flush, each flush knowing nothing of the last."""
    numbers = itertools.count()
    for start in range(0, len(events), portion):
        rows = ProfileRows(session)
        SERVICE.apply_all(rows, events[start : start + portion], lambda: f"p{next(numbers)}")
        rows.flush()


def heard(events: list[Numbered], portion: int, session) -> tuple[dict, int]:
    """A new life: the person's traits, and how many rows they are."""
    forget(session)
    tell(session, events, portion)
    return profiles.traits_of(session, "p0"), len(session.found("select name from traits", {}))


def forget(session) -> None:
    for table in ("traits", "profiles", "identity_edges"):
        session.found(f"delete from {table} returning 1", {})


@pytest.fixture
def three_traits(monkeypatch):
    for module in (memory, profile_rows):
        monkeypatch.setattr(module, "MAX_TRAITS", MOST)


@pytest.mark.usefixtures("three_traits")
async def test_the_same_traits_stay_in_whatever_order_events_come(state):
    for seed in range(60):
        chance = random.Random(seed)
        events = life(chance)
        wanted = {name: value for name, value in expected(events).items() if value is not None}
        for _ in range(3):
            chance.shuffle(events)

            found, kept = await state.write(partial(heard, events, chance.randrange(1, 6)))
            assert (found, kept) == (wanted, len(expected(events))), seed


@pytest.mark.usefixtures("three_traits")
async def test_what_is_left_out_is_counted_and_takes_nothing_else_along(state):
    long_name, long_value = "n" * (MAX_TRAIT_NAME + 1), "v" * MAX_TRAIT_BYTES
    events = [
        said(1, 1, {"a": 1, "b": 1, "c": 1, "d": 1, long_name: 1}),
        said(2, 2, {"e": 2, "a": long_value}),
    ]

    def hear(session):
        rows, numbers = ProfileRows(session), itertools.count()
        for event in events:
            SERVICE.apply_all(rows, [event], lambda: f"p{next(numbers)}")
            rows.flush()
        return profiles.traits_of(session, "p0"), rows.traits_left_out

    assert await state.write(hear) == ({"a": 1, "b": 1, "e": 2}, 4), "d, the long name, the long value, c"
