"""Channels of unlike size made alike before quantising; what the network computes stays, in floats, the same.

After Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019). A layer's
rows have a scale each, but all columns of a row share it: where a channel comes in small, its column is
large, and coarse steps are what is left for the others. So the layer before gives that channel out larger,
which its own scale for each channel takes in, and the column becomes smaller by as much.

What lies between may cut off at a maximum (ReLU6). A channel is only ever made larger, to what the largest
of all reached on the calibration's pictures, with room to spare: then one scale for all channels is as fine
as before, and nothing is cut off, but on a picture where such a channel comes out larger by more than that
room than on all of calibration's. Without a maximum (ReLU) that cannot be.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["equalize", "factors"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_ROOM = 1.2
"""A channel may come out so much larger than calibration saw, before it is cut off."""
_LEAST = 1e-6
"""A channel or a column that never gets over this is dead: it stays as it is."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A convolution, its bias, the activation after it, and the convolution that alone reads that."""

    first: Any
    bias: Any
    activation: Any
    second: Any


def factors(columns: Array, reached: Array, most: float) -> Floats:
    """How much larger each channel is to be made: 1 or more.

    columns: the largest weight of each of the reader's columns. reached: each channel's largest value.
    most: where the activation cuts off, infinite where it does not.
    """
    alive = (columns > _LEAST) & (reached > _LEAST)
    if not alive.any():
        return np.ones(len(columns), np.float32)
    ceiling = min(most, float(reached.max()))
    room = ceiling / (_ROOM * np.where(alive, reached, 1.0))
    wanted = columns / np.median(columns[alive])
    return np.where(alive, np.maximum(1.0, np.minimum(wanted, room)), 1.0).astype(np.float32)


def equalize(model: Any, batches: Sequence[Array]) -> int:
    """Change the weights of an OpenVINO model in place. How many pairs of layers were made alike.

    batches: what the model takes.
    """
    pairs = list(_pairs(model))
    if not pairs:
        return 0
    for pair, reached in zip(
        pairs, _reached(model, [pair.activation for pair in pairs], batches), strict=True
    ):
        _scale(pair, factors(_columns(pair), reached, _cut(pair.activation)))
    model.validate_nodes_and_infer_types()
    return len(pairs)


def _pairs(model: Any) -> Iterator[_Pair]:
    for first in model.get_ordered_ops():
        if first.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        bias = _reader(first, ("Add",))
        activation = bias and _reader(bias, ("Clamp", "Relu"))
        second = activation and _reader(activation, ("Convolution",))
        if second and all(_constant(node) is not None for node in (first, bias, second)):
            pair = _Pair(first, bias, activation, second)
            if _cut(activation) > 0 and _constants_fit(pair):
                yield pair


def _reader(node: Any, kinds: Sequence[str]) -> Any:
    """The only node that reads this one, if it is of such a kind."""
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return readers[0] if len(readers) == 1 and readers[0].get_type_name() in kinds else None


def _constant(node: Any) -> int | None:
    """Which of the node's inputs is a constant."""
    kinds = [node.input_value(at).get_node().get_type_name() for at in range(node.get_input_size())]
    return next((at for at in (1, 0) if at < len(kinds) and kinds[at] == "Constant"), None)


def _value(node: Any) -> Floats:
    at = _constant(node)
    return np.array(node.input_value(at).get_node().data, np.float32)


def _constants_fit(pair: _Pair) -> bool:
    """A bias with a value for each channel, and weights of as many: nothing else of them broadcast."""
    channels = _value(pair.second).shape[1]
    by_channel = _value(pair.bias).shape in ((1, channels, 1, 1), (channels, 1, 1))
    return by_channel and _rows(_value(pair.first)).shape[0] == channels


def _rows(weights: Floats) -> Floats:
    """(channels out, ...): a depthwise convolution's are (channels, 1, 1, height, width) already."""
    grouped = weights.ndim == 5
    return weights.reshape(-1, *weights.shape[2:]) if grouped else weights


def _columns(pair: _Pair) -> Floats:
    weights = np.abs(_value(pair.second))
    return np.asarray(weights.max(axis=tuple(axis for axis in range(weights.ndim) if axis != 1)))


def _cut(activation: Any) -> float:
    """Where it cuts off; nothing below 0 comes out of what is taken here, or 0 for what is not."""
    if activation.get_type_name() == "Relu":
        return float("inf")
    told = activation.get_attributes()
    return float(told["max"]) if float(told["min"]) == 0.0 else 0.0


def _scale(pair: _Pair, by: Floats) -> None:
    first, bias, second = _value(pair.first), _value(pair.bias), _value(pair.second)
    rows = _rows(first)
    _put(pair.first, (rows * by.reshape(-1, *(1,) * (rows.ndim - 1))).reshape(first.shape))
    _put(pair.bias, (bias.reshape(-1) * by).reshape(bias.shape))
    _put(pair.second, second / by.reshape(1, -1, *(1,) * (second.ndim - 2)))


def _put(node: Any, value: Floats) -> None:
    from openvino import opset13

    constant = opset13.constant(np.ascontiguousarray(value, np.float32))
    node.input(_constant(node)).replace_source_output(constant.output(0))


def _reached(model: Any, nodes: Sequence[Any], batches: Sequence[Array]) -> list[Array]:
    """Of each node, the largest value of each channel on all batches."""
    import openvino

    copied = model.clone()
    names = {node.get_friendly_name(): node for node in copied.get_ordered_ops()}
    outputs = [names[node.get_friendly_name()].output(0) for node in nodes]
    whole = openvino.Model(outputs, copied.get_parameters())
    compiled = openvino.Core().compile_model(whole, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: list[Array] = []
    for batch in batches:
        answer = compiled([batch])
        largest = [answer[port].max(axis=(0, 2, 3)) for port in compiled.outputs]
        found = [np.maximum(*pair) for pair in zip(found, largest, strict=True)] if found else largest
    return found
