"""A segment's condition as SQL over many people at once; says the same as segments/predicate.py.

The one text is read by SQLite and, through storage/postgres (numbered parameters, `sqlite_words.sql`), by
PostgreSQL. Values are bound, never written into it. What it takes of the dialects: `json_each`, `json_type`,
`json_extract`, `instr`; numbers are cast to `real`, whatever JSON wrote them as.
"""
# ruff: noqa: S608 - it is put together from our own words; whatever comes from outside is bound

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeAlias

import msgspec

from backend.catalog.shelves import are_related
from backend.profiles.model import IDENTIFIED
from backend.segments.model import (
    EACH,
    Agreed,
    AllOf,
    AnyOf,
    Between,
    Condition,
    Contains,
    DateIs,
    DaysAgo,
    Did,
    Dwelt,
    Exists,
    Filter,
    HasIdentifier,
    HasRfm,
    HasTrait,
    InSegment,
    Is,
    IsIn,
    IsNear,
    Not,
    NumberIs,
    OneOf,
    Path,
    Test,
    nodes_of,
    parts_of,
)
from backend.segments.values import lowest_and_highest_day, today_of

EVER = -(1 << 62)
"""Before anything that ever happened, unix milliseconds."""
_NOBODY = "0 = 1"
_IDENTIFIED = f"({', '.join(repr(id_type) for id_type in sorted(IDENTIFIED))})"

_PEOPLE = """
with recursive
  people (person_id) as (select value from json_each(cast({people} as text))),
  tree (person_id, profile_id, attach_from, attach_until) as (
    select p.profile_id, p.profile_id, p.attach_from, p.attach_until
    from people join profiles p on p.profile_id = people.person_id
    union all
    select tree.person_id, p.profile_id, p.attach_from, p.attach_until
    from tree join profiles p on p.merged_into = tree.profile_id)
"""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A statement and the values of its parameters."""

    sql: str
    values: dict[str, Any]


def members_sql(
    condition: Condition, people: Iterable[str], now: int, categories: Collection[str]
) -> Compiled:
    """Asks a condition of people, given by the ids of their roots. `categories`: all that zones have.

    A row for each: `person_id`; `member` 1 or 0; `restless` 1 where time alone may change the answer.
    """
    build = _Builder(now, categories)
    head = _PEOPLE.format(people=build.bind(msgspec.json.encode(list(people)).decode()))
    member = f"case when {build.sql(condition)} then 1 else 0 end"
    restless = f"case when {build.restless(condition)} then 1 else 0 end"
    sql = f"{head}select r.person_id, {member} as member, {restless} as restless from people r"
    return Compiled(sql, build.values)


@dataclass(slots=True)
class _Builder:
    """Collects the values while the text is made."""

    now: int
    categories: Collection[str]
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def _today(self) -> date:
        return today_of(self.now)

    def bind(self, value: Any) -> str:
        """The parameter that stands for a value."""
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def _text(self, value: str) -> str:
        return f"cast({self.bind(value)} as text)"

    def _whole(self, value: int) -> str:
        return f"cast({self.bind(value)} as integer)"

    # Conditions -------------------------------------------------------------------------------------------

    def sql(self, node: Condition) -> str:
        """True for the person `r.person_id`; never null."""
        return _CONDITIONS[type(node)](self, node)

    def restless(self, condition: Condition) -> str:
        """True where a part that time changes found something to count."""
        parts = [_RESTLESS[type(node)](self, node) for node in nodes_of(condition) if type(node) in _RESTLESS]
        return _joined(" or ", [part for part in parts if part is not None]) or _NOBODY

    def all_of(self, node: AllOf) -> str:
        return _joined(" and ", [self.sql(child) for child in node.of])

    def any_of(self, node: AnyOf) -> str:
        return _joined(" or ", [self.sql(child) for child in node.of])

    def not_(self, node: Not) -> str:
        return f"not {self.sql(node.of)}"

    def trait(self, node: HasTrait) -> str:
        """The newest that an identified profile said, else the newest."""
        name, *rest = parts_of(node.name)
        ranked = f"""select t.person_id, v.value, row_number() over (partition by t.person_id order by
            case when p.id_type in {_IDENTIFIED} then 1 else 0 end desc,
            v.occurred_at desc, v.event_hash desc, v.profile_id) as place
          from tree t cross join profiles p cross join traits v
          where p.profile_id = t.profile_id and v.profile_id = t.profile_id and v.name = {self._text(name)}
            and v.occurred_at between t.attach_from and t.attach_until"""
        test = self.at_path("w.value", tuple(rest), node.test)
        return f"r.person_id in (select w.person_id from ({ranked}) w where w.place = 1 and {test})"

    def identifier(self, node: HasIdentifier) -> str:
        wanted = ""
        if node.one_of:
            listed = ", ".join(self._text(value) for value in node.one_of)
            wanted = f" and i.id in ({listed})"
        known = "identity_edges" if node.kind == "beacon" else "profiles"
        lasting = " and i.valid_to is null" if node.kind == "beacon" else ""
        return f"""r.person_id in (select t.person_id from tree t cross join {known} i
          where i.profile_id = t.profile_id{lasting}
            and i.id_type = {self._text(node.kind)}{wanted})"""

    def consent(self, node: Agreed) -> str:
        """The rule of profiles/rules.py: the last full word, and every restricting one from then on."""
        said = f"""select t.person_id, c.granted, c.occurred_at, p.merged_at,
            case when p.merged_at is null or (p.id_type in {_IDENTIFIED} and c.occurred_at >= p.merged_at)
              then 1 else 0 end as is_full
          from tree t cross join profiles p cross join consents c
          where p.profile_id = t.profile_id and c.profile_id = t.profile_id
            and c.purpose = {self._text(node.purpose)}"""
        dated = f"""select person_id, granted, is_full,
            case when is_full = 0 and merged_at > occurred_at then merged_at else occurred_at end as at
          from ({said}) said"""
        weighed = f"""select person_id, granted, at,
            max(case when is_full = 1 then at end) over (partition by person_id) as full_at
          from ({dated}) dated"""
        return f"""r.person_id in (select person_id from ({weighed}) weighed group by person_id
          having sum(case when granted = 0 and (full_at is null or at >= full_at) then 1 else 0 end) = 0)"""

    def event(self, node: Did) -> str:
        least = max(node.least, 1)
        bounds = [f"count(*) >= {self._whole(least)}"]
        if node.at_most is not None and node.least > 0:
            bounds.append(f"count(*) <= {self._whole(node.at_most)}")
        if node.least > 0:
            return f"r.person_id in ({self._events(node)} group by t.person_id having {' and '.join(bounds)})"
        most = f"count(*) > {self._whole(node.at_most or 0)}"
        return f"r.person_id not in ({self._events(node)} group by t.person_id having {most})"

    def event_restless(self, node: Did) -> str | None:
        return None if node.within_s is None else f"r.person_id in ({self._events(node)})"

    def _events(self, node: Did) -> str:
        kinds = ", ".join(self._text(kind) for kind in node.kinds)
        parts = [f"e.kind in ({kinds})"]
        if node.name is not None:
            # Hidden from the planner: everybody's events of a name are more than all of one person's.
            parts.append(f"coalesce(e.name, '') = {self._text(node.name)}")
        parts += [self.filter(asked) for asked in node.where]
        since = node.since(self.now)
        return f"""select t.person_id from tree t cross join events e where e.profile_id = t.profile_id
          and e.occurred_at between t.attach_from and t.attach_until
          and e.occurred_at > {self._whole(EVER if since is None else since)} and {" and ".join(parts)}"""

    def in_(self, node: IsIn) -> str:
        if node.zone_id is None:
            return self._in_store(node.store_id)
        return f"""r.person_id in (select t.person_id from tree t cross join presences p
          where p.profile_id = t.profile_id
            and p.store_id = {self._text(node.store_id)} and p.zone_id = {self._text(node.zone_id)})"""

    def near(self, node: IsNear) -> str:
        if node.fence_id is not None:
            return self._in_fence(f"v.fence_id = {self._text(node.fence_id)}")
        store = node.store_id or ""
        around = f"json_extract(g.definition, '$.store_id') = {self._text(store)}"
        fences = f"select g.fence_id from geofences g where {around}"
        return f"({self._in_store(store)} or {self._in_fence(f'v.fence_id in ({fences})')})"

    def _in_store(self, store_id: str) -> str:
        return f"""r.person_id in (select t.person_id from tree t cross join visits v
          where v.profile_id = t.profile_id and v.left_at is null and v.store_id = {self._text(store_id)})"""

    def _in_fence(self, which: str) -> str:
        return f"""r.person_id in (select t.person_id from tree t cross join fence_visits v
          where v.profile_id = t.profile_id and v.left_at is null and {which})"""

    def dwelt(self, node: Dwelt) -> str:
        """What the stays cover: of each only what lies behind all that began before it."""
        now, since = self._whole(self.now), self._since(node)
        start = f"case when v.entered_at < {since} then {since} else v.entered_at end"
        end = f"case when v.left_at is null or v.left_at > {now} then {now} else v.left_at end"
        spans = f"select t.person_id, {start} as start_at, {end} as end_at {self._visits(node)}"
        reached = """max(end_at) over (partition by person_id order by start_at, end_at
            rows between unbounded preceding and 1 preceding)"""
        apart = f"""select person_id, end_at,
            case when reached > start_at then reached else start_at end as start_at
          from (select person_id, start_at, end_at, {reached} as reached from ({spans}) spans
            where end_at > start_at) reached"""
        return f"""r.person_id in (select person_id from ({apart}) apart where end_at > start_at
          group by person_id having sum(end_at - start_at) >= {self._whole(node.at_least_s * 1000)})"""

    def dwelt_restless(self, node: Dwelt) -> str:
        return f"""r.person_id in (select t.person_id {self._visits(node)}
          and (v.left_at is null or v.left_at > {self._since(node)}))"""

    def _since(self, node: Dwelt) -> str:
        since = node.since(self.now)
        return self._whole(EVER if since is None else since)

    def _visits(self, node: Dwelt) -> str:
        joined = "from tree t cross join zone_visits v"
        if node.category is not None:
            meant = [own for own in self.categories if are_related(own, node.category)]
            listed = f"select value from json_each({self._text(msgspec.json.encode(meant).decode())})"
            named = f"select 1 from json_each(z.categories) c where c.value in ({listed})"
            return f"""{joined} cross join zones z where v.profile_id = t.profile_id
              and z.store_id = v.store_id and z.zone_id = v.zone_id and exists ({named})"""
        zone = "" if node.zone_id is None else f" and v.zone_id = {self._text(node.zone_id)}"
        store = f"v.store_id = {self._text(node.store_id or '')}"
        return f"{joined} where v.profile_id = t.profile_id and {store}{zone}"

    def trait_restless(self, node: HasTrait) -> str | None:
        if not isinstance(node.test, DaysAgo):
            return None
        return f"""r.person_id in (select t.person_id from tree t cross join traits v
          where v.profile_id = t.profile_id and v.name = {self._text(parts_of(node.name)[0])})"""

    def rfm(self, node: HasRfm) -> str:
        parts = [
            f"s.{column} {self._between(wanted)}"
            for column, wanted in (("r", node.recency), ("f", node.frequency), ("m", node.monetary))
        ]
        if node.names:
            parts.append(f"s.name in ({', '.join(self._text(name) for name in node.names)})")
        return f"""r.person_id in (select s.profile_id from people cross join rfm_scores s
          where s.profile_id = people.person_id and {" and ".join(parts)})"""

    def _between(self, wanted: Between) -> str:
        return f"between {self._whole(wanted.at_least)} and {self._whole(wanted.at_most)}"

    def segment(self, node: InSegment) -> str:
        return f"""exists (select 1 from segment_members m
          where m.segment_id = {self._text(node.segment_id)} and m.profile_id = r.person_id)"""

    # Values inside JSON -----------------------------------------------------------------------------------

    def filter(self, asked: Filter) -> str:
        """A filter on the properties of `e`; true or false, also where there are none."""
        test = self.at_path("e.properties", parts_of(asked.property), asked.test)
        return f"case when {test} then {0 if asked.negate else 1} else {1 if asked.negate else 0} end = 1"

    def at_path(self, document: str, path: Path, test: Test) -> str:
        """Whether any value at a path inside a document passes a test."""
        keys = parts_of(path)
        if EACH not in keys:
            return self._test(document, self._text(_json_path(keys)), test)
        each = keys.index(EACH)
        before, after = _json_path(keys[:each]), _json_path(keys[each + 1 :])[1:]
        inside = f"{self._text(before)} || '[' || j.key || ']' || {self._text(after)}"
        return f"""(json_type({document}, {self._text(before)}) = 'array' and exists (
          select 1 from json_each({document}, {self._text(before)}) j
          where {self._test(document, inside, test)}))"""

    def _test(self, document: str, path: str, test: Test) -> str:
        return _TESTS[type(test)](self, document, path, test)

    def exists(self, document: str, path: str, _test: Exists) -> str:
        return f"json_type({document}, {path}) <> 'null'"

    def is_(self, document: str, path: str, test: Is) -> str:
        value = test.value
        if isinstance(value, bool):
            return f"json_type({document}, {path}) = '{'true' if value else 'false'}'"
        if isinstance(value, float):
            return self._when_number(document, path, [("=", value)])
        return f"{_text_at(document, path)} = {self._text(value)}"

    def one_of(self, document: str, path: str, test: OneOf) -> str:
        texts = [self._text(value) for value in test.values if isinstance(value, str)]
        parts = [self.is_(document, path, Is(value)) for value in test.values if not isinstance(value, str)]
        listed = [f"{_text_at(document, path)} in ({', '.join(texts)})"] if texts else []
        return _joined(" or ", parts + listed)

    def contains(self, document: str, path: str, test: Contains) -> str:
        whole, part = _text_at(document, path), self._text(test.text)
        if test.ignore_case:
            whole, part = f"lower({whole})", f"lower({part})"
        return f"instr({whole}, {part}) > 0"

    def number(self, document: str, path: str, test: NumberIs) -> str:
        bounds = [
            (sign, bound)
            for sign, bound in (
                (">=", test.at_least),
                ("<=", test.at_most),
                (">", test.more_than),
                ("<", test.less_than),
            )
            if bound is not None
        ]
        return self._when_number(document, path, bounds)

    def _when_number(self, document: str, path: str, bounds: list[tuple[str, float]]) -> str:
        """Both sides come from text by one way: two of reading it may differ in the last bit."""
        value = f"cast(json_extract({document}, {path}) as real)"
        tests = [f"{value} {sign} cast({self._text(repr(bound))} as real)" for sign, bound in bounds]
        kind = f"json_type({document}, {path}) in ('integer', 'real')"
        return f"case when {kind} then {' and '.join(tests)} else {_NOBODY} end"

    def date(self, document: str, path: str, test: DateIs | DaysAgo) -> str:
        """Only what has the form of a date is made a number; PostgreSQL refuses to cast anything else."""
        day = f"substr({_text_at(document, path)}, 1, 10)"
        digits = f"replace({day}, '-', '')"
        form = (
            f"substr({day}, 5, 1) = '-' and substr({day}, 8, 1) = '-' and length({digits}) = 8"
            f" and ltrim({digits}, '0123456789') = ''"
        )
        lowest, highest = (self._whole(bound) for bound in lowest_and_highest_day(test, self._today))
        within = f"cast({digits} as integer) between {lowest} and {highest}"
        return f"case when {form} then {within} else {_NOBODY} end"


def _json_path(keys: tuple[str, ...]) -> str:
    """SQLite's path; keys hold no quotation marks (segments/model.py sees to it)."""
    return "$" + "".join(f'."{key}"' for key in keys)


def _text_at(document: str, path: str) -> str:
    """The text there; null for what is no text."""
    return f"case when json_type({document}, {path}) = 'text' then json_extract({document}, {path}) end"


def _joined(word: str, parts: list[str]) -> str:
    return f"({word.join(parts)})" if parts else ""


_Compile: TypeAlias = Callable[[_Builder, Any], str]
_CONDITIONS: dict[type, _Compile] = {
    AllOf: _Builder.all_of,
    AnyOf: _Builder.any_of,
    Not: _Builder.not_,
    HasTrait: _Builder.trait,
    HasIdentifier: _Builder.identifier,
    Agreed: _Builder.consent,
    Did: _Builder.event,
    IsIn: _Builder.in_,
    IsNear: _Builder.near,
    Dwelt: _Builder.dwelt,
    HasRfm: _Builder.rfm,
    InSegment: _Builder.segment,
}
_RESTLESS: dict[type, Callable[[_Builder, Any], str | None]] = {
    Did: _Builder.event_restless,
    Dwelt: _Builder.dwelt_restless,
    HasTrait: _Builder.trait_restless,
}
_TESTS: dict[type, Callable[[_Builder, str, str, Any], str]] = {
    Exists: _Builder.exists,
    Is: _Builder.is_,
    OneOf: _Builder.one_of,
    Contains: _Builder.contains,
    NumberIs: _Builder.number,
    DateIs: _Builder.date,
    DaysAgo: _Builder.date,
}
