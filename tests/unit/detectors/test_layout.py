"""A model whose runtime is not measured says how its network is laid out, and obeys what is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import checkpoints
from opsin_detectors import finder, tensors
from opsin_detectors.api import Detector, LoadContext

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    "folder", [checkpoints.detr, checkpoints.owlvit, checkpoints.grounding_dino, checkpoints.clip]
)
@pytest.mark.parametrize(
    ("told", "said"), [("auto", "channels_last"), ("channels_last", "channels_last"), ("eager", "eager")]
)
def test_what_is_told_is_done_and_what_is_done_is_said(
    folder: Callable[[], Path], told: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def placed(module: nn.Module, device: torch.device, dtype: torch.dtype, layout: str) -> nn.Module:
        done.append(layout)
        return real(module, device, dtype, layout)

    real = tensors.placed
    monkeypatch.setattr(tensors, "placed", placed)
    found = finder.find()["transformers"]
    context = LoadContext("m", source=str(folder()), runtime=told)
    detector: Detector = finder.load(found, context)
    assert (done, detector.info.runtime) == ([said], said)


@pytest.mark.parametrize(("layout", "last"), [("eager", False), ("channels_last", True)])
def test_a_layout_is_that_of_the_weights(layout: str, last: bool) -> None:
    module = tensors.placed(nn.Conv2d(3, 4, 3), torch.device("cpu"), torch.float32, layout)
    assert module.weight.is_contiguous(memory_format=torch.channels_last) is last
