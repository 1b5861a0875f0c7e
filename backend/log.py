"""Logging, set up once at start."""

import logging
import sys

import structlog

from backend.config import Log

# By its name: commands that serve nothing do without aiohttp.
_MALFORMED = ("aiohttp.http_exceptions", "aiohttp.web_protocol")


class MalformedRequests(logging.Filter):
    """Requests that are no HTTP: the 1st, 2nd, 4th … in one line, for strangers must not fill the log."""

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or type(error).__module__ not in _MALFORMED:
            return True
        self.count += 1
        record.msg, record.args = "malformed request, %d so far: %.200r", (self.count, str(error))
        record.exc_info = record.exc_text = None
        return self.count & (self.count - 1) == 0


def set_up_logging(settings: Log) -> None:
    """Structured lines on standard error: for people, or as JSON for a collector."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    logging.basicConfig(level=max(level, logging.WARNING))
    logging.getLogger("aiohttp.server").addFilter(MalformedRequests())
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if settings.json else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
