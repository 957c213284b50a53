"""A model is run the way that measured best, says so, and is run so again at the next start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsin.v1 import DetectRequest, GetModelRequest, Image
from serving import serving

ASTRONAUT = (Path(__file__).parents[2] / "data" / "images" / "astronaut.png").read_bytes()


@pytest.mark.slow
async def test_the_choice_is_told_with_its_figures_and_kept_for_the_next_start(tmp_path: Path) -> None:
    settings = {"detectors": {"runtime": "auto"}, "server": {"cache_dir": str(tmp_path), "port": 0}}
    told = []
    for _ in range(2):
        async with serving("nanodet", **settings) as server:
            found = await server.inference.Detect(DetectRequest(image=Image(encoded=ASTRONAUT)))
            assert found.detections[0].label == "person"
            told.append((await server.models.GetModel(GetModelRequest(name="nanodet"))).model)
    first, again = told
    (chosen,) = [trial for trial in first.trials if trial.chosen]
    assert (first.runtime, first.dtype) == (chosen.runtime, chosen.dtype)
    assert first.trials[0].runtime == "eager"
    assert first.trials[0].times[0].median_us > 0
    assert len(first.trials) >= 2
    assert list(again.trials) == list(first.trials)
    assert again.memory_bytes > 0


async def test_what_is_told_is_run_and_nothing_else_is_tried(tmp_path: Path) -> None:
    settings = {"detectors": {"runtime": "eager"}, "server": {"cache_dir": str(tmp_path), "port": 0}}
    async with serving("face-emotion", **settings) as server:
        model = (await server.models.GetModel(GetModelRequest(name="face-emotion"))).model
    assert (model.runtime, model.dtype) == ("eager", "float32")
    assert not model.trials
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
async def test_a_server_run_until_ready_ends_by_itself_and_leaves_what_it_found_out(tmp_path: Path) -> None:
    """As while an image is made: the one that serves from it measures nothing."""
    lanes = ["--runtime", "auto", "--lanes", "1", "--lane-threads", "1"]
    command = ["serve", "--model", "face-emotion", "--port", "0", *lanes]
    done = subprocess.run(
        [sys.executable, "-m", "opsin.cli", *command, "--until-ready"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPSIN_SERVER__CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "opsin is ready at" in done.stdout
    written = {note: note.stat().st_mtime_ns for note in tmp_path.rglob("choice.json.kept")}
    assert len(written) == 2, "one for each of its two networks"
    settings = {
        "detectors": {"runtime": "auto"},
        "server": {"cache_dir": str(tmp_path), "port": 0},
        "scheduler": {"lanes": 1, "lane_threads": 1},
    }
    async with serving("face-emotion", **settings):
        pass
    assert {note: note.stat().st_mtime_ns for note in tmp_path.rglob("choice.json.kept")} == written
