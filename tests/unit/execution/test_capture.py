"""Graphs are captured once for each batch size and replayed with new inputs; tried without a GPU."""

from collections.abc import Callable
from typing import Any

import torch

from opsin_detectors.api import InputSpec
from opsin_detectors.execution.network import Network
from opsin_detectors.execution.programs import CapturedProgram, TorchProgram

from .tiny import Body, planes


class Recorder:
    """Stands for a GPU: a replay does again what was captured, into the same outputs."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def capture(self, call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.captures += 1
        outputs = call()

        def replay() -> None:
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
