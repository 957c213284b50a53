"""The simulator: traces come at their rates, rivals do as documented, ours keeps its promises end to end."""

import builtins
import json
import math
import random
from itertools import islice
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.simulator import (
    Closed,
    Cost,
    Open,
    Ours,
    Recorded,
    Request,
    Result,
    Source,
    Window,
    bursty,
    diurnal,
    learnt,
    no_batching,
    poisson,
    pull,
    simulate,
)
from opsin_server.scheduling.simulator.cli import register
from opsin_server.scheduling.simulator.grid import MODELS, Cell, compare, grid, ours, summary
from opsin_server.scheduling.ticket import Priority

BUCKETS = (1, 2, 4, 8, 16, 32)
COST = Cost(0.004, 0.00025)


def one_model(cost: Cost = COST, **terms: float) -> Ours:
    return Ours({"m": ModelTerms(BUCKETS, **terms)}, {"m": learnt(cost, BUCKETS)})  # type: ignore[arg-type]


def callers(*flows: str, model: str = "m", within: float = math.inf) -> list[Request]:
    return [Request(0.0, model, flow, within) for flow in flows]


# -- traces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gaps", [poisson(100.0), bursty(100.0, peak=4.0, length=0.05), diurnal(100.0, period=2.0)]
)
def test_arrivals_come_at_the_rate_that_was_asked(gaps: object) -> None:
    assert callable(gaps)
    total = sum(islice(gaps(random.Random(3)), 40_000))
    assert 40_000 / total == pytest.approx(100.0, rel=0.06)


def test_bursts_are_bursty() -> None:
    def variation(gaps: list[float]) -> float:
        mean = sum(gaps) / len(gaps)
        return math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps)) / mean

    even = list(islice(poisson(100.0)(random.Random(3)), 20_000))
    burst = list(islice(bursty(100.0, peak=8.0, length=0.1)(random.Random(3)), 20_000))
    assert variation(even) == pytest.approx(1.0, abs=0.05)
    assert variation(burst) > 1.4


def test_a_recorded_trace_is_read_and_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"at": 1.5, "model": "m", "within": 0.2, "priority": "bulk"}\n\n{"at": 0.5, "model": "m"}\n'
    )
    first, second = Recorded.read(path).arrivals()
    assert (first.at, first.within, first.priority) == (0.5, math.inf, Priority.INTERACTIVE)
    assert (second.at, second.within, second.priority) == (1.5, 0.2, Priority.BULK)
    path.write_text('{"at": 1.5, "model": "m"}\n{"model": "m"}\n')
    with pytest.raises(ValueError, match="line 2"):
        Recorded.read(path)


# -- the engine ----------------------------------------------------------------------------------------------


def test_every_request_is_settled_once_whoever_batches() -> None:
    for batcher in (one_model(), Window(8, 0.005), Window(8, 0.005, "drop", 16), pull(8), no_batching()):
        trace = Open([Source("m", bursty(3000, peak=4, length=0.1), ("f", "g"), (0.02, 0.2))])
        result = simulate(trace, batcher, {"m": COST}, requests=3000)
        assert result.total.asked == 3000
        assert sum(t.asked for t in result.flows.values()) == 3000


def test_the_same_seed_gives_the_same_result() -> None:
    rows = [Cell(1.0, 4, (3, 10)).run(ours(MODELS), 2000).row() for _ in range(2)]
    assert rows[0] == rows[1]


def test_a_lane_never_runs_two_batches_at_once() -> None:
    for lanes in (1, 3):
        trace = Open([Source("m", poisson(5000), ("f",), (0.05, 0.05))])
        result = simulate(trace, one_model(), {"m": COST}, lanes=lanes, requests=4000)
        assert result.use <= 1.0 + 1e-9


def test_a_window_waits_for_its_delay_and_no_longer() -> None:
    single = Recorded([Request(1.0, "m", "f")])
    result = simulate(single, Window(8, 0.010), {"m": Cost(0.004, 0.0, noise=0.0)}, requests=1)
    assert result.total.latencies[0] == pytest.approx(0.014)
    eight = Recorded([Request(1.0, "m", "f")] * 8)
    result = simulate(eight, Window(8, 0.010), {"m": Cost(0.004, 0.0, noise=0.0)}, requests=8)
    assert max(result.total.latencies) == pytest.approx(0.004)


# -- what ours promises --------------------------------------------------------------------------------------


def test_weights_share_a_saturated_device_within_ten_percent() -> None:
    costs = {"a": COST, "b": Cost(0.010, 0.001), "c": Cost(0.002, 0.002)}
    terms = {name: ModelTerms(BUCKETS, weight) for name, weight in (("a", 1.0), ("b", 1.0), ("c", 2.0))}
    batcher = Ours(terms, {name: learnt(cost, BUCKETS) for name, cost in costs.items()})
    asked = [r for name in costs for r in callers(*(f"{name}{i}" for i in range(64)), model=name)]
    result = simulate(Closed(asked), batcher, costs, requests=12_000)
    for name, share in (("a", 0.25), ("b", 0.25), ("c", 0.5)):
        assert result.model_share(name) == pytest.approx(share, rel=0.1)


def test_flows_that_ask_for_more_than_their_share_get_equal_shares_and_the_modest_get_all() -> None:
    sources = [
        Source("m", poisson(rate), (flow,), (0.1, 0.1))
        for flow, rate in (("modest", 300.0), ("big", 2000.0), ("huge", 4000.0))
    ]
    result = simulate(Open(sources), one_model(), {"m": COST}, requests=20_000)
    assert result.flows["modest"].good / result.flows["modest"].asked > 0.99
    assert result.share("big") == pytest.approx(result.share("huge"), rel=0.1)


@pytest.mark.parametrize("cost", [COST, Cost(0.010, 0.001)])
def test_a_polite_caller_hardly_notices_a_greedy_one(cost: Cost) -> None:
    alone = simulate(Closed(callers("polite")), one_model(cost), {"m": cost}, requests=1000)
    both = Closed(callers("greedy", "polite"), in_flight=[256, 1])
    result = simulate(both, one_model(cost), {"m": cost}, requests=20_000)
    bound = 2 * alone.total.quantile(0.99) + cost.seconds(32)
    assert result.flows["polite"].quantile(0.99) <= bound


def test_at_twice_the_load_goodput_stays_near_the_peak_and_little_runs_in_vain() -> None:
    def goodput(load: float) -> Result:
        trace = Open([Source("m", poisson(load * 32 / COST.seconds(32)), ("f", "g"), (1.0, 1.0))])
        return simulate(trace, one_model(), {"m": COST}, requests=30_000)

    peak = max(goodput(load).goodput for load in (0.8, 0.9, 1.0, 1.1))
    double = goodput(2.0)
    assert double.goodput >= 0.9 * peak
    assert double.vain_share <= 0.02


def test_thirty_two_callers_run_in_nearly_full_batches() -> None:
    trace = Closed(callers(*(f"f{i}" for i in range(32))), think=0.0002)
    result = simulate(trace, one_model(), {"m": COST}, requests=6000)
    assert result.mean_batch >= 0.8 * 32


def test_one_caller_never_waits() -> None:
    result = simulate(Closed(callers("f")), one_model(), {"m": Cost(0.004, 0.00025, noise=0.0)}, requests=500)
    assert result.total.quantile(1.0) == pytest.approx(0.00425)


def test_interactive_work_keeps_its_latency_beside_a_flood_of_streams() -> None:
    sources = [
        Source("m", poisson(5000), tuple(f"s{i}" for i in range(8)), (0.2, 0.2), Priority.STREAM),
        Source("m", poisson(50), ("unary",), (math.inf, math.inf)),
    ]
    result = simulate(Open(sources), one_model(), {"m": COST}, requests=20_000)
    assert result.flows["unary"].quantile(0.99) <= 2.2 * COST.seconds(32)


def test_idle_lanes_are_used_where_batches_gain_nothing() -> None:
    cost = Cost(0.001, 0.010)
    result = simulate(
        Closed(callers(*(f"f{i}" for i in range(4)))), one_model(cost), {"m": cost}, lanes=4, requests=800
    )
    assert result.total.quantile(0.5) < 1.3 * cost.seconds(1)


# -- against rivals ------------------------------------------------------------------------------------------


def test_ours_is_never_far_behind_a_tuned_window_and_ahead_in_the_middle() -> None:
    cells = grid(loads=(0.5, 1.0, 2.0), peaks=(4.0,), withins=((3, 3), (10, 10), (3, 10)))
    outcomes = list(compare(cells, requests=4000, rivals=("window", "window + expiry")))
    totals = summary(outcomes)
    assert totals["window"]["median"] >= 1.2
    assert totals["window"]["worst"] >= 0.97
    assert totals["window + expiry"]["worst"] >= 0.95
    assert totals["best of all"]["median"] <= totals["window"]["median"]


# -- the command ---------------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["simulate", *arguments])
    return result.exit_code, result.output


def test_the_command_prints_figures_as_json() -> None:
    code, text = run("--json", "--requests", "500", "--policy", "ours", "--policy", "window:8:5:drop")
    rows = json.loads(text)
    assert code == 0
    assert [r["policy"] for r in rows] == ["ours", "window 8 / 5 ms, late drop"]
    assert all(0 < r["good_share"] <= 1 for r in rows)


@pytest.mark.parametrize("trace", ["poisson", "bursty", "diurnal", "closed"])
def test_the_command_knows_every_trace(trace: str) -> None:
    code, text = run("--trace", trace, "--requests", "300", "--policy", "ours")
    assert code == 0
    assert "ours" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "m:x:1"),
        ("--model", "m:0:0"),
        ("--policy", "window:0:1"),
        ("--model", "m:inf:1"),
        ("--model", "m:1:1:nan"),
        ("--policy", "window:4:soon"),
        ("--policy", "window:4:nan"),
        ("--policy", "window:4:-5"),
        ("--policy", "pull:²"),
        ("--policy", "magic"),
        ("--buckets", "0,2"),
        ("--trace", "/nowhere.jsonl"),
    ],
)
def test_the_command_says_what_is_wrong_with_an_option(arguments: tuple[str, str]) -> None:
    code, text = run("--requests", "10", *arguments)
    assert code == 2
    assert "Traceback" not in text


@pytest.mark.parametrize("row", ['{"at": NaN, "model": "m"}', '{"at": 1, "model": "m", "within": NaN}'])
def test_a_recorded_time_that_is_no_number_is_refused_by_its_line(tmp_path: Path, row: str) -> None:
    (tmp_path / "trace.jsonl").write_text(f'{{"at": 0, "model": "m"}}\n{row}\n')
    with pytest.raises(ValueError, match="line 2"):
        Recorded.read(tmp_path / "trace.jsonl")


@pytest.mark.parametrize("rows", [0, 1])
def test_a_trace_of_nothing_or_one_request_is_simulated(tmp_path: Path, rows: int) -> None:
    (tmp_path / "trace.jsonl").write_text('{"at": 2, "model": "m"}\n' * rows)
    code, text = run("--json", "--trace", str(tmp_path / "trace.jsonl"), "--model", "m:1:1")
    assert code == 0
    assert {row["good_share"] for row in json.loads(text)} == {float(rows)}


def test_the_command_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.png"
    code, _ = run("--requests", "300", "--policy", "ours", "--policy", "none", "--plot", str(path))
    assert code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    code, text = run("--requests", "100", "--policy", "ours", "--plot", str(tmp_path / "x.png"))
    assert code == 1
    assert "pip install 'opsin[plots]'" in text
