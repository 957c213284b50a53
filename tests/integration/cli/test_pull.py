"""`opsin pull` fetches a model from a hub into the cache, and a server finds it there without the hub."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import checkpoints
from hub import COMMIT, hub

Run = Callable[..., "subprocess.CompletedProcess[str]"]
LOAD = """
import sys
from opsin_detectors.api import LoadContext, LoadError
from opsin_detectors.finder import find, load
settings = dict(pair.split("=") for pair in sys.argv[2:])
try:
    model = load(find()["transformers"], LoadContext("m", source=sys.argv[1], settings=settings))
    print(sorted(model.info.tasks))
except LoadError as error:
    print("refused:", error)
"""


@pytest.fixture
def python(tmp_path: Path) -> Run:
    """Runs Python on its own, because the hub's client reads its variables when it is imported."""

    def run(*arguments: str, endpoint: str, **more: str) -> "subprocess.CompletedProcess[str]":
        own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1", **more}
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "no_proxy": "127.0.0.1", "COLUMNS": "200", **own},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint as repositories often are: the same weights in several formats."""
    folder = tmp_path / "repository"
    shutil.copytree(checkpoints.rt_detr(), folder)
    (folder / "onnx").mkdir()
    for extra in ("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "README.md"):
        (folder / extra).write_bytes(b"not needed")
    return folder


def test_what_was_pulled_is_served_without_the_hub(python: Run, model: Path) -> None:
    with hub({"tiny/detr": model}) as there:
        pulled = python("-m", "opsin.cli", "pull", "things=tiny/detr", endpoint=there.endpoint)
    loaded = python("-c", LOAD, "tiny/detr", endpoint=there.endpoint, HF_HUB_OFFLINE="1")

    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.startswith(f"things: tiny/detr, revision {COMMIT}, ")
    assert " kB in 3 files" in pulled.stdout
    assert sorted(there.fetched) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert "'detect'" in loaded.stdout, loaded.stdout + loaded.stderr


def test_a_second_pull_fetches_nothing_again(python: Run, model: Path) -> None:
    with hub({"tiny/detr": model}) as there:
        python("-m", "opsin.cli", "pull", "things=tiny/detr", endpoint=there.endpoint)
        there.fetched.clear()
        again = python(
            "-m", "opsin.cli", "pull", f"things=tiny/detr,revision={COMMIT}", endpoint=there.endpoint
        )

    assert again.returncode == 0, again.stderr
    assert there.fetched == []


def test_a_server_fetches_what_is_not_there_yet(python: Run, model: Path) -> None:
    with hub({"tiny/detr": model}) as there:
        loaded = python("-c", LOAD, "tiny/detr", f"revision={COMMIT}", endpoint=there.endpoint)

    assert "'detect'" in loaded.stdout, loaded.stdout + loaded.stderr
    assert "model.safetensors" in there.fetched
    assert "pytorch_model.bin" not in there.fetched


@pytest.mark.slow  # the hub's client tries again for half a minute, twice
@pytest.mark.timeout(400)
def test_a_hub_that_cannot_be_reached_is_said_in_a_sentence(python: Run) -> None:
    nowhere = "http://127.0.0.1:9"
    pulled = python("-m", "opsin.cli", "pull", "things=tiny/detr", endpoint=nowhere)
    loaded = python("-c", LOAD, "tiny/detr", endpoint=nowhere)
    offline = python("-c", LOAD, "tiny/detr", endpoint=nowhere, HF_HUB_OFFLINE="1")

    assert pulled.returncode == 1
    assert "tiny/detr cannot be fetched: the hub cannot be reached" in pulled.stderr
    assert "Traceback" not in pulled.stderr
    for one in (loaded, offline):
        assert "refused:" in one.stdout, one.stderr
        assert "opsin pull" in one.stdout


def test_what_the_hub_does_not_have_is_said_in_a_sentence(python: Run, model: Path) -> None:
    (model / "model.safetensors").unlink()
    with hub({"tiny/detr": model}) as there:
        results = [
            python("-m", "opsin.cli", "pull", f"m={one}", endpoint=there.endpoint)
            for one in ("tiny/other", "tiny/detr,revision=gone", "tiny/detr")
        ]

    assert [one.returncode for one in results] == [1, 1, 1]
    assert all("Traceback" not in one.stderr for one in results)
    assert "allow_pickle=true" in results[2].stderr


def test_what_is_here_already_is_passed_over(python: Run, model: Path) -> None:
    pulled = python("-m", "opsin.cli", "pull", "nanodet", f"mine={model}", endpoint="http://127.0.0.1:9")

    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.count("nothing to fetch") == 2
