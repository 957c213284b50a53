"""A network as a graph of its own, from uint8 pictures to outputs, run by OpenVINO or onnxruntime.

One export serves both: OpenVINO reads ONNX by itself, quicker than it takes a module apart. Normalising is
part of the graph, so a batch goes in as it was staged, without a copy. Owns the export; running is
`opsin_detectors.onnx.runtimes`.
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from opsin_detectors.api import InputSpec, LoadContext, LoadError
from opsin_detectors.execution.network import Network, Outputs
from opsin_detectors.execution.plan import Plan
from opsin_detectors.onnx.runtimes import Blobs, Runtime, open_graph

__all__ = ["INPUT", "GraphProgram", "export", "graph_program"]

INPUT = "pixels"
_OPSET = 17
_TRACED = 2
"""Batch size of the trace: none that it is measured or proved at, so that a size that was baked in shows."""


class GraphProgram:
    """A graph in a runtime. held: what has to live as long as it, as the folder that the graph lies in."""

    def __init__(self, runtime: Runtime, memory_bytes: int, held: object = None) -> None:
        self._runtime = runtime
        self._held = held
        self.memory_bytes = memory_bytes

    def keep(self, blobs: Blobs) -> None:
        """Take what an earlier start compiled from here, and put here what is compiled."""
        self._runtime.keep(blobs)

    def __call__(self, batch: Any) -> Any:
        """A uint8 tensor on the CPU, (B, height, width, channels) -> tensors on the CPU."""
        outputs = tuple(torch.from_numpy(one) for one in self._runtime.run(batch.numpy()))
        return outputs[0] if len(outputs) == 1 else outputs


def graph_program(
    path: Path,
    plan: Plan,
    context: LoadContext,
    *,
    bf16: bool = False,
    held: object = None,
    used: object = None,
) -> GraphProgram:
    """The graph at `path` in the plan's runtime. Raises LoadError.

    bf16: what a quantised graph left unquantised may be run in bfloat16, where the runtime can.
    held: see `GraphProgram`: for onnxruntime, which reads the file again for each width of lane.
    used: the same for OpenVINO, which reads it once: nothing but that its folder is in use.
    """
    rest = "bfloat16" if bf16 and plan.runtime == "openvino" else "float32"
    dtype = rest if plan.dtype == "int8" else plan.dtype
    runtime = open_graph(path, plan.runtime, dataclasses.replace(context, dtype=dtype))
    again = plan.runtime == "onnxruntime"
    weights = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    size = sum(one.stat().st_size for one in weights if one.exists())
    return GraphProgram(runtime, size, held if again else used)


def export(network: Network, path: Path) -> None:
    """Write the network to `path`, an ONNX file that takes any number of pictures.

    Raises LoadError for a network that takes something else, or that cannot be traced; OSError where it
    cannot be written.
    """
    if network.picture is None:
        raise LoadError("only a network that takes pictures of one size can be exported")
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # The exporter that follows one run of the module; the newer one takes ten times as long.
            warnings.simplefilter("ignore")
            # The exporter gives a module back in the mode that it came in, the body with it.
            _export(_Whole(network).eval(), network.picture, path)
    except OSError:
        raise
    except Exception as error:  # whatever a module does that a graph cannot
        why = " ".join(str(error).split())[:200]
        raise LoadError(f"it cannot be exported: {type(error).__name__}: {why}") from error


def _export(whole: nn.Module, picture: InputSpec, path: Path) -> None:
    shape = (_TRACED, picture.height, picture.width, picture.channels)
    pixels = torch.zeros(shape, dtype=torch.uint8)
    outputs = whole(pixels)
    count = 1 if isinstance(outputs, torch.Tensor) else len(outputs)
    names = [f"output{number}" for number in range(count)]
    torch.onnx.export(
        whole,
        (pixels,),
        str(path),
        dynamo=False,
        input_names=[INPUT],
        output_names=names,
        dynamic_axes={name: {0: "batch"} for name in (INPUT, *names)},
        opset_version=_OPSET,
    )


class _Whole(nn.Module):
    """Normalising and the body as one module."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._arguments = network.arguments
        self.body = network.body

    def forward(self, pixels: torch.Tensor) -> Outputs:
        outputs: Outputs = self.body(**self._arguments(pixels))
        return outputs
