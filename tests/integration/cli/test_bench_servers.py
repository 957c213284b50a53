"""`opsin bench` against real servers, whose speed is known because their model sleeps."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.cli.conftest import jpeg, run
from integration.cli.fake_server import FakeServer, running
from integration.deploy.processes import opsin_server

Run = Callable[..., Any]

QUICK = ("bench", "--warmup", "0", "--size", "1kB", "--processes", "1")
DEVICE = "one=echo,delay_ms=50,max_batch=1"
"""With one lane it answers twenty a second, and not one more."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with `echo`, and with `one` as above."""
    log = tmp_path_factory.mktemp("server") / "log"
    with opsin_server(log, "--model", "echo", "--model", DEVICE, "--lanes", "1") as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another one, whose `one` answers five a second."""
    log = tmp_path_factory.mktemp("server") / "log"
    model = "one=echo,delay_ms=200,max_batch=1"
    with opsin_server(log, "--model", model, "--lanes", "1") as server:
        yield f"127.0.0.1:{server.port}"


def bench(target: str, *arguments: object, code: int = 0) -> list[dict[str, Any]]:
    """The JSON lines of a bench."""
    result = run(*QUICK, "--json", *arguments, target=target)
    assert result.exit_code == code, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_a_closed_loop_hides_what_an_open_one_shows_of_an_overloaded_server(target: str) -> None:
    """Twenty a second is all it can do. Asked for forty, whoever comes last has waited for all before."""
    load = ("--model", "one", "-n", 40)
    (closed,) = bench(target, *load, "-c", 1)
    (opened,) = bench(target, *load, "--rps", 40, "--arrivals", "constant")
    assert closed["latency"]["p50"] < opened["latency"]["p50"] / 2, "nothing seems to be wrong"
    assert opened["offered"] == 40
    assert opened["rate"] < 25, "the server does what it can"
    assert opened["latency"]["p99"] > 600, "40 calls of 50 ms within a second"
    assert opened["latency"]["p99"] - opened["latency"]["p50"] > 400, "each waits 25 ms more than the last"


def test_goodput_counts_what_was_answered_in_time(target: str) -> None:
    load = ("--model", "one", "-n", 20, "--rps", 1000, "--arrivals", "constant", "--deadline", "300ms")
    (line,) = bench(target, *load)
    assert line["answered"] == 20
    assert line["good"] <= 6, "six times 50 ms is 300"
    assert line["good_share"] == line["good"] / 20


def test_a_trace_is_sent_at_its_times(target: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(json.dumps({"at": 5 + at / 10, "model": "x"}) for at in range(6)))
    (line,) = bench(target, "--trace", trace)
    samples = tmp_path / "samples.csv"
    bench(target, "--trace", trace, "-o", samples)
    (again,) = bench(target, "--trace", samples)
    assert (line["answered"], line["seconds"] >= 0.5) == (6, True)
    assert again["answered"] == 6, "what was saved is a trace, too"


def test_every_input_of_a_batch_is_counted_with_its_own_refusal(target: str, tmp_path: Path) -> None:
    for name, content in (("1.jpg", jpeg()), ("2.jpg", jpeg()[:200])):
        (tmp_path / name).write_bytes(content)
    (line,) = bench(target, tmp_path, "--method", "batch", "--batch-size", 4, "-n", 5, "-c", 1, code=1)
    assert (line["answered"], line["inputs"], line["refused"]) == (5, 10, {"IMAGE_UNDECODABLE": 10})


def test_streams_tell_age_drops_by_reason_jitter_and_fairness(target: str) -> None:
    """Two cameras push four times what the device can do: every frame is answered or dropped, by a reason."""
    load = ("--model", "one", "--method", "stream", "-c", 2, "--rps", 80, "-z", "1s")
    (line,) = bench(target, *load, "--arrivals", "constant", "--freshness", "latest")
    assert line["calls"] == 80
    assert line["answered"] + line["dropped"]["superseded"] == 80
    assert line["dropped"]["superseded"] > 10
    assert line["age_p50"] > 0
    assert 0.5 < line["streams"]["fairness"] <= 1
    assert line["streams"]["jitter"] >= 0
    assert sum(one["answered"] for one in line["streams"]["each"]) == line["answered"]


@pytest.mark.slow
def test_two_servers_take_turns_and_the_ratio_is_of_their_rounds(target: str, slower: str) -> None:
    load = ("--model", "one", "-n", 8, "-c", 1, "--repeats", 2, "--against", slower)
    told = bench(target, *load)
    runs = [line for line in told if line["kind"] == "run"]
    (pair,) = [line for line in told if line["kind"] == "pair"]
    assert sorted((one["round"], one["server"]) for one in runs) == sorted(
        (number, server) for number in (0, 1) for server in (target, slower)
    )
    assert pair["rate"]["median"] > 1.2
    assert pair["p50"]["median"] < 0.8
    assert pair["rate"]["low"] <= pair["rate"]["median"] <= pair["rate"]["high"]
    assert pair["rate"]["confidence"] == 0.5


@pytest.mark.slow
def test_the_knee_lies_where_the_server_gives_in(target: str) -> None:
    load = ("--model", "one", "--find-knee", "--rps", 10, "--deadline", "300ms", "-z", "500ms")
    told = bench(target, *load, "--arrivals", "constant")
    (knee,) = [line for line in told if line["kind"] == "knee"]
    assert knee["deadline"] == 0.3
    # 20 a second for ever; in half a second with 0.3 seconds of patience up to 32.
    assert knee["rate"] is None or knee["rate"] <= 40
    assert max(step["rate"] for step in knee["steps"]) <= 80


def test_what_ghz_would_have_written_can_be_printed_or_saved(target: str, tmp_path: Path) -> None:
    arguments = (*QUICK, "-n", 12, "-c", 2, "-O", "ghz")
    printed = run(*arguments, target=target)
    run(*arguments, "-o", tmp_path / "report.json", target=target)
    for text in (printed.stdout, (tmp_path / "report.json").read_text()):
        told = json.loads(text)
        assert (told["count"], told["statusCodeDistribution"]) == (12, {"OK": 12})
        assert len(told["details"]) == 12


def test_several_reports_are_written_by_their_endings(target: str, tmp_path: Path) -> None:
    paths = [tmp_path / "deep" / f"report.{ending}" for ending in ("json", "csv", "html")]
    files = [part for path in paths for part in ("-o", path)]
    bench(target, "-n", 10, "-c", 2, *files)
    document, samples, page = (path.read_text() for path in paths)
    assert json.loads(document)["runs"][0]["answered"] == 10
    assert len(samples.splitlines()) == 11
    assert page.startswith("<!doctype html>")


def test_one_input_again_and_again_is_the_same_bytes(opsin: Run, server: FakeServer) -> None:
    opsin(*QUICK, "-n", "10", "-c", "2", "--same")
    assert len({request.image.raw.data for request in server.inference.requests}) == 1


def test_pictures_of_a_file_are_never_the_same_file_twice(
    opsin: Run, server: FakeServer, pictures: Path
) -> None:
    opsin("bench", pictures, "--warmup", "0", "-n", "12", "-c", "2")
    sent = [request.image.encoded for request in server.inference.requests]
    assert len(set(sent)) == len(sent) == 13


@pytest.mark.slow
def test_a_server_that_goes_away_is_told_with_what_was_measured() -> None:
    result: list[Any] = []
    with running() as fake:
        thread = threading.Thread(
            target=lambda: result.append(run(*QUICK, "-c", "2", "-z", "60s", target=fake.target))
        )
        enough = fake.inference.enough(20)
        thread.start()
        assert enough.wait(60)
    thread.join(60)
    (ended,) = result
    assert ended.exit_code == 3
    assert "the server went away" in ended.stderr
    assert "UNAVAILABLE" in ended.stdout
    assert "calls/s" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--rps", "0"], "rate above 0"),
        (["--rps", "1,fast"], "rate above 0"),
        (["--rps", "1,2", "-c", "1,2"], "several numbers"),
        (["--trace", "nowhere.csv"], "cannot be read"),
        (["--find-knee", "--rps", "1,2"], "several --rps"),
        (["--find-knee", "--against", "bare"], "--against"),
        (["--against", "nobody"], "HOST:PORT"),
        (["--deadline", "soon"], "--deadline: 'soon' is not a duration above 0"),
        (["-z", "0s"], "--duration: '0s' is not a duration above 0"),
        (["--size", "0x10"], "--size: '0x10' is neither"),
        (["--method", "stream", "--freshness", "new"], "--freshness: 'new' is not one of"),
        (["--warmup", "inf"], "--warmup: a warm-up ends"),
        (["--against", "host:"], "--against: 'host:' is neither"),
        (["--against", ":5"], "--against: ':5' is neither"),
        (["-o", "report.txt"], "endings"),
        (["-O", "ghz", "-c", "1,2"], "one load"),
        (["--method", "stream", "--text"], "pictures"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_sent(
    opsin: Run, server: FakeServer, arguments: list[str], why: str
) -> None:
    result = opsin("bench", *arguments)
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.replace("│", "").split())
    assert server.inference.requests == []
