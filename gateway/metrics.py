"""The gateway's figures for Prometheus, on an address of the operator's choice; off unless it is given.

Every scrape asks the running gateway. Where its loop hangs the scrape fails, instead of showing old figures.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import TimeoutError as AnswerTimeout
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.status import GatewayStatus
from sdk_bridge.wire.messages import ScanState

PREFIX: Final = "footfall_gateway_"
ANSWER_SECONDS: Final = 3.0  # a scrape usually waits ten; a loop that is later than this hangs
RETRY_SECONDS: Final = 30.0  # another program may hold the port at the start

Sample: TypeAlias = tuple[tuple[str, ...], float]
Ask: TypeAlias = Callable[[], Coroutine[Any, Any, GatewayStatus]]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `read` gives its samples, each with its labels' values; none where it is not known."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    read: Callable[[GatewayStatus], Iterable[Sample]]
    labels: tuple[str, ...] = ()

    def family(self, status: GatewayStatus) -> GaugeMetricFamily | CounterMetricFamily:
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = make(PREFIX + self.name, self.help, labels=self.labels)
        for labels, value in self.read(status):
            family.add_metric(labels, value)
        return family


def _one(read: Callable[[GatewayStatus], float | None]) -> Callable[[GatewayStatus], Iterable[Sample]]:
    def samples(status: GatewayStatus) -> Iterator[Sample]:
        value = read(status)
        if value is not None:
            yield (), float(value)

    return samples


def _seconds(read: Callable[[GatewayStatus], int | None]) -> Callable[[GatewayStatus], Iterable[Sample]]:
    def seconds(status: GatewayStatus) -> float | None:
        value = read(status)
        return None if value is None else value / 1000

    return _one(seconds)


def _adapter_ages(status: GatewayStatus) -> Iterator[Sample]:
    for adapter in status.adapters:
        if adapter.last_advert_age_ms is not None:
            yield (adapter.name,), adapter.last_advert_age_ms / 1000


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "info",
        "gauge",
        "always 1; who this is",
        lambda s: [((s.store, s.gateway, s.version), 1.0)],
        ("store", "gateway", "version"),
    ),
    Metric("uptime_seconds", "gauge", "since the process started", _seconds(lambda s: s.uptime_ms)),
    Metric(
        "scan_state",
        "gauge",
        "1 for the present state of hearing, 0 for the others",
        lambda s: [((state,), float(s.scan == state)) for state in get_args(ScanState)],
        ("state",),
    ),
    Metric(
        "last_advert_age_seconds",
        "gauge",
        "since any advertisement was heard; absent before the first",
        _seconds(lambda s: s.last_advert_age_ms),
    ),
    Metric(
        "adapter_scanning",
        "gauge",
        "1 where the radio scans",
        lambda s: [((a.name,), float(a.scanning)) for a in s.adapters],
        ("adapter",),
    ),
    Metric(
        "adapter_remedies",
        "gauge",
        "remedies tried in vain since the radio was last heard",
        lambda s: [((a.name,), float(a.rung)) for a in s.adapters],
        ("adapter",),
    ),
    Metric(
        "adapter_last_advert_age_seconds",
        "gauge",
        "since this radio heard anything; absent before the first",
        _adapter_ages,
        ("adapter",),
    ),
    Metric("adverts", "counter", "advertisements heard", _one(lambda s: s.counters.adverts)),
    Metric(
        "adverts_forgotten",
        "counter",
        "of these, those that no allow-list lets through",
        _one(lambda s: s.counters.forgotten),
    ),
    Metric(
        "adverts_dropped",
        "counter",
        "advertisements for which there was no room",
        _one(lambda s: s.counters.dropped),
    ),
    Metric("outbox_records", "gauge", "records that wait for the backend", _one(lambda s: s.outbox.records)),
    Metric("outbox_bytes", "gauge", "what they take", _one(lambda s: s.outbox.bytes)),
    Metric("outbox_max_bytes", "gauge", "what they may take", _one(lambda s: s.outbox.max_bytes)),
    Metric(
        "outbox_writable",
        "gauge",
        "0 while the card takes nothing and all of it is in memory",
        _one(lambda s: s.outbox.writable),
    ),
    Metric(
        "outbox_oldest_age_seconds",
        "gauge",
        "age of the oldest record; absent when empty or not known",
        _seconds(lambda s: s.outbox.oldest_age_ms),
    ),
    Metric(
        "outbox_unstored_batches",
        "gauge",
        "batches in memory because the disk does not take them",
        _one(lambda s: s.outbox.unstored),
    ),
    Metric(
        "lost_batches",
        "counter",
        "batches that could not even be stored",
        _one(lambda s: s.counters.lost_batches),
    ),
    Metric("lost_readings", "counter", "readings in them", _one(lambda s: s.counters.lost_readings)),
    Metric(
        "uplink_connected", "gauge", "1 while connected to the broker", _one(lambda s: s.uplink.connected)
    ),
    Metric(
        "uplink_connections",
        "counter",
        "connections to the broker so far",
        _one(lambda s: s.uplink.connections),
    ),
    Metric(
        "uplink_acknowledged_age_seconds",
        "gauge",
        "since the backend's last word; absent before the first",
        _seconds(lambda s: s.uplink.acknowledged_age_ms),
    ),
    Metric("bad_acknowledgements", "counter", "that could not be read", _one(lambda s: s.counters.bad_acks)),
    Metric(
        "foreign_messages",
        "counter",
        "messages on topics that are not ours",
        _one(lambda s: s.counters.foreign_messages),
    ),
    Metric(
        "clock_synchronised", "gauge", "1 where the wall clock is set", _one(lambda s: s.clock.synchronised)
    ),
    Metric(
        "certificate_remaining_seconds",
        "gauge",
        "until the certificate runs out; absent without one",
        _one(lambda s: None if s.certificate_days is None else s.certificate_days * 86400),
    ),
    Metric(
        "configuration_version",
        "gauge",
        "the remote configuration last spoken of; 0 for the file alone",
        _one(lambda s: s.configuration.version),
    ),
)  # fmt: skip - two lines a metric read as a table


class GatewayCollector(Collector):
    """Asks the gateway's loop for its status, from the scraper's thread."""

    def __init__(self, ask: Ask, loop: asyncio.AbstractEventLoop) -> None:
        self._ask = ask
        self._loop = loop

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Raises TimeoutError where the loop does not answer, which fails the scrape."""
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            status = asked.result(ANSWER_SECONDS)
        except AnswerTimeout:
            asked.cancel()
            raise
        for metric in METRICS:
            yield metric.family(status)

    def describe(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Nothing, so that registering asks nobody."""
        return iter(())


async def serve(host: str, port: int, ask: Ask) -> None:
    """Serves /metrics until cancelled. A port that is taken is logged and tried again."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GatewayCollector(ask, asyncio.get_running_loop()))
    ProcessCollector(registry=registry)
    while True:
        try:
            # In a thread, because binding asks the name service for our own name.
            server, _thread = await asyncio.to_thread(start_http_server, port, host, registry)
            break
        except OSError as error:
            log.warning("metrics not served", address=f"{host}:{port}", cause=str(error))
            await asyncio.sleep(RETRY_SECONDS)
    log.info("metrics", address=f"{host}:{server.server_port}")
    try:
        await asyncio.Event().wait()
    finally:
        # Its loop looks up every half second; in a thread, or a scrape that waits for us would hold us too.
        await asyncio.shield(asyncio.to_thread(_close, server))


def _close(server: Any) -> None:
    server.shutdown()
    server.server_close()
