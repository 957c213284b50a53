"""docs/detectors.md, followed to the letter: every block is written or run, and prints what is shown."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.deploy.processes import ROOT, Server, opsin_server
from pages import Block, blocks, difference

PAGE = ROOT / "docs" / "detectors.md"
PORT = "localhost:50051"


class Reader:
    """Somebody who does what the page says, in an empty folder."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        self._folder, self._servers = folder, servers
        self._server: Server | None = None

    def follow(self, block: Block) -> None:
        match block.language, block.word:
            case "sh", "server":
                self._serve(shlex.split(block.text))
            case "sh", word:
                self._run(block, ["bash", "-euo", "pipefail", "-c"], fails=word == "fails")
            case "python", "":
                self._run(block, [sys.executable, "-W", "error", "-c"])
            case _, path:
                self._write(path, block.text)

    def _write(self, path: str, text: str) -> None:
        (self._folder / path).parent.mkdir(exist_ok=True)
        (self._folder / path).write_text(text, encoding="utf-8")

    def _serve(self, words: list[str]) -> None:
        assert words[:2] == ["opsin", "serve"]
        self._servers.close()
        self._server = self._servers.enter_context(opsin_server(self._folder / "server.log", *words[2:]))

    def _run(self, block: Block, command: list[str], *, fails: bool = False) -> None:
        target = f"localhost:{self._server.port}" if self._server else PORT
        done = subprocess.run(
            [*command, block.text.replace(PORT, target)],
            env={**os.environ, "OPSIN_TARGET": target},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        where = f"docs/detectors.md:{block.line}"
        assert (done.returncode != 0) == fails, f"{where}\n{done.stdout}{done.stderr}"
        assert not block.shown or not (found := difference(block.shown, done.stdout)), f"{where}\n{found}"


def surroundings(packages: Path) -> Mapping[str, str]:
    """As a reader's own virtual environment: this one, and what pip adds goes to `packages`."""
    path = [packages, *(ROOT / source for source in ("client", "server", "detectors"))]
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PIP_TARGET": str(packages),
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # for pip, 0 means that there is no isolation: it has no index here
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "COLUMNS": "200",
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_following_the_page_gives_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in surroundings(tmp_path / "packages").items():
        monkeypatch.setenv(name, value)
    with ExitStack() as servers:
        reader = Reader(folder, servers)
        for block in blocks(PAGE):
            reader.follow(block)


def test_the_page_shows_each_way_and_each_rule() -> None:
    from opsin_detectors.testing import rule_names

    page = PAGE.read_text()
    ways = ("new-detector", "check-detector", "--detectors-dir", "opsin detect", "opsin.Client", "grpcurl")
    assert [way for way in (*ways, "opsin.detectors", "pytest -q", "InputSpec") if way not in page] == []
    assert [rule for rule in rule_names() if f"`{rule}`" not in page] == []


def test_a_page_that_shows_something_else_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\necho one\n```\n\n```text\ntwo\n```\n")
    (block,) = blocks(page)
    with ExitStack() as servers, pytest.raises(AssertionError, match=r"Expected:\s+two\s+Got:\s+one"):
        Reader(tmp_path, servers).follow(block)
