"""The Prometheus endpoint and the log of calls."""

import json
import re
import threading
import urllib.request
from pathlib import Path

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from opsin.v1 import DetectRequest, Image
from opsin_server.config import LogSettings
from opsin_server.telemetry.caching import CacheMetrics
from opsin_server.telemetry.exposition import MetricsEndpoint
from opsin_server.telemetry.logs import bind_request, configure
from opsin_server.telemetry.metrics import Metrics, ModelGauges, Snapshot

DOCS = Path(__file__).parents[3] / "docs"


def scrape(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_a_scrape_tells_what_was_counted_and_asks_for_what_is_live() -> None:
    asked = []

    def snapshot() -> Snapshot:
        asked.append(1)
        gauges = ModelGauges("m", 2, 5, 0.25, 0.75, profile=((8, 0.02, 0.003),))
        return Snapshot((gauges,), (("cpu", 0.5),), decoded_bytes=9, streams=1)

    metrics = Metrics(snapshot)
    assert not asked
    metrics.batch("m", 4, 0.02)
    metrics.method("Detect").started()
    endpoint = MetricsEndpoint(metrics.registry, "127.0.0.1", 0)
    try:
        found = scrape(endpoint.port)
    finally:
        endpoint.close()
    model = {"model": "m", "version": "2"}
    assert found["opsin_queued"] == [(model, 5)]
    assert found["opsin_oldest_wait_seconds"] == [(model, 0.25)]
    assert found["opsin_profile_seconds"] == [({**model, "batch_size": "8"}, 0.02)]
    assert found["opsin_profile_spread_seconds"] == [({**model, "batch_size": "8"}, 0.003)]
    assert found["opsin_device_busy_share"] == [({"device": "cpu"}, 0.5)]
    assert found["opsin_batch_size_sum"] == [({"model": "m"}, 4)]
    assert found["opsin_calls_in_flight"] == [({"method": "Detect"}, 1)]
    assert len(asked) == 1


def test_every_metric_is_in_the_operators_pages() -> None:
    metrics = Metrics(lambda: Snapshot((ModelGauges("m", 1, profile=((1, 0.1, 0.0),)),), (("cpu", 0.5),)))
    CacheMetrics(metrics.registry)
    pages = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("operations.md", "cache.md"))
    told = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.registry.collect()
    }
    assert len(told) > 25
    assert not [name for name in sorted(told) if not re.search(f"`{name}[`{{]", pages)]


def test_two_servers_in_one_process_count_for_themselves() -> None:
    one, other = Metrics(), Metrics()
    one.failed("QUEUE_FULL")
    assert other.registry.get_sample_value("opsin_failures_total", {"reason": "QUEUE_FULL"}) is None


def test_a_closed_endpoint_leaves_neither_port_nor_thread() -> None:
    before = set(threading.enumerate())
    endpoint = MetricsEndpoint(Metrics().registry, "127.0.0.1", 0)
    endpoint.close()
    assert set(threading.enumerate()) <= before, "others may have ended meanwhile"
    MetricsEndpoint(Metrics().registry, "127.0.0.1", endpoint.port).close()


def test_an_address_that_cannot_be_had_is_an_os_error() -> None:
    endpoint = MetricsEndpoint(Metrics().registry, "127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use"):
            MetricsEndpoint(Metrics().registry, "127.0.0.1", endpoint.port)
    finally:
        endpoint.close()


async def test_each_call_is_logged_once_under_its_request_id(server) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as events:
        await server.inference.Detect(
            DetectRequest(image=Image(encoded=b"x")), metadata=(("x-request-id", "abc"),)
        )
    (event,) = [event for event in events if event["event"] == "call"]
    assert (event["method"], event["code"], event["log_level"]) == ("Detect", "OK", "debug")
    assert event["request_id"] == "abc"


def test_json_logs_are_one_object_a_line_with_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        configure(LogSettings(format="json", level="info"))
        bind_request("r-1")
        log = structlog.get_logger()
        log.debug("unheard")
        log.info("heard", answer=42)
        (line,) = capsys.readouterr().err.splitlines()
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    event = json.loads(line)
    assert (event["event"], event["answer"], event["request_id"], event["level"]) == (
        "heard",
        42,
        "r-1",
        "info",
    )
