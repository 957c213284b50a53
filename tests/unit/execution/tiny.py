"""A detector of four brightness classes on pictures of 8 x 8, whose network takes no time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from opsin_detectors import imaging
from opsin_detectors.api import (
    Detector,
    ImageInput,
    Input,
    InputSpec,
    Item,
    Label,
    LoadContext,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Task,
)
from opsin_detectors.execution.decide import decide
from opsin_detectors.execution.network import Network, Program

DEFAULTS = Options()
CLASSES = ("black", "dark", "light", "white")


class Body(nn.Module):
    """(B, 3, 8, 8) -> logits (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.look = nn.Conv2d(3, 4, 3, padding=1)
        self.say = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = self.say(self.look(x).mean((2, 3)))
        return said


def planes(batch: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"x": batch.permute(0, 3, 1, 2).to(torch.float32) / 255}


class Tiny(Detector):
    program: Program

    def __init__(self, context: LoadContext, **decided: Any) -> None:
        self.info = ModelInfo(
            tasks=frozenset({Task.CLASSIFY_IMAGE}),
            classes=CLASSES,
            defaults=DEFAULTS,
            input=InputSpec(8, 8),
            memory_bytes=7,
        )
        body = Body().eval().requires_grad_(False)
        decide(self, Network(body, planes, self.info.input), context, **decided)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        assert isinstance(source, ImageInput)
        return Prepared(imaging.resize(source.pixels, 8, 8))

    @torch.inference_mode()
    def infer(self, batch: torch.Tensor) -> Any:
        return self.program(batch)

    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        scores = outputs.float().softmax(-1).numpy()
        return [
            Output(
                labels=[
                    Label(name, float(s), at) for at, (name, s) in enumerate(zip(CLASSES, row, strict=True))
                ]
            )
            for row in scores
        ]


def logits(detector: Tiny) -> Any:
    pictures = torch.from_numpy(np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3))
    return detector.infer(pictures).float().numpy()
