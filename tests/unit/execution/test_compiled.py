"""What OpenVINO compiled is there for the next start; what is not as it was compiled is compiled anew."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opsin_detectors.api import LoadContext
from opsin_detectors.execution import decide as deciding
from opsin_detectors.execution.compiled import Compiled
from opsin_detectors.execution.plan import Hardware, Plan
from opsin_detectors.onnx import runtimes

from .tiny import Tiny, logits

pytest.importorskip("openvino")

Made = list[tuple[int, int]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Width and batch size of each graph that was compiled, not read."""
    seen: Made = []
    real = runtimes._OpenVino._anew

    def anew(self: Any, width: int, size: int) -> Any:
        seen.append((width, size))
        return real(self, width, size)

    monkeypatch.setattr(runtimes._OpenVino, "_anew", anew)
    return seen


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def started(cache: Path | None, runtime: str = "openvino") -> Tiny:
    return Tiny(LoadContext("tiny", runtime=runtime, dtype="float32", cache=cache))


def blobs(cache: Path) -> list[Path]:
    """The files, without their notes."""
    return sorted(cache.rglob("*.blob"))


def test_the_next_start_compiles_nothing_and_answers_the_same_to_the_bit(tmp_path: Path, made: Made) -> None:
    first = logits(started(tmp_path))
    assert made == [(1, 3)]
    again = logits(started(tmp_path))
    assert made == [(1, 3)]
    np.testing.assert_array_equal(again, first)


def test_each_size_and_each_width_of_lane_is_kept_by_itself(tmp_path: Path, made: Made) -> None:
    def run(detector: Any) -> None:
        for width, sizes in ((1, (1, 2)), (2, (2,))):
            torch.set_num_threads(width)
            for size in sizes:
                detector.infer(torch.zeros((size, 8, 8, 3), dtype=torch.uint8))

    run(started(tmp_path))
    assert made == [(1, 1), (1, 2), (2, 0)]
    assert len(blobs(tmp_path)) == 3

    detector: Any = started(tmp_path)
    run(detector)
    assert made == [(1, 1), (1, 2), (2, 0)]
    kept = detector.program._runtime._compiled.made
    threads = {key: one.get_property("INFERENCE_NUM_THREADS") for key, one in kept.items()}
    streams = {key: int(one.get_property("NUM_STREAMS")) for key, one in kept.items()}
    assert {key: threads[key] // streams[key] for key in kept} == {(1, 1): 1, (1, 2): 1, (2, 0): 2}


def test_one_that_is_not_as_it_was_written_is_compiled_anew(tmp_path: Path, made: Made) -> None:
    wanted = logits(started(tmp_path))
    (blob,) = blobs(tmp_path)
    written = bytearray(blob.read_bytes())
    written[len(written) // 2] ^= 0xFF
    blob.write_bytes(written)

    np.testing.assert_array_equal(logits(started(tmp_path)), wanted)
    assert made == [(1, 3)] * 2
    started(tmp_path).infer(torch.zeros((3, 8, 8, 3), dtype=torch.uint8))
    assert made == [(1, 3)] * 2, "the new one is kept in its place"


def test_one_that_openvino_cannot_read_is_compiled_anew_and_told_of(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            runtimes._OpenVino,
            "_put",
            lambda self, width, size, compiled: (
                self._blobs.write(*self._named(width, size), b"no graph") if self._blobs else None,
                compiled,
            )[1],
        )
        wanted = logits(started(tmp_path))
    np.testing.assert_array_equal(logits(started(tmp_path)), wanted)
    assert made == [(1, 3)] * 2
    assert "a compiled graph is made anew" in caplog.text


def test_one_that_openvino_cannot_give_away_is_run_all_the_same_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import openvino

    def refuses(self: Any, *_: object) -> Any:
        raise RuntimeError("this graph cannot be\nexported")

    monkeypatch.setattr(openvino.CompiledModel, "export_model", refuses)
    assert np.isfinite(logits(started(tmp_path))).all()
    assert blobs(tmp_path) == []
    assert "a compiled graph is not kept: this graph cannot be exported" in caplog.text


def test_what_another_graph_was_compiled_to_is_not_taken(tmp_path: Path, made: Made) -> None:
    logits(started(tmp_path))
    (graph,) = tmp_path.rglob("*-network.onnx")
    graph.write_bytes(b"")  # exported anew, by another name

    logits(started(tmp_path))
    assert made == [(1, 3)] * 2
    logits(started(tmp_path))
    assert made == [(1, 3)] * 2


def test_what_was_compiled_for_other_settings_or_another_processor_is_not_taken(tmp_path: Path) -> None:
    kept = Compiled(tmp_path, "openvino-float32")
    kept.write("1-4", "a processor", b"blob")
    assert kept.read("1-4", "a processor") == b"blob"
    assert kept.read("1-4", "another") is None
    assert kept.read("1-2", "a processor") is None
    assert Compiled(tmp_path, "openvino-bfloat16").read("1-4", "a processor") is None


def test_where_nothing_can_be_written_it_is_compiled_each_time(tmp_path: Path, made: Made) -> None:
    started(tmp_path)  # the graph is there
    (folder,) = (one for one in (tmp_path / "runtimes").iterdir() if one.is_dir())
    Compiled(folder / "gone", "a").write("1-1", "", b"blob")
    assert Compiled(folder / "gone", "a").read("1-1", "") is None

    folder.chmod(0o777)  # others could have put anything there
    logits(started(tmp_path))
    logits(started(tmp_path))
    assert len(made) == 2
    assert blobs(tmp_path) == []


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_without_a_cache_and_of_another_runtime_nothing_is_kept(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(runtime)
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path))
    logits(started(None if runtime == "openvino" else tmp_path, runtime))
    assert blobs(tmp_path) == []


def test_of_the_ways_that_were_measured_only_the_chosen_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    chosen = Plan("openvino", "bfloat16")
    machine = Hardware(name="a machine", bf16=True, installed=frozenset({"openvino"}))
    monkeypatch.setattr(deciding, "here", lambda device: machine)

    def timed(runs: Any, sizes: Any) -> dict[Plan, dict[int, float]]:
        for run in runs.values():
            run(2)
        return {plan: {1: 0.5 if plan == chosen else 1.0} for plan in runs}

    detector = Tiny(LoadContext("tiny", runtime="auto", cache=tmp_path), timed=timed)
    assert (detector.info.runtime, detector.info.dtype) == ("openvino", "bfloat16")
    assert {blob.name.split("-", 1)[1] for blob in blobs(tmp_path)} >= {"openvino-bfloat16-1-2.blob"}
    assert not [blob for blob in blobs(tmp_path) if "float32" in blob.name]

    made.clear()
    again = Tiny(LoadContext("tiny", runtime="auto", cache=tmp_path), timed=timed)
    again.infer(torch.zeros((2, 8, 8, 3), dtype=torch.uint8))
    assert set(made) <= {(1, 1)}, "what a choice is tried with again, and was not compiled before"
    made.clear()
    Tiny(LoadContext("tiny", runtime="auto", cache=tmp_path), timed=timed)
    assert made == []
