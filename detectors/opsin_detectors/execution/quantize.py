"""int8: the exported graph with quantised weights and activations, calibrated on views of real pictures.

By NNCF into OpenVINO's own format, folded and equalised before, or by onnxruntime's quantiser. Whether the
answers survived is checked by `int8.py`; this only makes the graph.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from opsin_detectors.api import LoadError
from opsin_detectors.execution.delicate import Layer, delicate
from opsin_detectors.execution.equalize import equalize
from opsin_detectors.execution.folded import folded
from opsin_detectors.execution.graphs import INPUT
from opsin_detectors.execution.hardware import sums_in_32_bits
from opsin_detectors.execution.sensitive import ranked

__all__ = ["SUFFIX", "Quantizer", "quantize", "quantizer", "runtime_for"]

Array = npt.NDArray[np.uint8]

SUFFIX = {"openvino": ".xml", "onnxruntime": ".onnx"}
"""Of what each runtime's quantiser writes."""
_NEEDS = {"openvino": ("openvino", "nncf", "onnx"), "onnxruntime": ("onnxruntime", "onnx")}
_RANKED_ON = 6
"""Pictures that layers are ranked on."""
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


class Quantizer(Protocol):
    """Makes int8 graphs of one network."""

    def write(self, path: Path, spare: float) -> None:
        """What the runtime reads, to `path`. May raise anything.

        spare: the share of the layers that are left as they are.
        """
        ...


def quantizer(runtime: str, graph: Path, batches: Sequence[Array]) -> Quantizer:
    """For the ONNX file `graph`, calibrated on batches of uint8 pictures."""
    return _Nncf(graph, batches) if runtime == "openvino" else _Onnxruntime(graph, batches)


def quantize(maker: Quantizer, path: Path, spare: float = 0.0) -> None:
    """Write the graph, without a word on the way. spare: see `Quantizer`. Raises LoadError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maker.write(path, spare)
    except Exception as error:  # each quantiser has a tree of its own
        why = " ".join(str(error).split())[:300]
        raise LoadError(f"it cannot be quantised to int8: {type(error).__name__}: {why}") from error


@functools.cache
def _silence_nncf() -> None:
    """Have NNCF print nothing: errors go where all logs go, and progress bars nowhere.

    By its own switches: standard output is the whole process's, and others write to it meanwhile. The bars'
    can be reached by no setting, so it is turned for all of them.
    """
    log = logging.getLogger("nncf")
    log.setLevel(logging.ERROR)
    log.handlers.clear()  # the one that it comes with prints
    log.propagate = True
    with contextlib.suppress(ImportError, AttributeError):  # elsewhere in another version: then a bar is seen
        track: Any = importlib.import_module("nncf.common.logging.track_progress").track
        track.__init__ = functools.partialmethod(track.__init__, disable=True)


class _Nncf:
    """Into OpenVINO's own format. What is spared are the layers found to be most sensitive."""

    def __init__(self, graph: Path, batches: Sequence[Array]) -> None:
        self._graph = graph
        self._batches = batches

    def write(self, path: Path, spare: float) -> None:
        """See `Quantizer`."""
        import nncf
        import openvino

        _silence_nncf()
        spared = self._ranking[: math.ceil(spare * len(self._ranking))] if spare else []
        quantized = nncf.quantize(
            self._model.clone(),
            nncf.Dataset(list(self._batches)),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(self._batches),
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(names=spared) if spared else None,
            advanced_parameters=_parameters(),
        )
        openvino.save_model(quantized, str(path), compress_to_fp16=False)

    @functools.cached_property
    def _model(self) -> Any:
        model = folded(self._graph)
        equalize(model, self._batches)
        return model

    @functools.cached_property
    def _ranking(self) -> list[str]:
        return ranked(self._model, self._batches[:: max(1, len(self._batches) // _RANKED_ON)])


def _parameters() -> Any:
    from nncf.quantization import advanced_parameters, range_estimator

    fix = advanced_parameters.OverflowFix
    return advanced_parameters.AdvancedQuantizationParameters(
        # By default a range is the mean of the pictures' extremes: of some, black and white are cut off.
        activations_range_estimator_params=range_estimator.RangeEstimatorParametersSet.MINMAX,
        # By default depthwise layers have a range for each channel. Few pictures fill a thousand channels:
        # on the next one many are cut off, which turned vectors to cosines of 0.87.
        activations_quantization_params=advanced_parameters.QuantizationParameters(per_channel=False),
        # By default the first layer makes do with 7 bits, as 8 overflow where products are summed in 16.
        overflow_fix=fix.DISABLE if sums_in_32_bits() else fix.FIRST_LAYER,
    )


class _Reader:
    """Hands the batches to onnxruntime's calibration, one by one."""

    def __init__(self, batches: Sequence[Array]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._left, None)
        return None if batch is None else {INPUT: batch}


class _Onnxruntime:
    """By onnxruntime's quantiser. What is spared are the first layers, and those known to be delicate."""

    def __init__(self, graph: Path, batches: Sequence[Array]) -> None:
        self._graph = graph
        self._batches = batches

    def write(self, path: Path, spare: float) -> None:
        """See `Quantizer`."""
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        plain = path.with_name(f"folded-{path.name}")
        try:
            quant_pre_process(str(self._graph), str(plain), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(plain),
                str(path),
                _Reader(self._batches),
                nodes_to_exclude=delicate(_onnx_layers(onnx.load(str(plain)).graph), spare)
                if spare
                else None,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            plain.unlink(missing_ok=True)


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
