"""Cheap counters and histograms: to a scrape they are the library's."""

import re

import pytest
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    enable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from opsin_server.telemetry.tallies import Histograms, Tallies

BOUNDS = (0.001, 0.5, 1, 2.5)
VALUES = (0.0, 0.001, 0.0011, 0.5, 1.0, 2.0, 2.5, 2.6, 1e9)


def both() -> tuple[CollectorRegistry, CollectorRegistry]:
    """The same events told to ours and to the library's."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tallies = Tallies("opsin_things", "What there was.", ["kind", "reason"], ours)
    counter = Counter("opsin_things", "What there was.", ["kind", "reason"], registry=theirs)
    for kind, reason, times in (("a", "", 3), ("b", 'quo"ted', 1), ("a", "late", 2)):
        for _ in range(times):
            tallies.add(kind, reason)
            counter.labels(kind, reason).inc()
    histograms = Histograms("opsin_seconds", "How long.", ["kind"], BOUNDS, ours)
    histogram = Histogram("opsin_seconds", "How long.", ["kind"], buckets=BOUNDS, registry=theirs)
    for kind in "ab":
        for value in VALUES:
            histograms.observe(value, kind)
            histogram.labels(kind).observe(value)
    return ours, theirs


@pytest.mark.parametrize("text", [generate_latest, generate_openmetrics])
def test_a_scrape_cannot_tell_them_from_the_librarys(text: object) -> None:
    assert callable(text)
    ours, theirs = (re.sub(r"(_created\S*) \S+", r"\1 then", text(one).decode()) for one in both())
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())


def test_since_when_they_count_is_not_told_where_that_is_turned_off() -> None:
    disable_created_metrics()
    try:
        ours, theirs = (generate_latest(one).decode() for one in both())
    finally:
        enable_created_metrics()
    assert "_created" not in ours
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())


def test_series_whose_labels_are_forgotten_are_gone_and_begin_anew() -> None:
    registry = CollectorRegistry()
    tallies = Tallies("opsin_things", "What there was.", ["model", "end"], registry)
    histograms = Histograms("opsin_seconds", "How long.", ["model", "version"], BOUNDS, registry)
    for model in "ab":
        tallies.add(model, "answered")
        tallies.add(model, "failed")
        histograms.observe(1.0, model, "1")
    tallies.forget(model="a")
    histograms.forget(model="a", version="1")

    def count(model: str, end: str) -> float | None:
        return registry.get_sample_value("opsin_things_total", {"model": model, "end": end})

    assert [count("a", "answered"), count("a", "failed"), count("b", "answered")] == [None, None, 1.0]
    sums = [
        registry.get_sample_value("opsin_seconds_sum", {"model": model, "version": "1"}) for model in "ab"
    ]
    assert sums == [None, 1.0]
    tallies.add("a", "answered")
    assert count("a", "answered") == 1.0


def test_a_name_is_given_once() -> None:
    registry = CollectorRegistry()
    Tallies("opsin_things", "What there was.", ["kind"], registry)
    with pytest.raises(ValueError, match="opsin_things"):
        Counter("opsin_things", "Again.", registry=registry)
    Histograms("opsin_seconds", "How long.", ["kind"], BOUNDS, registry)
    with pytest.raises(ValueError, match="opsin_seconds"):
        Histogram("opsin_seconds", "Again.", registry=registry)
