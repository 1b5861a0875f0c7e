"""Structured logs: JSON for machines, plain lines for people; what repeats is counted, not repeated."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REPEAT_SECONDS: Final = 10.0  # a radio that fails twice a second must not fill the card with it
BURST: Final = 10  # lines of one event in that time, however they differ: a cause may hold a counter
MAX_REMEMBERED: Final = 256  # lines; there are some forty events, times a few adapters
MAX_TEXT: Final = 500  # characters of one value, which a broker or a radio may have chosen
HELD_BACK: Final = "held back"
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_Line: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Told:
    """A line that was let through: when, at which level, and how often it came since."""

    at: float
    level: str
    held_back: int = 0


class Repeats:
    """Lets a line through once in ten seconds, and ten lines of one event; counts the rest and tells it.

    Lines are alike where all their words are; numbers may differ. What was held back is told by the next
    line of its kind, or by `overdue` where none follows. May be called from any thread.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._told: dict[_Line, _Told] = {}
        self._bursts: dict[str, tuple[float, int]] = {}
        self._owed: dict[_Line, _Told] = {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """A structlog processor. Raises DropEvent for what is held back."""
        if event.get("event") == HELD_BACK:
            return event
        with self._lock:
            held_back = self._pass(event, self._now())
        if held_back is None:
            raise structlog.DropEvent
        return {**event, "repeated": held_back} if held_back else event

    def overdue(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """What was held back and not told within its ten seconds; with `everything` also what is newer."""
        with self._lock:
            now = self._now()
            for line in [line for line, told in self._told.items() if everything or self._is_over(told, now)]:
                self._forget(line)
            owed, self._owed = self._owed, {}
        return [_summary(line, told) for line, told in owed.items()]

    def _pass(self, event: EventDict, now: float) -> int | None:
        """How many of its kind were held back before it; None where it is held back itself."""
        line, name = _words(event), str(event.get("event"))
        told = self._told.get(line)
        if told is not None and not self._is_over(told, now):
            told.held_back += 1
            return None
        if not self._has_room(name, now):
            self._owe((("event", name),), _Told(now, str(event.get("level", "info")), 1))
            return None
        if told is None and len(self._told) >= MAX_REMEMBERED:
            self._forget(next(iter(self._told)))
        self._told[line] = _Told(now, str(event.get("level", "info")))
        return told.held_back if told is not None else 0

    def _has_room(self, name: str, now: float) -> bool:
        since, lines = self._bursts.get(name, (now, 0))
        if now - since >= REPEAT_SECONDS:
            since, lines = now, 0
        if len(self._bursts) >= MAX_REMEMBERED and name not in self._bursts:
            self._bursts.clear()
        self._bursts[name] = (since, lines + 1)
        return lines < BURST

    def _is_over(self, told: _Told, now: float) -> bool:
        return now - told.at >= REPEAT_SECONDS

    def _forget(self, line: _Line) -> None:
        told = self._told.pop(line)
        if told.held_back:
            self._owe(line, told)

    def _owe(self, line: _Line, told: _Told) -> None:
        """To be told; beyond the limit under the event's name alone."""
        if line not in self._owed and len(self._owed) >= MAX_REMEMBERED:
            line = (("event", dict(line)["event"]),)
        before = self._owed.get(line)
        self._owed[line] = _Told(told.at, told.level, told.held_back + (before.held_back if before else 0))


def _words(event: Mapping[str, Any]) -> _Line:
    """What makes lines alike: everything but numbers."""
    return tuple(
        sorted((name, str(value)) for name, value in event.items() if type(value) not in (int, float))
    )


def _summary(line: _Line, told: _Told) -> dict[str, Any]:
    words = dict(line)
    name = words.pop("event")
    words.pop("level", None)
    return {**words, "of": name, "repeated": told.held_back, "level": told.level}


_repeats = Repeats()


def tell_held_back(*, everything: bool = False) -> None:
    """Logs what was held back and would otherwise stay untold; to be called now and then, and at the end."""
    for summary in _repeats.overdue(everything=everything):
        level = _LEVELS.get(summary.pop("level"), logging.INFO)
        structlog.get_logger().log(level, HELD_BACK, **summary)


def configure(level: str, form: str, *, version: str, gateway: str) -> None:
    """Sets up the log of a gateway, and begins it."""
    set_up(level, form)
    structlog.get_logger().info("gateway starts", version=version, gateway=gateway)


def set_up(level: str, form: str) -> None:
    """Sets up structlog on standard error. Libraries speak through it too, and only from warning on.

    bleak and dbus-fast log whole D-Bus messages at debug, strangers' radio addresses among them; they stay
    at warning whatever the level.
    """
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _repeats,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _in_one_line,
            *_renderers(as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)
    for name in ("bleak", "dbus_fast", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Another level from now on, for loggers that are not bound yet."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))


class _Libraries(logging.Handler):
    """What libraries log, in the same form and under the same limits."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            told = {"library": record.name, "message": record.getMessage()}
            structlog.get_logger().log(record.levelno, "library", exc_info=record.exc_info, **told)
        except Exception:  # noqa: BLE001 - as every logging handler: a bad message must not stop its writer
            self.handleError(record)


def _in_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """No value breaks a line or fills a page; tracebacks come later, and may."""
    return {name: _short(value) if isinstance(value, str) else value for name, value in event.items()}


def _short(text: str) -> str:
    if len(text) <= MAX_TEXT and text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_TEXT])


def _renderers(as_json: bool) -> list[Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=False)]
