"""What the README says to type, typed: every example of its sections runs against a real server."""

import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from integration.deploy.processes import ROOT, Server, opsin_server

README = (ROOT / "README.md").read_text()
RUN = ("Call it", "Add a detector")
"""Headings of the sections whose examples are run; the others install, build images, or need a cluster."""


def examples() -> list[tuple[str, str]]:
    """Language and text of every example in these sections, but for those that say they need more."""
    sections = re.split(r"^## ", README, flags=re.MULTILINE)
    text = "".join(section for section in sections if section.startswith(RUN))
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in blocks if not code.startswith("# not run")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with opsin_server(tmp_path_factory.mktemp("readme") / "server.log") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty working directory in which the README's paths exist."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
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
    calls = (" list", "describe", "Health/Check", "/Detect", "Client(", "ServiceStub(", "opsin detect")
    assert [call for call in calls if call not in shown] == []


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
