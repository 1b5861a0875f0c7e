"""Liquid as a marketer's templates may use it: small, bounded, and without files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, wraps
from typing import Any

from liquid import BoundTemplate, Environment, Expression, Node, RenderContext
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.exceptions import FilterArgumentError, LiquidError

MAX_ROUNDS = 100  # of all loops around a line; a phone shows 1,000 characters, and everybody's fold waits
MAX_CHARS = 8 * 1024  # of a value; `replace` of 64 KB by 64 KB would make 4 GB of it
MAX_ITEMS = 1_000  # of a list
_FILES = ("include", "render")  # there is no folder that a template may read


class TemplateInvalid(ValueError):
    """The template cannot be used; the text says where."""


class _Bounded(Environment):
    loop_iteration_limit = MAX_ROUNDS
    output_stream_limit = 64 * 1024
    local_namespace_limit = 64 * 1024

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        for tag in _FILES:
            del self.tags[tag]
        self.filters = {name: _bounded(work) for name, work in self.filters.items()}


@lru_cache(maxsize=1024)
def compiled(source: str) -> BoundTemplate:
    """The template, checked. Raises TemplateInvalid."""
    try:
        template = _environment.from_string(source)
        ranges = list(_ranges(template.nodes, RenderContext(template)))
    except (LiquidError, RecursionError) as error:  # the latter from templates nested hundreds deep
        raise TemplateInvalid(str(error)) from error
    for found in ranges:
        if not _is_short(found):
            raise TemplateInvalid(f"the range {found} must be of numbers, and of {MAX_ROUNDS} at the most")
    return template


def names_in(source: str) -> frozenset[str]:
    """What a template asks for that it does not make itself, such as `profile`. Raises TemplateInvalid."""
    try:
        return frozenset(compiled(source).global_variables())
    except (LiquidError, RecursionError) as error:
        raise TemplateInvalid(str(error)) from error


def _bounded(work: Callable[..., object]) -> Callable[..., object]:
    """The filter, for values of a size that an offer may need."""

    @wraps(work)
    def bounded(*values: Any, **named: Any) -> object:
        for value in (*values, *named.values()):
            _check_size(value)
        result = work(*values, **named)
        _check_size(result)
        return result

    return bounded


def _check_size(value: object) -> None:
    most = MAX_CHARS if isinstance(value, str | bytes) else MAX_ITEMS
    if isinstance(value, Sequence) and len(value) > most:
        raise FilterArgumentError(f"a value may have {most} characters or items at the most", token=None)


def _ranges(nodes: Iterable[Node], context: RenderContext) -> Iterator[RangeLiteral]:
    """Every range in a template; to look for a word in one of 10^15 numbers would take years."""
    for node in nodes:
        for expression in node.expressions():
            yield from _ranges_in(expression)
        yield from _ranges(node.children(context, include_partials=False), context)


def _ranges_in(expression: Expression) -> Iterator[RangeLiteral]:
    if isinstance(expression, RangeLiteral):
        yield expression
    for part in expression.children():
        yield from _ranges_in(part)


def _is_short(found: RangeLiteral) -> bool:
    start, stop = (getattr(end, "value", None) for end in (found.start, found.stop))
    return isinstance(start, int) and isinstance(stop, int) and stop - start < MAX_ROUNDS


_environment = _Bounded()
