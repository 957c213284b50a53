"""The demo does what the README says, on a real server with the real default model."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import av
import pytest
from PIL import Image

DEMO = Path(__file__).parents[3] / "examples" / "demo.py"

needs_serve = pytest.mark.skipif(
    not entry_points(group="opsin.commands"),
    reason="opsin is on the path but not installed: no `opsin serve`",
)


def demo(out: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(DEMO), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80", **environment},
    )


@needs_serve
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_finds_the_person_and_writes_both_pictures(tmp_path: Path) -> None:
    done = demo(tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "person 0.7" in done.stdout
    assert "person in 30 of 30 frames" in done.stdout
    assert [line for line in done.stdout.splitlines() if "…" in line] == [], "cut at 80 columns"
    with Image.open(tmp_path / "out" / "astronaut.jpg") as photo:
        assert photo.size == (512, 512)
    with av.open(str(tmp_path / "out" / "annotated.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 30


@needs_serve
def test_a_server_that_does_not_start_is_told_with_its_reason(tmp_path: Path) -> None:
    done = demo(tmp_path / "out", OPSIN_SERVER__PORT="nonsense", OPSIN_LIMITS__MAX_SIDE="nonsense")
    assert done.returncode == 1
    assert "failed" in done.stdout
    assert "max_side" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
