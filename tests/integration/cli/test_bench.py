"""`opsin bench` against a server, with real processes of callers; and the bare model beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.cli.conftest import jpeg, run
from integration.cli.fake_server import FakeServer
from opsin_server import bare

Run = Callable[..., Any]


def told(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def bench(opsin: Run, *arguments: object) -> Any:
    return opsin("bench", "--warmup", "0", "--size", "1kB", "--json", *arguments)


@pytest.mark.parametrize("method", ["detect", "embed"])
def test_exactly_the_calls_asked_for_are_made_by_several_processes(
    opsin: Run, server: FakeServer, method: str
) -> None:
    result = bench(opsin, "--method", method, "-n", "60", "-c", "4", "--processes", "2")
    (line,) = told(result)
    assert (result.exit_code, line["answered"], line["errors"]) == (0, 60, {})
    assert line["mean_batch_size"] == 2.0
    assert line["stages"]["infer"] == 3.0
    assert 0 < line["latency"]["p50"] <= line["latency"]["p90"] <= line["latency"]["p99"]
    assert len(server.inference.requests) == 60 + 2, "each process tries one call before"


def test_inputs_are_distinct_and_ask_for_no_cached_answer(opsin: Run, server: FakeServer) -> None:
    bench(opsin, "-n", "40", "-c", "2", "--processes", "2")
    requests = server.inference.requests
    assert len({request.image.raw.data for request in requests[2:]}) == 40
    assert all(request.options.skip_cache for request in requests)


def test_several_numbers_of_callers_are_several_rows(opsin: Run) -> None:
    result = opsin("bench", "--warmup", "0", "--size", "1kB", "-n", "8", "-c", "1,2")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows[:2]] == ["1", "2"]
    assert "infer 3.00" in result.stdout


def test_frames_of_streams_are_counted_with_their_drops_and_failures(opsin: Run) -> None:
    result = bench(opsin, "--method", "stream", "-n", "30", "-c", "2")
    (line,) = told(result)
    assert line["calls"] == 30
    assert line["answered"] + sum(line["dropped"].values()) + sum(line["errors"].values()) == 30
    assert line["dropped"]["superseded"] >= 4
    assert result.exit_code == 1, "frames failed"


def test_refused_calls_are_told_by_reason_and_do_not_count_as_speed(opsin: Run, tmp_path: Path) -> None:
    for name, content in (("1.jpg", jpeg()), ("2.jpg", b"busy")):
        (tmp_path / name).write_bytes(content)
    result = opsin("bench", tmp_path, "--warmup", "0", "-n", "10", "-c", "1", "--json")
    (line,) = told(result)
    assert (line["answered"], line["errors"]) == (5, {"QUEUE_FULL": 5})
    assert result.exit_code == 1


def test_a_duration_stands_in_for_a_number_of_calls(opsin: Run) -> None:
    (line,) = told(bench(opsin, "-z", "300ms", "-c", "2"))
    assert line["seconds"] >= 0.3
    assert line["answered"] == line["calls"] >= 1


def test_no_server_is_told_at_once_as_by_every_command() -> None:
    result = run("bench", "-n", "3", "--size", "1kB")
    assert result.exit_code == 3
    assert "opsin serve" in result.stderr


def test_a_first_call_that_is_refused_ends_with_the_code_of_its_reason(opsin: Run, tmp_path: Path) -> None:
    for content, code, reason in ((b"busy", 5, "QUEUE_FULL"), (b"broken", 6, "DETECTOR_FAILED")):
        (tmp_path / "1.jpg").write_bytes(content)
        result = bench(opsin, tmp_path, "-n", "3")
        assert (result.exit_code, result.stdout) == (code, "")
        assert reason in result.stderr


def test_the_server_that_does_not_answer_is_named(opsin: Run) -> None:
    result = bench(opsin, "-n", "3", "--against", "127.0.0.1:1", "--repeats", "2")
    assert result.exit_code == 3
    assert "127.0.0.1:1" in result.stderr


def test_the_bare_model_of_a_server_that_is_not_there_is_no_traceback(pictures: Path) -> None:
    result = run("bench", pictures, "-n", "3", "--against", "bare")
    assert result.exit_code == 3
    assert "opsin serve" in result.stderr


def test_a_report_that_cannot_be_written_is_told_before_anything_is_sent(
    opsin: Run, server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    kept = tmp_path / "kept.json"
    kept.write_text("before")
    result = opsin("bench", "-n", "3", "-o", kept, "-o", tmp_path / "file" / "report.json")
    assert result.exit_code == 2
    assert "--output" in result.stderr
    assert server.inference.requests == []
    assert kept.read_text() == "before", "nothing is lost by trying"


def test_a_picture_of_no_bytes_among_others_is_told_before_anything_is_sent(
    opsin: Run, server: FakeServer, pictures: Path
) -> None:
    (pictures / "empty.jpg").write_bytes(b"")
    result = opsin("bench", pictures, "-n", "20")
    assert result.exit_code == 2
    assert "empty.jpg is empty" in result.stderr
    assert server.inference.requests == []


def test_texts_need_no_size(opsin: Run, server: FakeServer) -> None:
    assert bench(opsin, "--text", "-n", "3", "-c", "1").exit_code == 0
    result = opsin("bench", "--text", "--warmup", "0", "-n", "3", "-c", "1")
    assert result.exit_code == 0
    assert len(server.last.text) == 1000


def test_a_model_that_is_not_there_measures_nothing(opsin: Run) -> None:
    result = bench(opsin, "--model", "missing")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "no model 'missing'" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["-c", "0"], ["-c", "1,x"], ["--against", "ghost"], ["-z", "soon"], ["--size", "big"], ["gone.jpg"]],
)
def test_wrong_usage_is_exit_2(opsin: Run, arguments: list[str]) -> None:
    assert opsin("bench", *arguments).exit_code == 2


def test_the_server_is_compared_with_the_bare_model_in_the_same_run(opsin: Run, pictures: Path) -> None:
    """`echo` is a real detector, so that the bare loop is the real one."""
    arguments = [
        "--against",
        "bare",
        "--bare-model",
        "echo",
        "--bare-processes",
        "1",
        "-z",
        "300ms",
        "-c",
        "2",
    ]
    result = opsin("bench", pictures, *arguments, "--warmup", "0", "--json")
    run_line, bare_line = told(result)
    assert bare_line["rate"] == pytest.approx(sum(bare_line["rounds"]) / 2)
    assert run_line["share_of_bare"] == pytest.approx(run_line["rate"] / bare_line["rate"])


def test_the_bare_model_runs_on_pictures_only(opsin: Run) -> None:
    result = opsin("bench", "--size", "1kB", "--against", "bare")
    assert (result.exit_code, "run on pictures" in result.stderr) == (4, True)


def test_the_bare_loop_counts_what_all_processes_do_at_once(pictures: Path) -> None:
    paths = tuple(str(path) for path in sorted(pictures.rglob("*.jpg")))
    round_ = bare.measure(bare.Work("slow=echo,delay_ms=20", paths, seconds=0.4, batch=2), processes=2)
    assert len(round_.rates) == 2
    # 20 ms a batch of two is at most 100 pictures a second in each process.
    assert all(0 < rate <= 100 for rate in round_.rates)
    assert round_.rate == pytest.approx(sum(round_.rates))


@pytest.mark.parametrize(("model", "why"), [("ecko", "“echo”"), ("echo,delay_ms=soon", "delay_ms")])
def test_a_bare_model_that_cannot_be_loaded_is_told_in_a_sentence(
    model: str, why: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bare.main(["--model", model, "--seconds", "0.1", str(pictures / "a.jpg")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("opsin: the bare model cannot be run:")
    assert why in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("flag", ["-c", "--rps"])
@pytest.mark.parametrize("wrong", ["²", "0", "1,,2", "many", "-1"])
def test_a_load_that_is_no_number_is_told_by_its_flag(flag: str, wrong: str) -> None:
    result = run("bench", flag, wrong)
    assert result.exit_code == 2
    assert flag in result.stderr
    assert "above 0" in result.stderr
