"""Small ONNX graphs for tests, made on the spot, and the same arithmetic in numpy.

Every graph is one matrix over all pixels and a sigmoid, cut into the outputs that a family of models has. So
each output depends on the picture, and the textbook can say what it has to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Graph", "graph"]

Array = np.ndarray[Any, np.dtype[np.float32]]
OPSET = 17


@dataclass(frozen=True)
class Graph:
    """A file, and what it computes. outputs: (name, shape without the batch, factor)."""

    path: Path
    matrix: Array
    outputs: tuple[tuple[str, tuple[int, ...], Any], ...]

    def __call__(self, batch: Array) -> dict[str, Array]:
        """The outputs for a batch of the graph's input."""
        flat = batch.reshape(len(batch), -1).astype(np.float32)
        numbers = 1 / (1 + np.exp(-(flat @ self.matrix)))
        answer, at = {}, 0
        for name, shape, factor in self.outputs:
            count = int(np.prod(shape))
            part = numbers[:, at : at + count].reshape(len(batch), *shape)
            answer[name] = part * np.asarray(factor, np.float32)
            at += count
        return answer


def graph(
    path: Path,
    outputs: Sequence[tuple[str, tuple[int, ...], Any]],
    *,
    shape: tuple[int, ...] = (3, 8, 12),
    batch: int | None = None,
    kind: int = TensorProto.FLOAT,
    seed: int = 3,
) -> Graph:
    """Write a graph with an input `images` of (batch, *shape); batch None leaves it open."""
    pixels = int(np.prod(shape))
    sizes = [int(np.prod(one)) for _, one, _ in outputs]
    noise = np.random.default_rng(seed)
    matrix = noise.normal(0, 3 / np.sqrt(pixels), (pixels, sum(sizes))).astype(np.float32)
    if kind != TensorProto.FLOAT:
        matrix /= 255
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "matrix"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], ["numbers"]),
    ]
    constants = [
        numpy_helper.from_array(matrix, "matrix"),
        numpy_helper.from_array(np.array(sizes, np.int64), "sizes"),
    ]
    parts = [f"part_{index}" for index in range(len(outputs))]
    nodes.append(helper.make_node("Split", ["numbers", "sizes"], parts, axis=1))
    for part, (name, one, factor) in zip(parts, outputs, strict=True):
        constants += [
            numpy_helper.from_array(np.array([-1, *one], np.int64), f"{part}_shape"),
            numpy_helper.from_array(np.asarray(factor, np.float32), f"{part}_factor"),
        ]
        nodes += [
            helper.make_node("Reshape", [part, f"{part}_shape"], [f"{part}_cut"]),
            helper.make_node("Mul", [f"{part}_cut", f"{part}_factor"], [name]),
        ]
    side: Any = batch or "batch"
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", kind, [side, *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, *one]) for name, one, _ in outputs],
        constants,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return Graph(path, matrix, tuple(outputs))
