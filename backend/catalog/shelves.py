"""Which zone's shelf holds a category, whatever the site calls it: the catalogue's one rule, pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from backend.catalog.categories import MAX_CHARS, CategoryKey, category_key

ANY = "*"
"""In a mapping's web category: any one name at this place."""


class ZoneRef(NamedTuple):
    """A zone of a store."""

    store_id: str
    zone_id: str


class CategoryMapping(Struct, frozen=True, forbid_unknown_fields=True):
    """A web category, with all below it, is this category of the shop floor.

    `web_category` is a path whose names may be `*`; `store_category` replaces that path and keeps what lies
    below, so "Footwear" → "Shoes" makes "Footwear > Running" into "Shoes > Running". Empty: it lies on no
    shelf, as gift vouchers do.
    """

    web_category: Annotated[str, Meta(min_length=1, max_length=MAX_CHARS)]
    store_category: Annotated[str, Meta(max_length=MAX_CHARS)] = ""


@dataclass(frozen=True, slots=True)
class Mappings:
    """Every mapping, ready to be asked; the most specific one counts: the longest, then that with fewest `*`.

    `exact` are those without `*`, `loose` the others by their length.
    """

    exact: Mapping[CategoryKey, CategoryKey] = field(default_factory=dict)
    loose: Mapping[int, tuple[tuple[CategoryKey, CategoryKey], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, mappings: Iterable[CategoryMapping]) -> "Mappings":
        exact: dict[CategoryKey, CategoryKey] = {}
        loose: dict[int, list[tuple[CategoryKey, CategoryKey]]] = {}
        for rule in mappings:
            web, store = category_key(rule.web_category), category_key(rule.store_category)
            if ANY in web:
                loose.setdefault(len(web), []).append((web, store))
            else:
                exact[web] = store
        ordered = {length: tuple(sorted(rules, key=_looseness)) for length, rules in loose.items()}
        return cls(exact, ordered)

    def rule_for(self, web: CategoryKey) -> tuple[CategoryKey, CategoryKey] | None:
        """The mapping that speaks of this web category: its pattern, and the store's category."""
        for depth in range(len(web), 0, -1):
            prefix = web[:depth]
            if prefix in self.exact:
                return prefix, self.exact[prefix]
            for rule in self.loose.get(depth, ()):
                if all(part in (ANY, name) for part, name in zip(rule[0], prefix, strict=True)):
                    return rule
        return None

    def in_store(self, web: CategoryKey) -> CategoryKey:
        """What the shop floor calls a web category; empty where it lies on no shelf."""
        rule = self.rule_for(web)
        if rule is None:
            return web
        pattern, store = rule
        return store + web[len(pattern) :] if store else ()


NO_MAPPINGS = Mappings()


def shelf_holds(
    zone_categories: Sequence[str], category: str | None, mappings: Mappings = NO_MAPPINGS
) -> bool:
    """Whether a zone with these categories holds what has this category, of a product or of a page.

    "Shoes" holds "Shoes > Running" and "shoes/running-shoes"; "Shoes > Running" does not hold "Shoes".
    """
    stored = mappings.in_store(category_key(category))
    return any(_is_within(category_key(own), stored) for own in zone_categories)


@lru_cache(maxsize=4_096)  # a shop's own categories, asked about at each of its customers' stays
def are_related(own: str, wanted: str) -> bool:
    """Whether who stands where a zone has its `own` category stands at the `wanted` one, or at a part of it.

    In "Shoes" stands who is wanted at "shoes/running", and in "Shoes > Running" who is wanted at "Shoes".
    """
    return shelf_holds([own], wanted) or shelf_holds([wanted], own)


@dataclass(frozen=True, slots=True)
class Shelves:
    """The same rule for all zones at once, prepared: a look-up is a handful of dictionary reads."""

    mappings: Mappings = NO_MAPPINGS
    zones: Mapping[CategoryKey, tuple[ZoneRef, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, zones: Mapping[ZoneRef, Sequence[str]], mappings: Mappings = NO_MAPPINGS) -> "Shelves":
        """From each zone's categories, as operators wrote them."""
        by_category: dict[CategoryKey, list[ZoneRef]] = {}
        for zone, categories in sorted(zones.items()):
            for key in {category_key(category) for category in categories} - {()}:
                by_category.setdefault(key, []).append(zone)
        return cls(mappings, {key: tuple(found) for key, found in by_category.items()})

    def zones_for(self, category: str | None) -> tuple[ZoneRef, ...]:
        """Every zone whose shelf holds this category of a product or a page; in order."""
        return self.zones_for_key(category_key(category))

    def zones_for_key(self, web: CategoryKey) -> tuple[ZoneRef, ...]:
        """The same, for a key."""
        stored = self.mappings.in_store(web)
        found = {zone for depth in range(len(stored)) for zone in self.zones.get(stored[: depth + 1], ())}
        return tuple(sorted(found))

    def holds(self, zone: ZoneRef, category: str | None) -> bool:
        """Whether this zone's shelf holds it."""
        return zone in self.zones_for(category)

    def knows(self, web: CategoryKey) -> bool:
        """Whether somebody has said where it lies: a zone holds it, or a mapping speaks of it."""
        return bool(self.zones_for_key(web)) or self.mappings.rule_for(web) is not None


def _is_within(own: CategoryKey, stored: CategoryKey) -> bool:
    return bool(own) and stored[: len(own)] == own


def _looseness(rule: tuple[CategoryKey, CategoryKey]) -> tuple[int, CategoryKey]:
    """Fewer `*` first, then by name, so that the order in which rules were written never matters."""
    return rule[0].count(ANY), rule[0]
