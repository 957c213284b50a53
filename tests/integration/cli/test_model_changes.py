"""`opsin models load | unload | traffic | watch` with a real server, and what a shell completes with one."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import opsin
from integration.cli.conftest import run
from integration.deploy.processes import opsin_server, wait_until
from opsin.cli import completion

Run = Callable[..., Any]
SOURCE = ("--source", "echo")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server that begins with one model, `echo`."""
    with opsin_server(tmp_path_factory.mktemp("server") / "log", "--model", "echo") as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
def change(target: str) -> Iterator[Run]:
    """Runs `opsin models ARGUMENTS...`; what it left is unloaded."""
    yield lambda *arguments: run("models", *arguments, target=target)
    with opsin.Client(target) as client:
        for model in client.models():
            if model.name != "echo":
                client.unload_model(model.name, version=model.version)
        wait_until(lambda: all(model.name == "echo" for model in client.models()), "models to go")


def line(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return told


# -- load ------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_and_told_of_when_it_serves(change: Run, target: str) -> None:
    result = change("load", "cats", *SOURCE, "--set", "delay_ms=1", "--label", "canary")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "cats@1  SERVING  weight 1  label canary\n"
    with opsin.Client(target) as client:
        assert client.model("cats@canary").name == "cats"


def test_a_second_version_gets_no_calls_yet_and_is_one_more(change: Run) -> None:
    change("load", "cats", *SOURCE)
    told = line(change("load", "cats", *SOURCE, "--json"))
    assert (told["name"], told["version"], told["state"]) == ("cats", 2, "serving")
    assert told["traffic_weight"] == 0


def test_a_load_that_is_not_waited_for_tells_how_it_stands(change: Run, target: str) -> None:
    told = line(change("load", "cats", "--source", "nanodet", "--no-wait", "--json"))
    assert told["state"] in ("loading", "warming")
    with opsin.Client(target) as client:
        wait_until(lambda: client.model("cats").state.name == "SERVING", "it to serve")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("cats", "--version", "1", *SOURCE), 4, "has a version 1 already"),
        (("cats", *SOURCE, "--set", "delay=1"), 4, "delay"),
        (("cats", *SOURCE, "--set", "delay"), 2, "KEY=VALUE"),
        (("cats", *SOURCE, "--version", "-1"), 2, "--version"),
        (("cats", *SOURCE, "--version", str(2**70)), 2, "version"),
        (("cats", "--source", "./nowhere"), 4, "no folder"),
        (("cats", "--source", "eccho"), 4, "did you mean"),
        (("Cats!", *SOURCE), 4, "lower-case"),
        (("cats", *SOURCE, "--label", "12"), 4, "12"),
        ((), 2, "name"),
    ],
)
def test_a_load_that_cannot_be_is_told_in_one_sentence(
    change: Run, arguments: tuple[str, ...], code: int, told: str
) -> None:
    change("load", "cats", *SOURCE)
    result = change("load", *arguments)
    assert result.exit_code == code, result.output
    assert told in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


# -- unload ----------------------------------------------------------------------------------------------


def test_an_unload_returns_when_the_version_is_gone(change: Run, target: str) -> None:
    change("load", "cats", *SOURCE)
    assert change("unload", "cats").stdout == "cats@1 is gone\n"
    with opsin.Client(target) as client:
        assert [model.name for model in client.models()] == ["echo"]


def test_an_unload_that_is_not_waited_for_says_draining(change: Run) -> None:
    change("load", "cats", *SOURCE)
    result = change("unload", "cats", "--version", "1", "--no-wait")
    assert result.stdout == "cats@1 is draining\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("cat",), "cats"),
        (("cats",), "say which"),
        (("cats", "--version", "7"), "has no version 7"),
        (("",), "name"),
    ],
)
def test_an_unload_that_cannot_be_is_refused_with_what_there_is(
    change: Run, arguments: tuple[str, ...], told: str
) -> None:
    change("load", "cats", *SOURCE)
    change("load", "cats", *SOURCE)
    result = change("unload", *arguments)
    assert result.exit_code == 4, result.output
    assert told in result.stderr


# -- traffic ---------------------------------------------------------------------------------------------


def test_traffic_is_shared_out_labelled_and_mirrored(change: Run) -> None:
    change("load", "cats", *SOURCE)
    change("load", "cats", *SOURCE)
    result = change("traffic", "cats", "1=90", "2=10", "--label", "canary=2", "--shadow", "1")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "cats@1  SERVING  weight 90  shadow",
        "cats@2  SERVING  weight 10  label canary",
    ]
    assert "weight 90" in change("traffic", "cats", "--label", "canary=0").stdout
    told = [json.loads(one) for one in change("traffic", "cats", "2=1", "--json").stdout.splitlines()]
    assert [(one["version"], one["traffic_weight"]) for one in told] == [(1, 0), (2, 1)]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("cats", "1"), 2, "KEY=VALUE"),
        (("cats", "1=x"), 2, "whole number"),
        (("cats", "x=1"), 2, "whole number"),
        (("cats", "1=nan"), 2, "whole number"),
        (("cats", "1=0.5"), 2, "whole number"),
        (("cats", "²=1"), 2, "whole number"),
        (("cats", "1=²"), 2, "whole number"),
        (("cats", "1=95", "01=5"), 2, "1 is given twice"),
        (("cats", "--label", "a=1", "--label", "a=0"), 2, "a is given twice"),
        (("cats", f"1={2**31}"), 2, "targets[0].weight"),
        (("cats", "1=0"), 4, "0"),
        (("cats", "7=1"), 4, "has no version 7"),
        (("cats", "--label", "canary"), 2, "KEY=VALUE"),
        (("cats", "--label", "canary=7"), 4, "has no version 7"),
        (("cats", "--shadow", "7"), 4, "has no version 7"),
        (("cat", "1=1"), 4, "cats"),
    ],
)
def test_shares_that_cannot_be_are_refused_and_change_nothing(
    change: Run, target: str, arguments: tuple[str, ...], code: int, told: str
) -> None:
    change("load", "cats", *SOURCE)
    result = change("traffic", *arguments)
    assert result.exit_code == code, result.output
    assert told in result.stderr
    assert "Traceback" not in result.output
    with opsin.Client(target) as client:
        model = client.model("cats")
    assert (model.traffic_weight, model.labels, model.shadow) == (1, (), False)


@pytest.mark.parametrize("command", ["load", "unload", "traffic", "watch"])
def test_help_shows_every_option_and_needs_no_server(command: str) -> None:
    result = run("models", command, "--help")
    assert result.exit_code == 0
    assert "--target" in result.stdout
    assert "Exit codes" in result.stdout
    if command != "watch":
        assert f"opsin models {command} " in result.stdout, "an example"


@pytest.mark.parametrize(
    "arguments", [("load", "cats"), ("unload", "cats"), ("traffic", "cats", "1=1"), ("watch",)]
)
def test_where_nobody_answers_it_is_exit_3(arguments: tuple[str, ...]) -> None:
    result = run("models", *arguments)
    assert result.exit_code == 3, result.output
    assert "no server answers at" in result.stderr


# -- watch -----------------------------------------------------------------------------------------------


class Watched:
    """A running `opsin models watch`; lines: what it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for text in self.process.stdout:
            self.lines.append(text.rstrip("\n"))

    def wait_for(self, text: str) -> None:
        wait_until(lambda: any(text in one for one in self.lines), f"{text!r} in {self.lines}")

    def end(self) -> tuple[int, str]:
        """The exit code and what was said on standard error."""
        code = self.process.wait(30)
        self._reader.join(30)
        assert self.process.stderr
        return code, self.process.stderr.read()


@contextmanager
def watching(target: str, *arguments: str) -> Iterator[Watched]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPSIN_TARGET": target}
    process = subprocess.Popen(
        [sys.executable, "-m", "opsin.cli", "models", "watch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    watched = Watched(process)
    try:
        yield watched
    finally:
        process.kill()
        watched.end()
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()


def test_watch_prints_each_change_until_ctrl_c(change: Run, target: str) -> None:
    with watching(target) as watched:
        watched.wait_for("echo@1  SERVING  weight 1")
        change("load", "cats", *SOURCE)
        watched.wait_for("cats@1  SERVING  weight 1")
        change("load", "cats", *SOURCE)
        change("traffic", "cats", "2=7", "--label", "canary=2")
        watched.wait_for("cats@2  SERVING  weight 7  label canary")
        change("unload", "cats", "--version", "1")
        watched.wait_for("cats@1 gone")
        before = len(watched.lines)
        watched.process.send_signal(signal.SIGINT)
        code, errors = watched.end()
        assert (code, errors) == (130, "opsin: interrupted\n")
        assert len(watched.lines) == before
        assert watched.lines.count("echo@1  SERVING  weight 1") == 1, "only what changes is printed"


def test_watch_shows_all_of_a_failure(change: Run, target: str) -> None:
    with watching(target, "cats") as watched:
        assert change("load", "cats", *SOURCE, "--set", "[red]=1").exit_code == 4
        watched.wait_for("cats@1  FAILED  weight 0  model “cats” has no setting “[red]”")


def test_watch_of_one_model_as_json_says_nothing_of_others(change: Run, target: str) -> None:
    with watching(target, "cats", "--json") as watched:
        change("load", "dogs", *SOURCE)
        change("load", "cats", *SOURCE)
        watched.wait_for('"serving"')
        change("unload", "cats")
        watched.wait_for('"gone"')
        watched.process.send_signal(signal.SIGINT)
        assert watched.end()[0] == 130
        told = [json.loads(one) for one in watched.lines]
        assert told[-1] == {"name": "cats", "version": 1, "state": "gone"}
        assert {one["name"] for one in told} == {"cats"}


def test_watch_ends_with_the_server(tmp_path: Path) -> None:
    with (
        opsin_server(tmp_path / "log", "--model", "echo") as server,
        watching(f"127.0.0.1:{server.port}", "--timeout", "10") as watched,
    ):
        watched.wait_for("echo@1")
        server.kill()
        code, errors = watched.end()
    assert code == 3
    assert "no server answers" in errors
    assert "Traceback" not in errors


# -- completion ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nobody_is_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who types waits for a second; here a busy server may take longer."""
    monkeypatch.setattr(completion, "PATIENCE", 60.0)


def completed(words: str, target: str) -> list[str]:
    """What bash is offered for the last of the words."""
    from opsin.cli.app import app

    environment = {
        "_OPSIN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "OPSIN_TARGET": target,
    }
    result = CliRunner(env=environment).invoke(app, [], prog_name="opsin")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("opsin models unload ", ["cats", "echo"]),
        ("opsin models unload c", ["cats"]),
        ("opsin models unload cats --version ", ["1", "2"]),
        ("opsin models load ", ["cats", "echo"]),
        ("opsin models load cats --label ", ["stable", "canary"]),
        ("opsin models traffic e", ["echo"]),
        ("opsin models traffic cats ", ["1=", "2="]),
        ("opsin models traffic cats 1=9 ", ["2="]),
        ("opsin models traffic cats --shadow ", ["1", "2"]),
        ("opsin models traffic cats --label ", ["stable=", "canary="]),
        ("opsin models traffic cats --label canary=", ["canary=1", "canary=2"]),
        ("opsin models watch c", ["cats"]),
        ("opsin models show cats@", ["cats@1", "cats@2", "cats@stable", "cats@canary"]),
        ("opsin detect --model cats@c", ["cats@canary"]),
        ("opsin embed --model e", ["echo"]),
        ("opsin stream --model e", ["echo"]),
        ("opsin models unload nobody", []),
    ],
)
def test_a_shell_completes_what_the_server_has(
    change: Run, target: str, words: str, offered: list[str]
) -> None:
    change("load", "cats", *SOURCE, "--label", "stable")
    change("load", "cats", *SOURCE, "--label", "canary")
    assert completed(words, target) == offered


def test_completion_asks_the_server_that_the_line_names(target: str) -> None:
    nobody = "127.0.0.1:1"
    assert completed(f"opsin models unload --target {target} ", nobody) == ["echo"]
    assert completed(f"opsin models --target {target} unload ", nobody) == ["echo"]
    host, port = target.split(":")
    assert completed(f"opsin models unload --host {host} --port {port} ", "") == ["echo"]


def test_where_nobody_answers_nothing_is_completed_and_nothing_said() -> None:
    assert completed("opsin models unload ", "127.0.0.1:1") == []
    assert completed("opsin models unload --ca /no/such/file ", "127.0.0.1:1") == []
