"""What a marketer writes down as an audience: a tree of typed conditions, checked as a whole."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from backend.profiles.model import TRUST
from backend.profiles.spelling import as_kept
from backend.segments.rfm import NAMES

MAX_BYTES = 64 * 1024  # of a definition; it is read and compiled wherever the fold starts
MAX_DEPTH = 8  # nobody reads deeper nesting, and every person is asked through all of it
MAX_NODES = 100  # conditions and filters; each is a subquery over the whole base
MAX_DAYS = 5 * 366
LONGEST_S = MAX_DAYS * 86_400
MAX_COUNT = 1_000  # so many newest events of a person are looked at for one count
EACH = "[]"
"""In a path: any element of the list there."""

Identifier: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
Key: TypeAlias = Annotated[str, Meta(min_length=1, max_length=512)]
Text: TypeAlias = Annotated[str, Meta(max_length=512)]
Number: TypeAlias = Annotated[float, Meta(ge=-1e15, le=1e15)]
Literals: TypeAlias = Text | Number | bool
Path: TypeAlias = Key | Annotated[tuple[Key, ...], Meta(min_length=1, max_length=8)]
"""A name, or the way to a value inside: ["address", "city"], ["products", "[]", "category"]."""
Seconds: TypeAlias = Annotated[int, Meta(ge=1, le=LONGEST_S)]
Days: TypeAlias = Annotated[int, Meta(ge=-MAX_DAYS, le=MAX_DAYS)]
Day: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$(?!\n)")]
Score: TypeAlias = Annotated[int, Meta(ge=1, le=5)]
EventKind: TypeAlias = Literal["track", "page", "screen", "identify", "group", "any"]
ANY_KIND = ("track", "page", "screen", "identify", "group")
"""What people do; what their devices report in passing is no sign of interest."""


IDENTIFIERS: tuple[str, ...] = (*TRUST, "beacon")
"""What people are known by."""


class SegmentInvalid(ValueError):
    """The definition cannot be used; the text names the node, and what it may be."""


class _Node(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the tree; `type` in the JSON says which."""


# What may be asked of one value -----------------------------------------------------------------------------


class Exists(_Node, frozen=True, tag="exists"):
    """There is a value, and it is not null."""


class Is(_Node, frozen=True, tag="is"):
    """The same value of the same type: a text character by character, a number as a number, true or false."""

    value: Literals


class OneOf(_Node, frozen=True, tag="one_of"):
    """Any of these values."""

    values: Annotated[tuple[Literals, ...], Meta(min_length=1, max_length=200)]


class Contains(_Node, frozen=True, tag="contains"):
    """A text with this text in it. `ignore_case` takes A–Z for a–z, and no other letters."""

    text: Annotated[str, Meta(min_length=1, max_length=512)]
    ignore_case: bool = False


class NumberIs(_Node, frozen=True, tag="number"):
    """A number within all the bounds given."""

    at_least: Number | None = None
    at_most: Number | None = None
    more_than: Number | None = None
    less_than: Number | None = None


class DateIs(_Node, frozen=True, tag="date"):
    """A text that begins with a date, `2025-06-16…`, on a day from `since` to `until`, both included."""

    since: Day | None = None
    until: Day | None = None


class DaysAgo(_Node, frozen=True, tag="days_ago"):
    """A text that begins with a date so many days before today (UTC); negative days are yet to come."""

    at_least: Days | None = None
    at_most: Days | None = None


Test: TypeAlias = Exists | Is | OneOf | Contains | NumberIs | DateIs | DaysAgo


class Filter(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a property of an event has to be, or with `negate` must not be; absent is not anything."""

    property: Path
    test: Test = Exists()
    negate: bool = False


# What may be asked of a person ------------------------------------------------------------------------------


class AllOf(_Node, frozen=True, tag="all"):
    """Every one of these."""

    of: Annotated[tuple["Condition", ...], Meta(min_length=1, max_length=MAX_NODES)]


class AnyOf(_Node, frozen=True, tag="any"):
    """At least one of these."""

    of: Annotated[tuple["Condition", ...], Meta(min_length=1, max_length=MAX_NODES)]


class Not(_Node, frozen=True, tag="not"):
    """Everybody else."""

    of: "Condition"


class HasTrait(_Node, frozen=True, tag="trait"):
    """The person's trait passes the test; of a path, the first part is the trait's name."""

    name: Path
    test: Test = Exists()


class HasIdentifier(_Node, frozen=True, tag="identifier"):
    """The person is known by such an identifier, or by one of the values given."""

    kind: Annotated[str, Meta(max_length=64)]
    one_of: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=512)], ...], Meta(max_length=200)
    ] = ()

    def __post_init__(self) -> None:
        """The values as people are known by them, however the marketer spells an address."""
        kept = tuple(as_kept(self.kind, value) for value in self.one_of)
        msgspec.structs.force_setattr(self, "one_of", kept)


class Agreed(_Node, frozen=True, tag="consent"):
    """The person agrees to a purpose; silence is no."""

    purpose: Annotated[str, Meta(min_length=1, max_length=64)]


class Did(_Node, frozen=True, tag="event"):
    """The person did something, so many times, within so many seconds until now; did not: `at_most` 0.

    `name` is the tracked event's, the page's or the screen's; without one any. `kind` `any` is whatever
    people do.
    """

    name: Key | None = None
    kind: EventKind = "track"
    at_least: Annotated[int, Meta(ge=0, le=MAX_COUNT)] | None = None
    at_most: Annotated[int, Meta(ge=0, le=MAX_COUNT)] | None = None
    within_s: Seconds | None = None
    where: Annotated[tuple[Filter, ...], Meta(max_length=10)] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        return ANY_KIND if self.kind == "any" else (self.kind,)

    @property
    def least(self) -> int:
        """The lowest count that will do: one, unless a bound is given."""
        if self.at_least is not None:
            return self.at_least
        return 1 if self.at_most is None else 0

    def since(self, now: int) -> int | None:
        """What happened after this counts, unix milliseconds; None: ever."""
        return None if self.within_s is None else now - self.within_s * 1000


class IsIn(_Node, frozen=True, tag="in"):
    """The person is in this store now, or in this zone of it."""

    store_id: Identifier
    zone_id: Identifier | None = None


class IsNear(_Node, frozen=True, tag="near"):
    """The person is inside a geofence now; or in a store, or inside any geofence around it."""

    fence_id: Identifier | None = None
    store_id: Identifier | None = None


class Dwelt(_Node, frozen=True, tag="dwelt"):
    """The person spent so long in zones of a category, in a store, or in one zone, all stays together."""

    at_least_s: Seconds
    category: Key | None = None
    store_id: Identifier | None = None
    zone_id: Identifier | None = None
    within_s: Seconds | None = None

    def since(self, now: int) -> int | None:
        """The stay after this counts, unix milliseconds; None: ever."""
        return None if self.within_s is None else now - self.within_s * 1000


class Between(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A score from 1 to 5."""

    at_least: Score = 1
    at_most: Score = 5


class HasRfm(_Node, frozen=True, tag="rfm"):
    """The person's scores of recency, frequency and money; of the names, any."""

    names: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=20)] = ()
    recency: Between = Between()
    frequency: Between = Between()
    monetary: Between = Between()


class InSegment(_Node, frozen=True, tag="segment"):
    """The person is in another segment."""

    segment_id: Identifier


Condition: TypeAlias = (
    AllOf | AnyOf | Not | HasTrait | HasIdentifier | Agreed | Did | IsIn | IsNear | Dwelt | HasRfm | InSegment
)


class Definition(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A segment as it is saved: how people call it, and who belongs to it."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    condition: Condition
    description: Annotated[str, Meta(max_length=2000)] = ""


# Reading and checking ---------------------------------------------------------------------------------------


class HasCondition(Protocol):
    """Whatever comes with a condition."""

    @property
    def condition(self) -> Condition: ...


C = TypeVar("C", bound=HasCondition)


def parse_definition(body: bytes) -> Definition:
    """A segment from JSON, checked as a whole. Raises SegmentInvalid."""
    return parse_as(body, Definition)


def parse_as(body: bytes, kind: type[C]) -> C:
    """Something with a condition from JSON, the condition checked as a whole. Raises SegmentInvalid."""
    read: C = _decoded(body, kind)
    check(read.condition)
    return read


def parse_condition(body: bytes) -> Condition:
    """A condition alone, checked as a whole. Raises SegmentInvalid."""
    condition: Condition = _decoded(body, Condition)
    check(condition)
    return condition


def check(condition: Condition) -> None:
    """What the types cannot say: size, and fields that need each other. Raises SegmentInvalid."""
    nodes = 0
    for path, depth, node in walk(condition):
        nodes += 1 + (len(node.where) if isinstance(node, Did) else 0)
        if depth > MAX_DEPTH:
            raise SegmentInvalid(f"{path}: conditions may nest {MAX_DEPTH} deep")
        if nodes > MAX_NODES:
            raise SegmentInvalid(f"{path}: a segment may have {MAX_NODES} conditions and filters in all")
        for where, complaint in _complaints(node):
            raise SegmentInvalid(f"{path}.{where}: {complaint}" if path else f"{where}: {complaint}")


def walk(condition: Condition, path: str = "", depth: int = 1) -> Iterator[tuple[str, int, Condition]]:
    """Every node with its path and depth, from the top."""
    yield path, depth, condition
    dot = "." if path else ""
    if isinstance(condition, Not):
        yield from walk(condition.of, f"{path}{dot}not", depth + 1)
    elif isinstance(condition, AllOf | AnyOf):
        word = "all" if isinstance(condition, AllOf) else "any"
        for index, child in enumerate(condition.of):
            yield from walk(child, f"{path}{dot}{word}[{index}]", depth + 1)


def nodes_of(condition: Condition) -> Iterator[Condition]:
    """Every node, from the top."""
    return (node for _, _, node in walk(condition))


def references(condition: Condition) -> frozenset[str]:
    """The segments that a condition asks for."""
    return frozenset(node.segment_id for node in nodes_of(condition) if isinstance(node, InSegment))


class Named(NamedTuple):
    """A store, a zone (`key` is its store and itself), a geofence or a segment that somebody has to set up.

    `where` is the field that names it.
    """

    where: str
    kind: Literal["store", "zone", "fence", "segment"]
    key: tuple[str, ...]


def named_by(condition: Condition, root: str = "") -> Iterator[Named]:
    """All that a condition names; an audience that hangs on what is not there would stay empty."""
    for path, _, node in walk(condition, root):
        yield from named_in(node, f"{path}." if path else "")


def named_in(part: Struct, prefix: str) -> Iterator[Named]:
    """What a condition or a trigger names by `store_id`, `zone_id`, `fence_id` and `segment_id`."""
    store_id, zone_id = getattr(part, "store_id", None), getattr(part, "zone_id", None)
    if store_id is not None:
        yield Named(f"{prefix}store_id", "store", (store_id,))
    if store_id is not None and zone_id is not None:
        yield Named(f"{prefix}zone_id", "zone", (store_id, zone_id))
    fence_id, segment_id = getattr(part, "fence_id", None), getattr(part, "segment_id", None)
    if fence_id is not None:
        yield Named(f"{prefix}fence_id", "fence", (fence_id,))
    if segment_id is not None:
        yield Named(f"{prefix}segment_id", "segment", (segment_id,))


def ring_of(segment_id: str, asks_for: Mapping[str, frozenset[str]]) -> list[str] | None:
    """The way from a segment back to itself, by who asks for whom; None where there is none."""
    ways = [[segment_id]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for other in sorted(asks_for.get(way[-1], frozenset())):
            if other == segment_id:
                return [*way, other]
            if other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return None


def in_order(asks_for: Mapping[str, frozenset[str]]) -> list[str]:
    """The segments, each after those that it asks for; what a ring holds comes in any order."""
    ordered: dict[str, None] = {}

    def visit(segment_id: str, above: frozenset[str]) -> None:
        if segment_id in ordered or segment_id in above or segment_id not in asks_for:
            return
        for other in sorted(asks_for[segment_id]):
            visit(other, above | {segment_id})
        ordered[segment_id] = None

    for segment_id in sorted(asks_for):
        visit(segment_id, frozenset())
    return list(ordered)


def parts_of(path: Path) -> tuple[str, ...]:
    """A path's keys; a name alone is a path of one."""
    return (path,) if isinstance(path, str) else path


def _complaints(node: Condition) -> Iterator[tuple[str, str]]:
    """The field and what is wrong with it."""
    if isinstance(node, Did):
        yield from _complaints_of_event(node)
    elif isinstance(node, Dwelt):
        places = [node.category is not None, node.store_id is not None]
        if sum(places) != 1:
            yield "category", "name either a category, or a store"
        if node.zone_id is not None and node.store_id is None:
            yield "store_id", "a zone needs its store"
    elif isinstance(node, IsNear):
        if (node.fence_id is None) == (node.store_id is None):
            yield "fence_id", "name either a geofence, or a store"
    elif isinstance(node, HasTrait):
        yield from _complaints_of_path(node.name, "name")
        if parts_of(node.name)[0] == EACH:
            yield "name", f"a trait's name cannot be {EACH}"
        yield from _complaints_of_test(node.test, "test")
    elif isinstance(node, HasIdentifier) and node.kind not in IDENTIFIERS:
        yield "kind", f"it may be {', '.join(IDENTIFIERS)}"
    elif isinstance(node, HasRfm):
        yield from _complaints_of_scores(node)


def _complaints_of_scores(node: HasRfm) -> Iterator[tuple[str, str]]:
    """A name that no cell has would make an audience that stays empty, and nobody would know why."""
    for index, name in enumerate(node.names):
        if name not in NAMES:
            yield f"names[{index}]", f"it may be {', '.join(NAMES)}"
    for score in ("recency", "frequency", "monetary"):
        asked: Between = getattr(node, score)
        if asked.at_most < asked.at_least:
            yield f"{score}.at_most", f"must not be less than at_least, {asked.at_least}"


def _complaints_of_event(node: Did) -> Iterator[tuple[str, str]]:
    if node.name is None and node.kind == "track":
        yield "name", "a tracked event needs its name"
    if node.least == 0 and node.at_most is None:
        yield "at_least", "0 or more is true of everybody; say at_most, or at_least 1"
    if node.at_most is not None and node.at_most < node.least:
        yield "at_most", f"must not be less than at_least, {node.least}"
    yield from _complaints_of_filters(node.where)


def check_filters(where: Sequence[Filter], root: str) -> None:
    """The same of filters that stand alone, as in a campaign's trigger. Raises SegmentInvalid."""
    for field, complaint in _complaints_of_filters(where):
        raise SegmentInvalid(f"{root}.{field}: {complaint}")


def _complaints_of_filters(where: Sequence[Filter]) -> Iterator[tuple[str, str]]:
    for index, asked in enumerate(where):
        yield from _complaints_of_path(asked.property, f"where[{index}].property")
        yield from _complaints_of_test(asked.test, f"where[{index}].test")
        if isinstance(asked.test, DaysAgo):
            yield f"where[{index}].test", "days_ago is for traits; conditions on events have within_s"


_UNASKABLE = re.compile(r'["\\\x00-\x1f]')  # JSON writes them escaped, and SQLite compares what is written


def _complaints_of_path(path: Path, where: str) -> Iterator[tuple[str, str]]:
    parts = parts_of(path)
    if any(_UNASKABLE.search(part) for part in parts):
        yield where, "a key may hold neither quotation marks, backslashes nor control characters"
    if parts.count(EACH) > 1 or parts[0] == EACH:
        yield where, f"{EACH} may stand once, behind the list's name"


def _complaints_of_test(test: Test, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(test, NumberIs | DateIs | DaysAgo):
        if all(getattr(test, bound) is None for bound in test.__struct_fields__):
            yield where, f"say at least one of {', '.join(test.__struct_fields__)}"
        least, most = ("since", "until") if isinstance(test, DateIs) else ("at_least", "at_most")
        low, high = getattr(test, least), getattr(test, most)
        if low is not None and high is not None and high < low:
            yield f"{where}.{most}", f"must not be less than {least}, {low}"
        if isinstance(test, NumberIs):
            yield from _complaints_of_open_bounds(test, where)
        if isinstance(test, DateIs):
            yield from _complaints_of_days(test, where)
    elif any("\0" in text for text in _texts(test)):
        yield where, "a text may not hold U+0000"


def _complaints_of_days(test: DateIs, where: str) -> Iterator[tuple[str, str]]:
    for bound in ("since", "until"):
        day = getattr(test, bound)
        if day is not None and not _is_day(day):
            yield f"{where}.{bound}", f"no calendar has the day {day}"


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


_OPEN = (("at_least", "less_than"), ("more_than", "at_most"), ("more_than", "less_than"))
"""Bounds that leave nothing between them even where they are equal."""


def _complaints_of_open_bounds(test: NumberIs, where: str) -> Iterator[tuple[str, str]]:
    for least, most in _OPEN:
        low, high = getattr(test, least), getattr(test, most)
        if low is not None and high is not None and high <= low:
            yield f"{where}.{most}", f"must be more than {least}, {low}"


def _texts(test: Test) -> list[str]:
    if isinstance(test, Contains):
        return [test.text]
    values = test.values if isinstance(test, OneOf) else (test.value,) if isinstance(test, Is) else ()
    return [value for value in values if isinstance(value, str)]


# Errors in the words of the tree ----------------------------------------------------------------------------

_AT = re.compile(r"(?P<text>.*) - at `\$(?P<path>.*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>\w+)|\[(?P<index>\d+|\.\.\.)\]")
_TYPES = ", ".join(sorted(kind.__struct_config__.tag for kind in Condition.__args__))
_TESTS = ", ".join(sorted(kind.__struct_config__.tag for kind in Test.__args__))


def _decoded(body: bytes, kind: Any) -> Any:
    if len(body) > MAX_BYTES:
        raise SegmentInvalid(f"a definition may have {MAX_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise SegmentInvalid(_told(error, body)) from error


def _told(error: Exception, body: bytes) -> str:
    """A wrong type is told by its node, unless what stands behind it is no JSON at all: then that is told."""
    if not isinstance(error, msgspec.ValidationError):
        return str(error)
    try:
        return _in_our_words(str(error), body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as worse:
        return str(worse)


def _in_our_words(complaint: str, body: bytes) -> str:
    """`Expected … - at `$.condition.of[1].within_s`` becomes `all[1].within_s: expected …`."""
    found = _AT.fullmatch(complaint)
    if found is None:
        return _small(complaint)
    node: Any = msgspec.json.decode(body)
    words: list[str] = []
    for step in _STEP.finditer(found["path"]):
        if step["index"] is not None:
            words.append(f"[{step['index']}]")
        elif step["key"] == "of" and isinstance(node, dict):
            words.append(f".{node.get('type')}")
        elif words or step["key"] != "condition":
            words.append(f".{step['key']}")
        node = _below(node, step)
    text = _small(found["text"])
    if not words and found["path"]:
        return f"condition: {text}"  # a definition has a name of its own, which this may not be about
    where = "".join(words).lstrip(".")
    if where.endswith("test.type"):
        text += f"; it may be {_TESTS}"
    elif where == "type" or where.endswith("].type") or where.endswith("not.type"):
        text += f"; it may be {_TYPES}"
    return f"{where}: {text}" if where else text


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _below(node: Any, step: re.Match[str]) -> Any:
    if step["key"] is not None:
        return node.get(step["key"]) if isinstance(node, dict) else None
    index = step["index"]
    if isinstance(node, list) and index.isdigit() and int(index) < len(node):
        return node[int(index)]
    return None
