"""What a bench writes: JSON, CSV, a page with plots, and the report that tools for ghz read."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.bench.arrivals import Arrivals
from opsin.bench.document import document
from opsin.bench.figures import figures_of
from opsin.bench.ghz import report
from opsin.bench.html import html
from opsin.bench.knee import Step
from opsin.bench.limits import Limits
from opsin.bench.load import STAGES, Recording, Sample
from opsin.bench.messages import Asked
from opsin.bench.pairing import Turn
from opsin.bench.payloads import Payload
from opsin.bench.plan import Plan, Point
from opsin.bench.plots import plots
from opsin.bench.run import Knee, Result, Run
from opsin.bench.samplescsv import samples_csv
from opsin.bench.summary import pairs

CLIENT = {"target": "here:1", "tls": False, "token": "secret"}
STAGE_TIMES = tuple(0.5 for _ in STAGES)


def samples(number: int = 20, stream: int = 0) -> list[Sample]:
    good = [
        Sample(0.010 + at / 1000, batch_size=2, stages=STAGE_TIMES, at=at / 10, lag=0.001, stream=stream)
        for at in range(number)
    ]
    bad = Sample(0.5, error="QUEUE_FULL", code="RESOURCE_EXHAUSTED", at=1.0, stream=stream)
    return [*good, bad]


def result(points: tuple[Point, ...] = (Point(4),), sides: int = 1, **more: Any) -> Result:
    plan = Plan(
        CLIENT,
        more.pop("method", "detect"),
        Payload("raw"),
        Asked("m"),
        points,
        duration=2.0,
        deadline=0.02,
        rival={**CLIENT, "target": "there:2"} if sides == 2 else None,
        **more,
    )
    runs = []
    for number in range(plan.rounds):
        for at, point in enumerate(points):
            for side in range(sides):
                recording = Recording(samples(20 + 10 * at), 2.0, 0.1, 0.5, begun=1_700_000_000.0)
                figures = figures_of([recording], point.callers or 0, offered=point.offered, deadline=0.02)
                runs.append(Run(Turn(at, number, side), point, figures, (recording,)))
    return Result(plan, runs)


def test_the_report_of_ghz_has_its_fields_with_its_units() -> None:
    told = json.loads(json.dumps(report(result())))
    assert told["count"] == 21
    assert told["total"] == 2_000_000_000, "nanoseconds"
    assert (told["fastest"], told["slowest"]) == (10_000_000, 29_000_000), "of the answered calls"
    assert told["average"] == pytest.approx((sum(range(10, 30)) + 500) / 21 * 1e6, abs=2), "of all calls"
    assert told["rps"] == 10.5
    assert told["statusCodeDistribution"] == {"OK": 20, "ResourceExhausted": 1}
    assert told["errorDistribution"] == {"rpc error: code = ResourceExhausted desc = QUEUE_FULL": 1}
    assert [one["percentage"] for one in told["latencyDistribution"]] == [10, 25, 50, 75, 90, 95, 99]
    assert told["latencyDistribution"][2]["latency"] == pytest.approx(19_000_000)
    assert told["options"]["call"] == "opsin.v1.InferenceService.Detect"
    assert told["options"]["concurrency"] == 4
    assert datetime.fromisoformat(told["date"]).tzinfo is not None
    assert set(told["details"][0]) == {"timestamp", "latency", "error", "status"}
    assert {type(told[name]) for name in ("count", "total", "average", "fastest", "slowest")} == {int}


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=60))
def test_a_histogram_of_ghz_has_eleven_buckets_that_hold_every_call(seconds: list[float]) -> None:
    recording = Recording([Sample(one) for one in seconds], 1.0)
    run = Run(Turn(0, 0), Point(1), figures_of([recording], 1), (recording,))
    buckets = report(Result(result().plan, [run]))["histogram"]
    assert len(buckets) == 11
    assert sum(bucket["count"] for bucket in buckets) == len(seconds)
    assert sum(bucket["frequency"] for bucket in buckets) == pytest.approx(1.0)
    assert (buckets[0]["mark"], buckets[-1]["mark"]) == (min(seconds), max(seconds))


def test_a_report_without_an_answer_is_still_one() -> None:
    recording = Recording([Sample(1.0, error="UNAVAILABLE", code="UNAVAILABLE")], 1.0)
    run = Run(Turn(0, 0), Point(1), figures_of([recording], 1), (recording,))
    told = report(Result(result().plan, [run]))
    assert (told["count"], told["fastest"], told["latencyDistribution"], told["histogram"]) == (1, 0, [], [])


def test_the_document_tells_the_plan_the_runs_and_what_they_come_to_but_no_token() -> None:
    text = document(result(sides=2, rounds=3))
    assert "secret" not in text
    told = json.loads(text)
    assert (told["format"], told["target"], told["plan"]["against"]) == (1, "here:1", "there:2")
    assert len(told["runs"]) == 6
    assert [line["rate"]["median"] for line in told["summaries"]] == [10.0, 10.0]
    assert told["pairs"][0]["rate"]["median"] == 1.0
    run = told["runs"][0]
    assert (run["good"], run["goodput"], run["answered"]) == (11, 5.5, 20), "within 20 ms"
    assert run["latency_curve_ms"][0] == [0.0, pytest.approx(10.0)]
    assert run["latency_curve_ms"][-1] == [1.0, pytest.approx(29.0)]


def test_every_call_is_a_line_of_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(samples_csv(result((Point(None, Arrivals("poisson", 10.0)),))))))
    assert len(rows) == 21
    assert (rows[0]["offered"], rows[0]["at"], rows[0]["status"]) == ("10.0", "0.000000", "OK")
    failed = next(row for row in rows if row["error"])
    assert (failed["status"], failed["latency_ms"], failed["infer_ms"]) == (
        "RESOURCE_EXHAUSTED",
        "500.000",
        "",
    )


class Tags(HTMLParser):
    """Every tag that is opened, and whatever a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.fetched += [value for value in found if not value.startswith(("#", "data:"))]


def test_the_page_holds_its_plots_and_fetches_nothing() -> None:
    page = html(result((Point(1), Point(8)), name="before <and> after"))
    tags = Tags()
    tags.feed(page)
    assert tags.fetched == []
    assert "script" not in tags.tags
    assert tags.tags.count("figure") == tags.tags.count("svg") >= 5
    assert "before &lt;and&gt; after" in page
    assert "QUEUE_FULL" in page


@pytest.mark.parametrize(
    "kind",
    ["one", "loads", "pair", "knee", "streams", "all at once", "nothing answered"],
    ids=lambda kind: kind,
)
def test_every_kind_of_bench_can_be_drawn(kind: str) -> None:
    shown = result()
    match kind:
        case "loads":
            shown = result((Point(1), Point(8), Point(32)))
        case "pair":
            shown = result(sides=2, rounds=2)
            assert pairs(shown)
        case "knee":
            rates = [Point(None, Arrivals("poisson", rate)) for rate in (10.0, 20.0, 40.0)]
            shown = result(tuple(rates))
            shown.knee = Knee(20.0, False, 0.02, tuple(Step(rate, rate < 40) for rate in (10.0, 20.0, 40.0)))
        case "streams":
            recording = Recording([*samples(9, 1), *samples(5, 2)], 2.0, streams=3)
            shown = result(method="stream")
            shown.runs = [Run(Turn(0, 0), Point(3), figures_of([recording], 3), (recording,))]
        case "all at once":
            shown = result((Point(None, Arrivals.of_trace([3.0, 3.0])),))
        case "nothing answered":
            recording = Recording([Sample(1.0, error="X")], 1.0)
            shown.runs = [Run(Turn(0, 0), Point(1), figures_of([recording], 1), (recording,))]
    drawn = dict(plots(shown))
    assert "Throughput over time" in drawn
    for svg in drawn.values():
        assert ET.fromstring(svg).tag.endswith("svg")


def tiles(page: str) -> list[tuple[str, str]]:
    """The headline of a page: value and label of each tile."""
    return re.findall(r'<div class="tile[^"]*"><b>(.*?)</b><span>(.*?)</span>', page)


def test_the_headline_of_a_pair_is_ours_even_when_the_other_is_quicker() -> None:
    shown = result(sides=2, rounds=2)
    for at, run in enumerate(shown.runs):
        if run.turn.side == 1:
            quicker = Recording(run.recordings[0].samples, 1.0)
            shown.runs[at] = Run(run.turn, run.point, figures_of([quicker], 4, deadline=0.02), (quicker,))
    page = html(shown)
    ours = shown.runs[0].figures
    assert tiles(page)[0] == (f"{ours.goodput:.1f}", "good answers a second (4 callers)")
    assert ("0.50 ×", "times the answers of there:2 (4 callers, 0.50–0.50)") in tiles(page)
    assert "here:1 over there:2" in page
    assert "0.50 (0.50–0.50)" in page, "the ratio with its interval"


def test_the_headline_of_a_search_is_the_knee_and_not_an_overload_beyond() -> None:
    rates = [Point(None, Arrivals("poisson", rate)) for rate in (10.0, 20.0, 40.0)]
    shown = result(tuple(rates))
    shown.knee = Knee(20.0, False, 0.02, tuple(Step(rate, rate < 40) for rate in (10.0, 20.0, 40.0)))
    knee = shown.runs[1].figures
    assert tiles(html(shown))[2] == (f"{knee.goodput:.1f}", "good answers a second at the knee")


def test_a_search_in_which_nothing_was_held_has_no_least_knee() -> None:
    shown = result((Point(None, Arrivals("poisson", 10.0)),))
    shown.knee = Knee(None, True, 0.02, (Step(10.0, False, True),))
    assert tiles(html(shown))[0] == ("none", "knee")


def test_the_page_says_when_the_tool_was_the_limit() -> None:
    shown = result()
    slow = replace(shown.runs[0].figures, limits=Limits(0.99, None, None, None, None, 0, ("too busy",)))
    shown.runs[0] = replace(shown.runs[0], figures=slow)
    assert ("1 of 1", "runs in which the tool may have been the limit") in tiles(html(shown))


def test_the_page_of_streams_tells_age_jitter_fairness_and_drops_by_reason() -> None:
    drops = [Sample(0.1, dropped="superseded", stream=2, at=at / 10) for at in range(3)]
    aged = [Sample(0.02, age=0.015, stream=1, at=at / 10) for at in range(4)]
    recording = Recording([*aged, *drops], 2.0, streams=2)
    shown = result(method="stream")
    shown.runs = [Run(Turn(0, 0), Point(2), figures_of([recording], 2, offered=3.5), (recording,))]
    page = html(shown)
    assert "<td>15.0</td><td>15.0</td><td>0.500</td>" in page, "age and fairness"
    assert "<td>3 superseded</td>" in page


def test_a_page_of_rounds_has_the_medians_that_the_terminal_has() -> None:
    shown = result(rounds=2)
    late = Recording([Sample(at.seconds * 3, at=at.at) for at in samples()], 2.0)
    shown.runs[1] = Run(Turn(0, 1), Point(4), figures_of([late], 4, deadline=0.02), (late,))
    both = [run.figures.latency.p50 for run in shown.runs if run.figures.latency]
    assert f"<td>{sum(both) / 2:.1f}</td>" in html(shown)
