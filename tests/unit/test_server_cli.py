"""`opsin serve` and `opsin new-detector`: flags reach the settings, faults are told in words."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from opsin_server import cli, process, serving
from opsin_server.config import ConfigError, Settings

app = typer.Typer()
cli.register(app)
runner = CliRunner()


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What of the server was loaded each time that a process would have been started anew."""
    seen: list[set[str]] = []
    monkeypatch.setattr(process, "start_tuned", lambda: seen.append(set(sys.modules)))
    return seen


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Settings]:
    """The settings that the server was started with."""
    seen: list[Settings] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serving, "run", lambda settings, **_: seen.append(settings) or 0)
    return seen


def test_every_flag_reaches_its_setting(served: list[Settings], tmp_path: Path) -> None:
    flags = (
        "--host ::1 --port 0 --model a --model b=echo,delay_ms=5 --metrics-port 9 --device cuda:1 --lanes 3"
    )
    more = f"--lane-threads 2 --dtype float32 --log-level debug --log-format json --detectors-dir {tmp_path}"
    leaving = "--drain-delay 0 --grace 1.5"
    result = runner.invoke(app, ["serve", *flags.split(), *more.split(), *leaving.split()])
    assert result.exit_code == 0, result.output
    (settings,) = served
    assert (settings.server.host, settings.server.port, settings.metrics.port) == ("::1", 0, 9)
    assert [(m.name, m.source, m.settings) for m in settings.model] == [
        ("a", "", {}),
        ("b", "echo", {"delay_ms": "5"}),
    ]
    assert (settings.detectors.device, settings.detectors.dtype) == ("cuda:1", "float32")
    assert settings.detectors.dirs == (tmp_path,)
    assert (settings.scheduler.lanes, settings.scheduler.lane_threads) == (3, 2)
    assert (settings.log.level, settings.log.format) == ("debug", "json")
    assert (settings.drain.delay, settings.drain.grace) == (0, 1.5)


def test_without_flags_everything_has_its_default(served: list[Settings]) -> None:
    assert runner.invoke(app, ["serve"]).exit_code == 0
    assert served == [Settings()]


def test_every_flag_has_a_place_to_go() -> None:
    parameters = set(inspect.signature(cli.serve).parameters)
    assert parameters == {*cli._FLAGS, "config", "until_ready"}
    for section, *rest in cli._FLAGS.values():
        field = Settings.model_fields[section].annotation
        assert not rest or rest[0] in field.model_fields


def test_wrong_settings_are_told_one_a_line_and_nothing_starts(served: list[Settings]) -> None:
    result = runner.invoke(app, ["serve", "--port", "70000", "--log-level", "loud"])
    assert result.exit_code == 2
    told = result.output.splitlines()
    assert told[0] == "opsin: server.port is 70000 (from --port); it should be 65535 or less."
    assert told[1].startswith("opsin: log.level is 'loud' (from --log-level); it should be debug,")
    assert len(told) == 2
    assert served == []


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError(["model x: no detector."]), 2), (OSError("cannot listen on h:1"), 1)]
)
def test_what_the_server_finds_wrong_at_its_start_is_told_the_same_way(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(settings: Settings, **_: object) -> int:
        raise error

    monkeypatch.setattr(serving, "run", fail)
    result = runner.invoke(app, ["serve"])
    assert result.exit_code == code
    assert result.output == f"opsin: {error}\n"


def test_the_exit_code_of_the_server_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "run", lambda settings, **_: 7)
    assert runner.invoke(app, ["serve"]).exit_code == 7


def test_a_new_detector_is_written_and_a_second_one_of_that_name_is_not(tmp_path: Path) -> None:
    arguments = ["new-detector", "blur", "--dir", str(tmp_path)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "blur" / "detector.toml").is_file()
    assert f"--detectors-dir {tmp_path} --model blur" in result.output.replace("\n", "")
    again = runner.invoke(app, arguments)
    assert again.exit_code == 1
    assert again.output.startswith("opsin: ")


def test_the_process_is_started_anew_before_anything_dear_is_loaded() -> None:
    code = (
        "import sys; from opsin_server import cli, process\n"
        "dear = ('numpy', 'grpc', 'torch', 'pydantic')\n"
        "def anew(): print([m for m in dear if m in sys.modules]); sys.exit(3)\n"
        "process.start_tuned = anew\n"
        "cli._serve({}, None, until_ready=True)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (3, "[]"), result.stderr


def test_wrong_settings_are_told_by_the_process_that_was_started_anew(
    served: list[Settings], begun: list[set[str]]
) -> None:
    assert runner.invoke(app, ["serve", "--port", "70000"]).exit_code == 2
    assert len(begun) == 1
    assert served == []


def test_listing_the_commands_loads_no_server() -> None:
    code = (
        "import sys, opsin_server.cli; print([m for m in ('grpc', 'torch', 'pydantic') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
