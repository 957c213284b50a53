"""A fake server, and the command line to run against it."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from integration.cli.fake_server import FakeServer, running


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running() as fake:
        yield fake


@pytest.fixture
def opsin(server: FakeServer) -> Callable[..., Any]:
    """Runs `opsin ARGUMENTS...` against the fake server."""
    return lambda *arguments, **more: run(*arguments, target=server.target, **more)


def run(*arguments: object, target: str = "127.0.0.1:1", **more: Any) -> Any:
    """`opsin ARGUMENTS...`: the result has exit_code, stdout and stderr."""
    from opsin.cli.app import app

    return CliRunner(env={"OPSIN_TARGET": target, "COLUMNS": "160"}).invoke(
        app, [str(one) for one in arguments], **more
    )


def jpeg(width: int = 64, height: int = 48, shade: int = 128) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three pictures, two of the same name."""
    for at, name in enumerate(("a.jpg", "b.jpg", "more/a.jpg")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(shade=40 * at))
    return tmp_path / "pictures"
