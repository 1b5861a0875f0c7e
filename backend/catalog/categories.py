"""A category's path: how people and sites write it, and the key by which two spellings are the same."""

import re
import unicodedata
from dataclasses import dataclass
from typing import TypeAlias

CategoryKey: TypeAlias = tuple[str, ...]
"""Folded names from the root down; the tuple `("shoes", "running")` for "Shoes > Running"."""

MAX_DEPTH = 12  # Google's own taxonomy has seven; deeper is a page's address taken for a category
MAX_CHARS = 750  # what Google allows a product type to have; longer ones would only fill tables
SEPARATOR = " > "
_SEPARATORS = re.compile(r"\s*(?:[>/|\\›»→]|::)\s*")
_BLANK = re.compile(r"[\s_\-‐-―]+")  # also the hyphens of addresses: running-shoes is "Running shoes"


@dataclass(frozen=True, slots=True)
class Category:
    """A path as it was written, and its key."""

    names: tuple[str, ...]
    key: CategoryKey

    @property
    def path(self) -> str:
        """The one spelling for people: "Shoes > Running"."""
        return SEPARATOR.join(self.names)

    def ancestors(self) -> list["Category"]:
        """The category and everything above it, the root first."""
        return [Category(self.names[:depth], self.key[:depth]) for depth in range(1, len(self.names) + 1)]


def parse_category(text: str | None) -> Category | None:
    """The category that a text names; None for an empty one, or for what is too long or deep to be one."""
    if not text or len(text) > MAX_CHARS:
        return None
    names = tuple(" ".join(name.split()) for name in _SEPARATORS.split(text))
    pairs = [(name, folded) for name in names if (folded := fold(name))]
    if not 0 < len(pairs) <= MAX_DEPTH:
        return None
    return Category(tuple(name for name, _ in pairs), tuple(folded for _, folded in pairs))


def category_key(text: str | None) -> CategoryKey:
    """The key alone; empty for no category."""
    category = parse_category(text)
    return category.key if category else ()


def fold(name: str) -> str:
    """One name without what spellings differ in: case, width, accents' encoding, blanks and hyphens."""
    return _BLANK.sub(" ", unicodedata.normalize("NFKC", name).casefold()).strip()


def key_text(key: CategoryKey) -> str:
    """The key as one text, for a database; folded names hold no slash, for that separates."""
    return "/".join(key)
