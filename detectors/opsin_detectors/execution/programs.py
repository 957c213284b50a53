"""A network as torch runs it: as it is, channels-last, narrower, compiled, or replayed as CUDA graphs.

What changes layout or type is a copy of the module, unless it is the caller's last use of it. On a GPU,
compiling and capture happen at the first batch of each size, on the lane that runs it: that is warm-up.
Capture is written against a small seam, so that its order of steps is tested where there is no GPU.
"""

import copy
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from opsin_detectors.api import LoadError
from opsin_detectors.execution.network import Arguments, Network, Outputs, each
from opsin_detectors.execution.plan import Plan
from opsin_detectors.tensors import bytes_of

__all__ = ["CapturedProgram", "CudaGraphs", "GraphApi", "TorchProgram", "torch_program"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


_COMPILED = 1 << 14
"""How many batch sizes of all networks of one kind may be compiled: no bound that a server reaches."""


def torch_program(network: Network, plan: Plan, *, own: bool = False) -> "TorchProgram | CapturedProgram":
    """The network run by torch. own: its body may be changed, and is not copied.

    Raises LoadError for a number type that torch does not run.
    """
    if plan.dtype not in _DTYPES:
        raise LoadError(f"runtime {plan.runtime} runs no network in {plan.dtype}")
    plain = TorchProgram(network, _DTYPES[plan.dtype], channels_last=plan.runtime != "eager", own=own)
    match plan.runtime:
        case "compile":
            plain.compile()
            return plain
        case "cuda_graphs":
            return CapturedProgram(plain, CudaGraphs())
        case _:
            return plain


class TorchProgram:
    """One eager module: of some type and layout."""

    def __init__(
        self, network: Network, dtype: torch.dtype, *, channels_last: bool, own: bool = False
    ) -> None:
        self._arguments = network.arguments
        self._dtype = dtype
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        body = network.body if own else copy.deepcopy(network.body)
        self._body: Callable[..., Any] = _placed(body, dtype, self._format)
        self.memory_bytes = bytes_of(body)

    def __call__(self, batch: Any) -> Any:
        return self.forward(self.arguments(batch))

    def arguments(self, batch: Any) -> Arguments:
        """The body's arguments for a batch, in its type and layout."""
        return {name: self._laid_out(tensor) for name, tensor in self._arguments(batch).items()}

    def forward(self, arguments: Arguments) -> Outputs:
        """The body on its arguments."""
        outputs: Outputs = self._body(**arguments)
        return outputs

    def compile(self) -> None:
        """Have torch compile the body at the first batch of each size."""
        compiled = torch.compile(self._body, mode="max-autotune-no-cudagraphs", dynamic=False)

        def body(**arguments: torch.Tensor) -> Outputs:
            _allow_compiling()
            outputs: Outputs = compiled(**arguments)
            return outputs

        self._body = body

    def _laid_out(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        return tensor.contiguous(memory_format=self._format) if tensor.ndim == 4 else tensor


def _allow_compiling() -> None:
    """On this thread: past 8 sizes torch would run the rest as it is written, without a word that users see.

    Torch counts by code, so models of one kind share what they may have, and holds its settings by thread.
    """
    config: Any = importlib.import_module("torch._dynamo.config")
    for limit in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(config, limit, max(getattr(config, limit), _COMPILED))


def _placed(body: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
    """The body in a type and a layout."""
    body.eval().requires_grad_(False).to(dtype)
    body.to(memory_format=layout)  # type: ignore[call-overload]
    return body


class GraphApi(Protocol):
    """What capturing needs of a device."""

    def capture(self, call: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """Record what `call` issues. Gives how to issue it again, and the outputs that every replay fills."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """What is issued inside runs after all that was issued inside before, also on other streams."""
        ...


class CudaGraphs:
    """torch.cuda's graphs, on the stream that is current."""

    WARM = 3
    """Runs before the capture, so that kernels are chosen and buffers made outside of it."""

    def __init__(self) -> None:
        self._last: Any = None

    def capture(self, call: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """See `GraphApi`."""
        for _ in range(self.WARM):
            call()
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        # Of this thread only: others serve meanwhile, and may allocate.
        stream = torch.cuda.current_stream()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = call()
        return graph.replay, outputs

    @contextmanager
    def turn(self) -> Iterator[None]:
        """See `GraphApi`. Not for two threads at once."""
        stream = torch.cuda.current_stream()
        if self._last is not None:
            stream.wait_event(self._last)
        yield
        self._last = stream.record_event()


class CapturedProgram:
    """A program replayed as one graph for each shape of its arguments, captured when first met.

    Replays share their arguments' and outputs' memory, and every lane has a stream of its own. So they take
    turns on the device: from the arguments coming in to the outputs copied away, one after the other.
    """

    def __init__(self, plain: TorchProgram, api: GraphApi) -> None:
        self._plain = plain
        self._api = api
        self._lock = threading.Lock()
        self._known: dict[object, _Captured] = {}
        self.memory_bytes = plain.memory_bytes

    def __call__(self, batch: Any) -> Any:
        arguments = self._plain.arguments(batch)
        shape = tuple((name, tensor.shape, tensor.dtype) for name, tensor in arguments.items())
        with self._lock:
            captured = self._known.get(shape)
            if captured is None:
                captured = self._known[shape] = _Captured(self._plain, self._api, arguments)
            with self._api.turn():
                return captured.replay(arguments)


class _Captured:
    def __init__(self, plain: TorchProgram, api: GraphApi, arguments: Arguments) -> None:
        self._inputs = {name: tensor.clone() for name, tensor in arguments.items()}
        self._issue, self._outputs = api.capture(lambda: plain.forward(self._inputs))

    def replay(self, arguments: Arguments) -> Outputs:
        for name, tensor in arguments.items():
            self._inputs[name].copy_(tensor)
        self._issue()
        copied: Outputs = each(self._outputs, torch.clone)
        return copied
