"""What is done to a graph before it is quantised changes nothing that it computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opsin_detectors.api import InputSpec
from opsin_detectors.execution import graphs
from opsin_detectors.execution.equalize import equalize, factors
from opsin_detectors.execution.folded import folded
from opsin_detectors.execution.network import Network
from opsin_detectors.execution.sensitive import ranked, rounded

pytest.importorskip("openvino")

PICTURES = np.random.default_rng(3).integers(0, 256, (6, 8, 8, 3), np.uint8)
BATCHES = [picture[None] for picture in PICTURES]


class Uneven(nn.Module):
    """A depthwise layer whose channels come out 0.001 to 1 large, read with weights that make up for it.

    It pads in steps of its own, as networks do that come from TensorFlow.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.reduce = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 3)
        uneven = torch.logspace(-3, 0, 8)
        with torch.no_grad():
            self.depthwise.weight.abs_().mul_(uneven.reshape(8, 1, 1, 1))
            self.depthwise.bias.abs_().mul_(uneven)
            self.reduce.weight.div_(uneven.reshape(1, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.stem(padded(x)))
        x = nn.functional.relu6(self.depthwise(padded(x)))
        return self.head(self.reduce(x).mean((2, 3)))


def padded(x: torch.Tensor) -> torch.Tensor:
    """As TensorFlow's `same` does, in a step of its own."""
    return nn.functional.pad(x, (1, 1, 1, 1), "constant", 0.0)


def planes(batch: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"x": batch.permute(0, 3, 1, 2).float() / 255}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "network.onnx"
    graphs.export(Network(Uneven().eval(), planes, InputSpec(8, 8)), path)
    return path


def run(model: Any, pictures: Any = PICTURES) -> np.ndarray[Any, Any]:
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([pictures])[0])


def kinds(model: Any) -> set[str]:
    return {node.get_type_name() for node in model.get_ordered_ops()}


def plain(graph: Path) -> Any:
    import openvino

    return openvino.Core().read_model(graph)


def weights(model: Any, part: str) -> np.ndarray[Any, Any]:
    [node] = [
        one
        for one in model.get_ordered_ops()
        if part in one.get_friendly_name() and one.get_type_name().endswith("Convolution")
    ]
    return np.array(node.input_value(1).get_node().data)


def test_folding_leaves_no_pad_before_a_convolution(graph: Path) -> None:
    assert "Pad" in kinds(plain(graph))
    assert "Pad" not in kinds(folded(graph))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_folded_graph_gives_the_same_numbers_at_any_batch_size(graph: Path, size: int) -> None:
    pictures = PICTURES[:size]
    np.testing.assert_allclose(run(folded(graph), pictures), run(plain(graph), pictures), atol=1e-5)


def test_equalising_changes_no_answer_and_makes_columns_alike(graph: Path) -> None:
    model = folded(graph)
    before = np.abs(weights(model, "reduce")).max(axis=(0, 2, 3))
    reference = run(model)
    assert equalize(model, BATCHES) == 1
    after = np.abs(weights(model, "reduce")).max(axis=(0, 2, 3))
    np.testing.assert_allclose(run(model), reference, rtol=1e-4, atol=1e-5)
    assert after.max() / after.min() < before.max() / before.min() / 10


def test_what_is_added_along_another_side_than_channels_is_no_bias() -> None:
    import openvino
    from openvino import opset13

    def layer(source: Any) -> Any:
        weights = opset13.constant(np.ones((8, 8, 1, 1), np.float32))
        return opset13.convolution(source, weights, [1, 1], [0, 0], [0, 0], [1, 1])

    pictures = opset13.parameter([1, 8, 8, 8], np.float32)
    by_column = opset13.constant(np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8))
    last = layer(opset13.relu(opset13.add(layer(pictures), by_column)))
    model = openvino.Model([last], [pictures])
    assert equalize(model, [np.ones((1, 8, 8, 8), np.float32)]) == 0


def test_equalising_makes_int8_weights_cost_less(graph: Path) -> None:
    def error(model: Any) -> float:
        columns = weights(model, "reduce")
        [name] = [one for one in ranked(model, BATCHES) if "reduce" in one]
        node = next(one for one in model.get_ordered_ops() if one.get_friendly_name() == name)
        from openvino import opset13

        reference = run(model)
        node.input(1).replace_source_output(opset13.constant(rounded(columns, 1)).output(0))
        return float(np.abs(run(model) - reference).max())

    even = folded(graph)
    equalize(even, BATCHES)
    assert error(even) < error(folded(graph)) / 3


def test_a_channel_is_made_no_larger_than_what_is_cut_off_and_never_smaller() -> None:
    columns, reached = np.array([1000.0, 1.0, 0.01, 1.0]), np.array([1.0, 5.0, 2.0, 5.9])
    by = factors(columns, reached, most=6.0)
    assert by.min() == 1.0
    assert by[0] == pytest.approx(5.9 / 1.2)  # as far as the largest, with room to spare
    assert list(by[1:]) == [1.0, 1.0, 1.0]


def test_dead_channels_are_let_be() -> None:
    by = factors(np.array([0.0, 5.0, 1.0, 1.0]), np.array([1.0, 0.0, 3.0, 0.1]), most=6.0)
    assert np.isfinite(by).all()
    assert list(by[:2]) == [1.0, 1.0]
    assert list(factors(np.zeros(3), np.zeros(3), most=6.0)) == [1.0, 1.0, 1.0]


def test_the_layer_that_rounding_harms_most_is_ranked_first(graph: Path) -> None:
    names = ranked(folded(graph), BATCHES)
    assert len(names) == 4
    assert "reduce" in names[0]


def test_rounding_is_by_the_largest_weight_of_each_channel() -> None:
    weights = np.array([[1.0, 0.5, 0.001], [0.001, 0.0005, 0.0]], np.float32)
    np.testing.assert_allclose(rounded(weights, 1)[1], weights[1], atol=0.001 / 254 + 1e-9)
    assert rounded(weights, 1)[0, 2] == 0.0
    assert not rounded(np.zeros((2, 2), np.float32), 1).any()
