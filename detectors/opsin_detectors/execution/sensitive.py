"""Which layers of a network change its answers most when their weights are rounded to int8.

Each is rounded alone, the rest as it is: how far the outputs move on a few pictures is what the layer would
cost. On the graph that is to be quantised, so that what equalising has mended does not count.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ranked", "rounded"]

Array = npt.NDArray[Any]

_CHANNEL_AXES = {"Convolution": 1, "GroupConvolution": 2, "MatMul": 0}
"""How many axes of the weights have a scale for each index. A product's may be either: it has one for all."""
_LEVELS = 127


def ranked(model: Any, batches: Sequence[Array]) -> list[str]:
    """Names of an OpenVINO model's layers with constant weights, the most sensitive first."""
    reference = _outputs(model, batches)
    names = [node.get_friendly_name() for node in model.get_ordered_ops() if _weights(node) is not None]
    harm = {name: _harm(model, name, batches, reference) for name in names}
    return sorted(names, key=lambda name: -harm[name])


def rounded(weights: Array, channel_axes: int) -> Array:
    """To 8 bits, with a scale for each index of the first axes."""
    axes = tuple(range(channel_axes, weights.ndim))
    scale = np.maximum(np.abs(weights).max(axis=axes, keepdims=True), np.finfo(np.float32).tiny) / _LEVELS
    return np.asarray(np.rint(weights / scale) * scale, np.float32)


def _harm(model: Any, name: str, batches: Sequence[Array], reference: Sequence[Array]) -> float:
    from openvino import opset13

    copied = model.clone()
    node = next(one for one in copied.get_ordered_ops() if one.get_friendly_name() == name)
    weights = _weights(node)
    if weights is None:
        return 0.0
    constant = opset13.constant(rounded(weights, _CHANNEL_AXES[node.get_type_name()]))
    node.input(1).replace_source_output(constant.output(0))
    return sum(
        float(np.square(now - before).sum() / max(float(np.square(before).sum()), np.finfo(np.float32).tiny))
        for now, before in zip(_outputs(copied, batches), reference, strict=True)
    )


def _weights(node: Any) -> Array | None:
    if node.get_type_name() not in _CHANNEL_AXES:
        return None
    source = node.input_value(1).get_node()
    return np.array(source.data, np.float32) if source.get_type_name() == "Constant" else None


def _outputs(model: Any, batches: Sequence[Array]) -> list[Array]:
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = [[np.array(one) for one in compiled([batch]).values()] for batch in batches]
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]
