"""A model is run the way that measured best, says so, and is run so again at the next start."""

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
