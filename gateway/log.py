"""Structured logs: JSON for machines, plain lines for people; what repeats is counted, not repeated."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REPEAT_SECONDS: Final = 10.0  # a radio that fails twice a second must not fill the card with it
MAX_REMEMBERED: Final = 256  # messages; there are some forty, times a few adapters
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Repeats:
    """Lets a message through once in ten seconds for each (event, adapter); then says how often it came."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """A structlog processor. Raises DropEvent for a repetition."""
        key = (str(event.get("event")), str(event.get("adapter", "")))
        now = self._now()
        told_at, held_back = self._seen.get(key, (-REPEAT_SECONDS, 0))
        if now - told_at < REPEAT_SECONDS:
            self._seen[key] = (told_at, held_back + 1)
            raise structlog.DropEvent
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.clear()
        self._seen[key] = (now, 0)
        return {**event, "repeated": held_back} if held_back else event


def configure(level: str, form: str, *, version: str, gateway: str) -> None:
    """Sets up structlog on standard error. Libraries speak only from warning on.

    bleak and dbus-fast log whole D-Bus messages at debug, strangers' radio addresses among them; they stay
    at warning whatever the level.
    """
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            Repeats(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s", force=True)
    for name in ("bleak", "dbus_fast", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.get_logger().info("gateway starts", version=version, gateway=gateway)


def set_level(level: str) -> None:
    """Another level from now on, for loggers that are not bound yet."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))


def _renderers(as_json: bool) -> list[Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=False)]
