"""A repair of dbus-fast 5.2: what is said to a connection that is gone must not deafen another one.

A message to a lost connection fails on its closed socket, whereupon dbus-fast takes the socket's descriptor
off the event loop once more. That number may be another connection's by then: a new message bus, or MQTT. It
is never read from again, and nothing says so. bleak sends such a message whenever a scan is stopped after the
message bus died; a long run of radio faults found it.
"""

from collections.abc import Callable
from typing import Any

from dbus_fast.aio import message_bus
from dbus_fast.aio.message_bus import MessageBus

_REPAIRED = "footfall_repaired"


def repair() -> None:
    """Makes a lost connection refuse what it is given, and end once only. Safe to call again."""
    if hasattr(MessageBus, _REPAIRED):
        return
    writer: Any = message_bus._MessageWriter
    bus: Any = MessageBus
    writer.schedule_write = _unless_lost(writer.schedule_write)
    bus._finalize = _once(bus._finalize)
    setattr(bus, _REPAIRED, True)


def _unless_lost(schedule_write: Callable[..., None]) -> Callable[..., None]:
    """Raises EOFError: a future alone would leave whoever waits for a reply to wait for ever."""

    def schedule(writer: Any, message: Any = None, future: Any = None) -> None:
        if writer.bus._disconnected:
            raise EOFError("the message bus is gone")
        schedule_write(writer, message, future)

    return schedule


def _once(finalize: Callable[..., None]) -> Callable[..., None]:
    def end(bus: Any, error: Exception | None = None) -> None:
        if not bus._disconnected:
            finalize(bus, error)

    return end
