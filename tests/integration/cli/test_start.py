"""The command line starts fast, loads what it needs, and says in a sentence what is missing."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from integration.cli.conftest import run
from opsin.cli import app as commands


class Point:
    """An entry point of somebody's package."""

    def __init__(self, name: str, register: object) -> None:
        self.name = name
        self._register = register

    def load(self) -> object:
        if isinstance(self._register, Exception):
            raise self._register
        return self._register


def adds(name: str) -> object:
    def register(app: typer.Typer) -> None:
        @app.command(name)
        def command() -> None:
            """Says its name."""
            print(f"this is {name}")

    return register


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    points: list[Point] = []
    monkeypatch.setattr(commands, "entry_points", lambda group: points if group == "opsin.commands" else [])
    return points


def test_commands_of_other_packages_are_listed_and_run(installed: list[Point]) -> None:
    installed.append(Point("server", adds("serve")))
    assert "Says its name" in run("--help").stdout
    assert run("serve").stdout == "this is serve\n"


def test_a_package_that_cannot_be_loaded_costs_only_its_own_commands(installed: list[Point]) -> None:
    installed.append(Point("server", ModuleNotFoundError("No module named 'pydantic_settings'")))
    result = run("--help")
    assert result.exit_code == 0
    assert "detect" in result.stdout
    assert "pip install 'opsin[server]'" in result.stderr


def test_nobody_takes_the_place_of_an_own_command(installed: list[Point]) -> None:
    installed.append(Point("other", adds("version")))
    assert "this is" not in run("version").stdout
    assert "left out" in run("--help").stderr


def test_an_own_command_asks_no_entry_point(installed: list[Point]) -> None:
    installed.append(Point("server", RuntimeError("was loaded")))
    assert "was loaded" not in run("version").stderr


def test_a_name_that_is_almost_right_is_answered_with_the_right_one(installed: list[Point]) -> None:
    result = run("detekt")
    assert result.exit_code == 2
    assert "detect" in result.stderr


@pytest.mark.parametrize("name", [*commands.OWN, "models list", "models show"])
def test_every_command_explains_itself(name: str) -> None:
    result = run(*name.split(), "--help")
    assert result.exit_code == 0
    assert "--target" in result.stdout
    assert "Exit codes" in result.stdout or name == "version"


def loaded_by(*arguments: str) -> set[str]:
    """The modules that `opsin ARGUMENTS...` loads in a Python of its own."""
    script = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = {['opsin', *arguments]!r}\n"
        "from opsin.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    return set(done.stderr.split())


def test_help_loads_neither_grpc_nor_torch_nor_numpy() -> None:
    modules = loaded_by("--help")
    assert "typer" in modules
    assert not modules & {"grpc", "torch", "numpy", "PIL", "av"}


def test_a_health_check_loads_neither_tables_nor_pictures() -> None:
    modules = loaded_by("health", "--timeout", "0.2")
    assert "grpc" in modules
    assert not modules & {"numpy", "PIL", "av", "rich.table", "opsin_server"}


def test_without_the_cli_extra_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    done = subprocess.run(
        [sys.executable, "-m", "opsin.cli", "health"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path]), "PATH": ""},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "opsin: the command line needs 'typer', which is not installed: pip install 'opsin[cli]'"
    ]
