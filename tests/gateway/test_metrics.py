"""Metrics: scraped over HTTP, every one documented, each as true as the status it comes from."""

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

import gateway
from gateway import metrics
from gateway.config import ConfigError, Listen, load
from gateway.metrics import METRICS, PREFIX, serve
from gateway.status import (
    AdapterStatus,
    ClockStatus,
    ConfigurationStatus,
    Counters,
    GatewayStatus,
    OutboxStatus,
    UplinkStatus,
)

DOCUMENT = Path(gateway.__file__).parent.parent / "docs" / "gateway.md"
STATUS = GatewayStatus(
    store="shop",
    gateway="door",
    version="0.1.0",
    pid=1,
    uptime_ms=90_500,
    scan="deaf",
    last_advert_age_ms=2500,
    adapters=[AdapterStatus("hci0", "ready", True, 0, 2500), AdapterStatus("hci1", "off", False, 3, None)],
    outbox=OutboxStatus(3, 4096, 1000, 1200, 2),
    uplink=UplinkStatus(True, "aa" * 8, 4, 300),
    clock=ClockStatus(False, 0, 90_000),
    certificate_days=2.0,
    configuration=ConfigurationStatus(7, "applied"),
    counters=Counters(1000, 300, 5, 1, 9, 2, 6),
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def scraped(ask):
    """The served metrics; gives a function that scrapes."""
    port = free_port()
    task = asyncio.create_task(serve("127.0.0.1", port, ask))

    def scrape():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    async def try_to():
        while True:
            try:
                return await asyncio.to_thread(scrape)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionRefusedError):
                    raise
                await asyncio.sleep(0.02)

    try:
        yield try_to
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def answer():
    return STATUS


async def test_what_is_scraped_is_what_the_status_says():
    async with scraped(answer) as scrape:
        told = samples(await scrape())
    expected = {
        ("info", ("gateway", "door"), ("store", "shop"), ("version", "0.1.0")): 1,
        ("uptime_seconds",): 90.5,
        ("scan_state", ("state", "deaf")): 1,
        ("scan_state", ("state", "hearing")): 0,
        ("scan_state", ("state", "quiet")): 0,
        ("scan_state", ("state", "starting")): 0,
        ("last_advert_age_seconds",): 2.5,
        ("adapter_scanning", ("adapter", "hci0")): 1,
        ("adapter_scanning", ("adapter", "hci1")): 0,
        ("adapter_remedies", ("adapter", "hci0")): 0,
        ("adapter_remedies", ("adapter", "hci1")): 3,
        ("adapter_last_advert_age_seconds", ("adapter", "hci0")): 2.5,
        ("adverts_total",): 1000,
        ("adverts_forgotten_total",): 300,
        ("adverts_dropped_total",): 5,
        ("outbox_records",): 3,
        ("outbox_bytes",): 4096,
        ("outbox_max_bytes",): 1000,
        ("outbox_writable",): 1,
        ("outbox_oldest_age_seconds",): 1.2,
        ("outbox_unstored_batches",): 2,
        ("lost_batches_total",): 1,
        ("lost_readings_total",): 9,
        ("uplink_connected",): 1,
        ("uplink_connections_total",): 4,
        ("uplink_acknowledged_age_seconds",): 0.3,
        ("bad_acknowledgements_total",): 2,
        ("foreign_messages_total",): 6,
        ("clock_synchronised",): 0,
        ("certificate_remaining_seconds",): 172_800,
        ("configuration_version",): 7,
    }
    ours = {
        (name.removeprefix(PREFIX), *more): value for (name, *more), value in told.items() if PREFIX in name
    }
    assert ours == expected
    assert told["process_resident_memory_bytes",] > 1_000_000


async def test_what_is_not_known_is_absent_and_not_zero():
    unknown = msgspec.structs.replace(
        STATUS,
        last_advert_age_ms=None,
        certificate_days=None,
        outbox=OutboxStatus(0, 0, 1000, None, 0),
        uplink=UplinkStatus(False, "e", 0, None),
    )

    async def ask():
        return unknown

    async with scraped(ask) as scrape:
        told = samples(await scrape())
    for absent in (
        "last_advert_age",
        "certificate_remaining",
        "outbox_oldest_age",
        "uplink_acknowledged_age",
    ):
        assert (f"{PREFIX}{absent}_seconds",) not in told
    assert told[f"{PREFIX}uplink_connected",] == 0


async def test_every_scrape_asks_anew_and_one_that_hangs_fails(monkeypatch):
    monkeypatch.setattr(metrics, "ANSWER_SECONDS", 0.2)
    asked = 0

    async def ask():
        nonlocal asked
        asked += 1
        if asked > 2:
            await asyncio.sleep(30)
        return msgspec.structs.replace(STATUS, uptime_ms=asked * 1000)

    async with scraped(ask) as scrape:
        assert samples(await scrape())[f"{PREFIX}uptime_seconds",] == 1
        assert samples(await scrape())[f"{PREFIX}uptime_seconds",] == 2
        with pytest.raises(urllib.error.HTTPError, match="500"):
            await scrape()


async def test_a_port_that_is_taken_is_tried_again(monkeypatch):
    monkeypatch.setattr(metrics, "RETRY_SECONDS", 0.05)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        task = asyncio.create_task(serve("127.0.0.1", port, answer))
        await asyncio.sleep(0.2)
        assert not task.done()
    url = f"http://127.0.0.1:{port}/metrics"
    deadline = asyncio.get_running_loop().time() + 10
    while True:
        try:
            text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
            break
        except OSError:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
    assert f"{PREFIX}info" in text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_every_metric_is_documented_and_no_other():
    section = DOCUMENT.read_text("utf-8").partition("\n## Metrics")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| `(\w+)(?:\{[\w, ]*\})?` \| (\w+)", section, re.MULTILINE))
    async with scraped(answer) as scrape:
        families = list(text_string_to_metric_families(await scrape()))
    scraped_kinds = {
        family.name + ("_total" if family.type == "counter" else ""): family.type for family in families
    }
    assert documented == scraped_kinds


def test_labels_are_documented_too():
    section = DOCUMENT.read_text("utf-8").partition("\n## Metrics")[2].partition("\n## ")[0]
    for metric in METRICS:
        name = PREFIX + metric.name + ("_total" if metric.kind == "counter" else "")
        labels = f"{{{', '.join(metric.labels)}}}" if metric.labels else ""
        assert f"| `{name}{labels}` | {metric.kind} | {metric.help} |" in section


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:9464", Listen("127.0.0.1", 9464)),
        ("[::1]:9464", Listen("::1", 9464)),
        ("localhost:0", Listen("localhost", 0)),
        ("9464", None),
        (":9464", None),
        ("::1:9464", None),
        ("127.0.0.1:99999", None),
        ("127.0.0.1:", None),
        ("127.0.0.1:94６4", None),
    ],
)
def test_the_address_of_the_configuration(tmp_path, text, listen):
    path = tmp_path / "gateway.toml"
    path.write_text(f'store = "a"\ngateway = "b"\ndata_dir = "d"\n[metrics]\nlisten = "{text}"\n')
    if listen is None:
        with pytest.raises(ConfigError, match=r"`metrics.listen` may be a host and port"):
            load(path)
    else:
        assert load(path).metrics == listen


def test_a_gateway_without_metrics_loads_no_prometheus():
    code = "import sys; sys.modules['prometheus_client'] = None; import gateway.app, gateway.cli"
    subprocess.run([sys.executable, "-c", code], check=True)
