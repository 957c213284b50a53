"""`opsin embed`, `models`, `health`, `version` against a server."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from integration.cli.conftest import run
from integration.cli.fake_server import MODEL, FakeServer

Run = Callable[..., Any]


def test_vectors_are_written_as_rows_in_the_order_of_the_inputs(
    opsin: Run, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "aa.jpg").write_bytes(b"bad")
    out = tmp_path / "deep" / "v.npy"
    result = opsin("embed", pictures, "-o", out)
    assert result.exit_code == 1
    rows = np.load(out)
    assert (rows.shape, rows.dtype) == ((4, 4), np.float32)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, False]
    assert rows[0].tolist() == [0.5, -0.5, 0.5, -0.5]


def test_vectors_are_written_as_json_lines(opsin: Run, tmp_path: Path) -> None:
    out = tmp_path / "v.jsonl"
    assert opsin("embed", "--text", "one", "two", "-o", out, "-q").exit_code == 0
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["input"], line["vector"]) for line in told] == [
        ("one", [0.5, -0.5, 0.5, -0.5]),
        ("two", [0.5, -0.5, 0.5, -0.5]),
    ]


@pytest.mark.parametrize("flags", [[], ["--truncate"]])
def test_a_text_may_be_cut_only_where_the_command_line_says_so(
    opsin: Run, server: FakeServer, flags: list[str]
) -> None:
    assert opsin("embed", "--text", "one", *flags).exit_code == 0
    assert server.last.truncate_text is bool(flags)


def test_an_output_of_another_kind_is_refused_before_anything_is_sent(opsin: Run, server: FakeServer) -> None:
    result = opsin("embed", "--text", "one", "-o", "v.csv")
    assert result.exit_code == 2
    assert ".npy or .jsonl" in result.stderr
    assert server.inference.requests == []


@pytest.mark.parametrize("words", [["models"], ["models", "list"]])
def test_models_are_listed_as_a_table(opsin: Run, words: list[str]) -> None:
    result = opsin(*words)
    assert result.exit_code == 0, result.stderr
    assert "fake@1" in result.stdout
    assert "SERVING" in result.stdout
    assert "7.6 MB" in result.stdout


@pytest.mark.parametrize(
    "words", [["models", "--json"], ["models", "list", "--json"], ["models", "--json", "list"]]
)
def test_models_as_json_lines_wherever_the_option_stands(opsin: Run, words: list[str]) -> None:
    (line,) = opsin(*words).stdout.splitlines()
    assert json.loads(line)["name"] == "fake"


def test_one_model_is_shown_with_its_classes(opsin: Run) -> None:
    assert "person, cat" in opsin("models", "show", "fake").stdout


def test_a_long_source_is_shown_whole_on_a_narrow_terminal(server: FakeServer) -> None:
    from opsin.cli.app import app

    environment = {"OPSIN_TARGET": server.target, "COLUMNS": "40"}
    result = CliRunner(env=environment).invoke(app, ["models", "show", "fake"])
    assert MODEL.source in result.stdout


def test_a_model_that_is_not_there_is_exit_4(opsin: Run) -> None:
    result = opsin("models", "show", "missing")
    assert (result.exit_code, "no model 'missing'" in result.stderr) == (4, True)


def test_the_target_given_to_the_group_holds_for_its_commands(server: FakeServer) -> None:
    assert run("models", "--target", server.target, "show", target="127.0.0.1:1").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 0, "SERVING\n"),
        (["--service", "model/slow"], 1, "NOT_SERVING\n"),
        (["--service", "nobody"], 1, "SERVICE_UNKNOWN\n"),
        (["--quiet"], 0, ""),
    ],
)
def test_health_is_exit_0_only_when_serving(opsin: Run, arguments: list[str], code: int, says: str) -> None:
    result = opsin("health", *arguments)
    assert (result.exit_code, result.stdout) == (code, says)


def test_health_of_nobody_is_exit_1_as_container_runtimes_want_it() -> None:
    result = run("health", "--timeout", "30")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no server answers at 127.0.0.1:1" in result.stderr


def test_health_is_watched_until_the_server_ends_it(opsin: Run) -> None:
    result = opsin("health", "--watch", "--json")
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()][:2] == [
        "NOT_SERVING",
        "SERVING",
    ]


def test_the_version_of_the_server_is_asked_for(opsin: Run) -> None:
    assert "server 9.9.9" in opsin("version", "--server").stdout


def test_the_version_needs_no_server() -> None:
    assert run("version").exit_code == 0
    assert run("--version").stdout.startswith("opsin ")


def test_authorities_that_are_not_there_are_wrong_usage() -> None:
    result = run("health", "--ca", "gone.pem")
    assert (result.exit_code, "no file 'gone.pem'" in result.stderr) == (2, True)


def test_tls_to_a_server_without_it_is_told_without_a_traceback(server: FakeServer) -> None:
    result = run("models", "--tls", "--timeout", "30", target=server.target)
    assert result.exit_code == 3
    assert (
        result.stderr
        == f"opsin: the server at {server.target} does not speak TLS: leave out --tls and --ca.\n"
    )


@pytest.mark.parametrize("arguments", [["--tls"], ["--target", "nosuch.invalid:1"]])
def test_grpc_itself_logs_nothing_beside_our_sentence(server: FakeServer, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "opsin.cli", "health", "--timeout", "2", *arguments],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("GRPC_")},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPSIN_TARGET": server.target,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert [line for line in done.stderr.splitlines() if not line.startswith("opsin: ")] == []


def test_a_target_without_a_port_is_told_what_was_tried() -> None:
    result = run("health", "--target", "localhost", "--timeout", "30")
    assert "no port was given, so 443 was tried" in result.stderr
    assert "--target HOST:PORT" in result.stderr
