"""What strangers can write into the backend's log: of requests that are no HTTP a line now and then."""

import logging

from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestPayloadError

from backend.log import MalformedRequests


def record(error: BaseException | None) -> logging.LogRecord:
    about = (type(error), error, None) if error else None
    return logging.LogRecord(
        "aiohttp.server", logging.ERROR, __file__, 1, "Error handling request", (), about
    )


def test_malformed_requests_are_counted_and_logged_ever_less_often():
    strangers = MalformedRequests()
    records = [record(LineTooLong(b"x" * 5_000, 8190)) for _ in range(100)]
    passed = [each.getMessage() for each in records if strangers.filter(each)]
    assert [line.split(" so far")[0] for line in passed] == [
        f"malformed request, {count}" for count in (1, 2, 4, 8, 16, 32, 64)
    ]
    assert all(len(line) < 300 and "\n" not in line for line in passed)
    assert not any(each.exc_info for each in records)


def test_damaged_bodies_are_malformed_requests():
    strangers = MalformedRequests()
    assert [strangers.filter(record(RequestPayloadError("400"))) for _ in range(3)] == [True, True, False]


def test_everything_else_is_logged_with_its_traceback():
    strangers = MalformedRequests()
    ours = record(ZeroDivisionError("ours"))
    assert strangers.filter(ours)
    assert ours.exc_info
    assert strangers.filter(record(None))
