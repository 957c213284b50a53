"""Graphs are captured once for each batch size and replayed with new inputs; tried without a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from opsin_detectors.api import InputSpec
from opsin_detectors.execution.network import Network
from opsin_detectors.execution.programs import CapturedProgram, CudaGraphs, TorchProgram

from .tiny import Body, planes


class Recorder:
    """Stands for a GPU: a replay does again what was captured, into the same outputs."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0
        self.inside = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def capture(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.captures += 1
        outputs = call()

        def replay() -> None:
            assert self.inside
            self.replays += 1
            outputs.copy_(call())

        return replay, outputs


def test_each_size_is_captured_once_and_every_batch_gets_its_own_answer() -> None:
    network = Network(Body().eval().requires_grad_(False), planes, InputSpec(8, 8))
    plain = TorchProgram(network, torch.float32, channels_last=True)
    recorder = Recorder()
    captured = CapturedProgram(plain, recorder)
    batches = [torch.randint(0, 256, (size, 8, 8, 3), dtype=torch.uint8) for size in (1, 2, 1, 2, 1)]
    with torch.inference_mode():
        answers = [captured(batch) for batch in batches]
        for batch, answer in zip(batches, answers, strict=True):
            torch.testing.assert_close(answer, plain(batch))
    assert recorder.captures == 2
    assert recorder.replays == 5


class Stream:
    """Notes what is asked of it."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self._name = name
        self._asked = asked

    def wait_event(self, event: str) -> None:
        self._asked.append(f"{self._name} waits for {event}")

    def record_event(self) -> str:
        return f"the end on {self._name}"


def test_a_replay_waits_for_the_one_before_it_on_another_lanes_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    graphs = CudaGraphs()
    for name in ("one", "two", "one"):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda name=name: Stream(name, asked))
        with graphs.turn():
            asked.append(f"replay on {name}")
    assert asked == [
        "replay on one",
        "two waits for the end on one",
        "replay on two",
        "one waits for the end on two",
        "replay on one",
    ]
