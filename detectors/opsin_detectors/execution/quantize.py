"""int8: the exported graph with quantised weights and activations, calibrated on views of real pictures.

By NNCF into OpenVINO's own format, or by onnxruntime's quantiser. Whether the answers survived is checked by
`decide.py`; this only makes the graph.
"""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opsin_detectors.api import LoadError
from opsin_detectors.execution.delicate import Layer, delicate
from opsin_detectors.execution.graphs import INPUT

__all__ = ["SUFFIX", "quantize", "runtime_for"]

Array = npt.NDArray[np.uint8]

SUFFIX = {"openvino": ".xml", "onnxruntime": ".onnx"}
"""Of what each runtime's quantiser writes."""
_NEEDS = {"openvino": ("openvino", "nncf", "onnx"), "onnxruntime": ("onnxruntime", "onnx")}
_HINT = "pip install 'opsin[int8]'"


def runtime_for(wanted: str) -> str:
    """The runtime that an int8 graph is made for. Raises LoadError where its quantiser is not installed."""
    if wanted not in ("auto", *_NEEDS):
        raise LoadError(f"dtype int8 is run by {' or '.join(_NEEDS)}, not by {wanted}")
    for name in _NEEDS if wanted == "auto" else (wanted,):
        if all(importlib.util.find_spec(one) is not None for one in _NEEDS[name]):
            return name
    needs = " and ".join(_NEEDS["openvino" if wanted == "auto" else wanted])
    raise LoadError(f"dtype int8 needs {needs}, which are not all installed: {_HINT}")


def quantize(
    runtime: str, graph: Path, written: Path, batches: Sequence[Array], *, spare: float | None = None
) -> None:
    """Read the ONNX file `graph`, calibrate on batches of uint8 pictures, and write what `runtime` reads.

    spare: leave delicate layers as they are, and this share of all from the first on; None: quantise all.
    Raises LoadError.
    """
    make = _by_nncf if runtime == "openvino" else _by_onnxruntime
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # a progress bar
            warnings.simplefilter("ignore")
            make(graph, written, batches, spare)
    except Exception as error:  # each quantiser has a tree of its own
        why = " ".join(str(error).split())[:300]
        raise LoadError(f"it cannot be quantised to int8: {type(error).__name__}: {why}") from error


def _by_nncf(graph: Path, written: Path, batches: Sequence[Array], spare: float | None) -> None:
    import nncf  # type: ignore[import-untyped, unused-ignore]
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(graph)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(list(batches)),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(batches),
        ignored_scope=None
        if spare is None
        else nncf.IgnoredScope(names=delicate(_openvino_layers(model), spare)),
    )
    openvino.save_model(quantized, str(written), compress_to_fp16=False)


def _openvino_layers(model: Any) -> list[Layer]:
    return [
        Layer(
            op.get_friendly_name(),
            weighted=op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"),
            depthwise=op.get_type_name() == "GroupConvolution",
            feeds=tuple(
                reader.get_node().get_friendly_name()
                for output in op.outputs()
                for reader in output.get_target_inputs()
            ),
        )
        for op in model.get_ordered_ops()
    ]


class _Reader:
    """Hands the batches to onnxruntime's calibration, one by one."""

    def __init__(self, batches: Sequence[Array]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._left, None)
        return None if batch is None else {INPUT: batch}


def _by_onnxruntime(graph: Path, written: Path, batches: Sequence[Array], spare: float | None) -> None:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = written.with_name(f"folded-{written.name}")
    try:
        quant_pre_process(str(graph), str(folded), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(folded),
            str(written),
            _Reader(batches),
            nodes_to_exclude=None
            if spare is None
            else delicate(_onnx_layers(onnx.load(str(folded)).graph), spare),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        folded.unlink(missing_ok=True)


def _onnx_layers(graph: Any) -> list[Layer]:
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    return [
        Layer(
            node.name,
            weighted=node.op_type in ("Conv", "Gemm", "MatMul"),
            depthwise=any(one.name == "group" and one.i > 1 for one in node.attribute),
            feeds=tuple(reader for name in node.output for reader in readers.get(name, ())),
        )
        for node in graph.node
    ]
