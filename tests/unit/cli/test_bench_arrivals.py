"""Arrivals are decided before the first call is sent; dealt out, none is lost or repeated."""

import json
import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.bench.arrivals import Arrivals, TraceError, read_trace
from opsin.bench.samplescsv import COLUMNS
from opsin_server.scheduling.simulator.traces import Recorded

RATES = st.floats(0.5, 5000)


@given(RATES, st.integers(1, 500))
def test_a_constant_rate_is_evenly_spaced(rate: float, total: int) -> None:
    offsets = list(Arrivals("constant", rate).offsets(total=total))
    assert offsets == pytest.approx([number / rate for number in range(total)])


@given(RATES, st.integers(1, 9), st.integers(1, 40))
def test_parts_of_a_constant_rate_are_the_whole(rate: float, parts: int, each: int) -> None:
    whole = Arrivals("constant", rate)
    dealt = [offset for at in range(parts) for offset in whole.part(at, parts).offsets(total=each)]
    assert sorted(dealt) == pytest.approx(list(whole.offsets(total=parts * each)))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(1, 7))
def test_parts_of_a_trace_are_the_whole(times: list[float], parts: int) -> None:
    whole = Arrivals.of_trace(times)
    dealt = [offset for at in range(parts) for offset in whole.part(at, parts).offsets()]
    assert sorted(dealt) == sorted(whole.offsets())


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=50, unique=True), st.floats(1, 100))
def test_a_stretched_trace_has_the_rate_asked_for_and_the_same_shape(ms: list[int], rate: float) -> None:
    times = [one / 1000 for one in ms]
    moved = list(Arrivals.of_trace(times, rate).offsets())
    assert moved[0] == 0
    assert moved[-1] == pytest.approx((len(times) - 1) / rate)
    own = sorted(times)
    scale = moved[-1] / (own[-1] - own[0])
    assert moved == pytest.approx([(time - own[0]) * scale for time in own])


def test_poisson_arrivals_have_the_rate_and_the_variance_of_poisson() -> None:
    offsets = list(Arrivals("poisson", 200.0, seed=5).offsets(duration=100.0))
    assert len(offsets) == pytest.approx(20_000, rel=0.03)
    gaps = [later - earlier for earlier, later in pairwise(offsets)]
    mean = fmean(gaps)
    assert fmean((gap - mean) ** 2 for gap in gaps) == pytest.approx(mean**2, rel=0.1), "exponential gaps"


def test_parts_of_poisson_arrivals_are_independent_and_add_up_to_the_rate() -> None:
    parts = [Arrivals("poisson", 200.0).part(at, 4) for at in range(4)]
    offsets = [list(part.offsets(duration=50.0)) for part in parts]
    assert sum(map(len, offsets)) == pytest.approx(10_000, rel=0.05)
    assert len({one[0] for one in offsets}) == 4, "each has a seed of its own"


def test_both_servers_of_a_round_get_the_same_arrivals_and_another_round_gets_others() -> None:
    arrivals = Arrivals("poisson", 10.0)
    first = list(arrivals.again(3).offsets(total=20))
    assert first == list(arrivals.again(3).offsets(total=20))
    assert first != list(arrivals.again(4).offsets(total=20))


def test_arrivals_survive_the_way_to_another_process() -> None:
    before = Arrivals.of_trace([1.0, 2.0, 4.0])
    assert Arrivals.from_dict(json.loads(json.dumps(asdict(before)))) == before


@pytest.mark.parametrize(
    "text",
    [
        "0.5\n1.5\n\n4\n",
        "at,latency_ms\n0.5,3\n1.5,4\n4,5\n",
        '{"at": 0.5, "model": "m"}\n{"at": 1.5, "model": "m", "within": 1}\n{"at": 4, "model": "n"}\n',
    ],
    ids=["seconds", "csv", "simulate"],
)
def test_a_trace_is_seconds_or_csv_or_what_simulate_reads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    assert read_trace(path) == (0.5, 1.5, 4.0)


def test_a_trace_of_the_simulator_means_the_same_to_both(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps({"at": at, "model": "m"}) for at in (0.0, 0.25, 0.75)))
    assert read_trace(path) == tuple(request.at for request in Recorded.read(path).arrivals())


def test_samples_that_were_saved_can_be_replayed_one_run_of_them(tmp_path: Path) -> None:
    """Each run begins at 0: two of them together would be twice the load."""
    path = tmp_path / "samples.csv"
    rows = [[""] * len(COLUMNS) for _ in range(4)]
    for row, (round_, at) in zip(rows, [(0, 0.0), (0, 0.5), (1, 0.1), (1, 0.6)], strict=True):
        row[COLUMNS.index("round")], row[COLUMNS.index("at")] = str(round_), str(at)
    path.write_text("\n".join(",".join(row) for row in [list(COLUMNS), *rows]))
    assert read_trace(path) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("0\n1\n\nsoon\n", "line 4"),
        ("0\ninf\n", "line 2"),
        ("time,model\n1,m\n", "no column 'at'"),
        ("at,model\n", "no times"),
        ('{"at": 1}\n{"model": "m"}\n', "line 2"),
        ('{"at": 1}\n{"at": \n', "line 2"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_the_line(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(TraceError, match=why):
        read_trace(path)


def test_a_trace_of_one_call_has_no_rate_and_is_sent_at_once() -> None:
    only = Arrivals.of_trace([7.0], rate=5.0)
    assert (list(only.offsets()), math.isinf(only.rate)) == ([0.0], True)
