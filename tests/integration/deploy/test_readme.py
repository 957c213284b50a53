"""What the README says to type, typed: every example of its sections runs against a real server."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest

from integration.deploy.processes import ROOT, Server, opsin_server
from opsin.cli.app import OWN

README = (ROOT / "README.md").read_text()
RUN = ("Call it", "Add a detector")
"""Headings of the sections whose examples are run; the others install, build images, or need a cluster."""
EXTRAS = ("all", "cli", "images", "ocr", "server", "text", "torch", "transformers", "video")
"""What a reader is told to install."""


def examples() -> list[tuple[str, str]]:
    """Language and text of every example in these sections."""
    sections = re.split(r"^## ", README, flags=re.MULTILINE)
    text = "".join(section for section in sections if section.startswith(RUN))
    return re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with opsin_server(tmp_path_factory.mktemp("readme") / "server.log") as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video that the demo makes."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec
    assert spec.loader
    demo = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = demo  # its dataclasses look themselves up there
    spec.loader.exec_module(demo)
    path = tmp_path_factory.mktemp("demo-out") / "clip.mp4"
    demo.make_video(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, clip: Path) -> Path:
    """An empty working directory in which the README's paths exist."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "demo-out").symlink_to(clip.parent)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("language", "code"), examples(), ids=lambda text: text.split("\n")[0][:40])
def test_the_example_runs_as_it_stands(language: str, code: str, server: Server, folder: Path) -> None:
    target = f"localhost:{server.port}"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OPSIN_TARGET": target,
    }
    command = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}
    done = subprocess.run(
        [*command[language], code.replace("localhost:50051", target)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "the example shows something"


def test_the_readme_shows_each_way_to_call() -> None:
    shown = "\n".join(code for _, code in examples())
    calls = (
        " list",
        "describe",
        "Health/Check",
        "/Detect",
        "Client(",
        "ServiceStub(",
        "opsin detect",
        ".stream(",
    )
    assert [call for call in calls if call not in shown] == []


def test_every_extra_that_the_readme_names_exists() -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {
        extra for names in re.findall(r"(?:opsin|clone)\[([\w,]+)\]", README) for extra in names.split(",")
    }
    assert named == set(EXTRAS)
    assert named <= known


def test_every_command_is_named_in_the_readme_and_on_its_page() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    commands = [*OWN, "serve", "new-detector", "check-detector", "simulate"]
    assert [name for name in commands if f"opsin {name}" not in README] == []
    assert [name for name in commands if f"opsin {name}" not in page] == []


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
