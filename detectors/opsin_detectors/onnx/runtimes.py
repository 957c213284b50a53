"""What executes a graph: onnxruntime or OpenVINO, behind one small interface.

Both take the width of the lane that calls them: as many threads as torch may use on the calling thread, which
is what a lane sets. A width met for the first time (during warm-up) compiles the graph for it.
Knows arrays and names; pictures and meanings are the business of `description.py` and `heads.py`.
"""

import importlib.util
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from opsin_detectors.api import LoadContext, LoadError

__all__ = ["RUNTIMES", "Blobs", "Port", "Runtime", "bytes_of", "open_graph"]

log = logging.getLogger(__name__)

RUNTIMES = ("onnxruntime", "openvino")

Array = npt.NDArray[Any]
_Compiled = TypeVar("_Compiled")

_SIZES = frozenset({1, 2, 3, 4, 6, 8, 12, 16, 24, 32})
"""Batch sizes that warming up tries. Any other, as of what is left of a batch that failed, is run by a graph
that leaves its size open."""
_SMALL = 64 << 20
"""Bytes of a graph that may be held once for each batch size. A larger one takes so long for a picture that a
change of size is nothing beside it."""

_OPENVINO_PRECISION = {"auto": "f32", "float32": "f32", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output. shape: None where it is left open; None as a whole when its rank is, too."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any]


class Blobs(Protocol):
    """Where compiled graphs are kept from one start to the next."""

    def read(self, name: str, tag: str) -> bytes | None:
        """What was written by this name with this tag; None where nothing was, or it is not as it was."""
        ...

    def write(self, name: str, tag: str, blob: bytes) -> None:
        """Keep it if that can be; raises nothing where it cannot."""
        ...


class Runtime(ABC):
    """A loaded graph with one input. Several threads may call `run` at once."""

    name: str
    input: Port
    outputs: tuple[Port, ...]

    @abstractmethod
    def run(self, batch: Array, *, trial: bool = False) -> list[Array]:
        """All outputs, in the graph's order, for a batch of the input's shape and type.

        trial: this is not a lane; its width means nothing.
        """

    def keep(self, blobs: Blobs) -> None:  # noqa: B027  not every runtime has something to keep
        """From now on take compiled graphs from here, and put them here; those that there are, too."""


class _PerLane(Generic[_Compiled]):
    """One compiled graph for each width of lane and each size told, made when first asked for.

    The trial's, of width 1, is let go when the first lane turns out to be wider: weights are held only once.
    """

    def __init__(self, make: Callable[[int, int], _Compiled]) -> None:
        self._make = make
        self._made: dict[tuple[int, int], _Compiled] = {}
        self._lanes: set[int] = set()
        self._lock = threading.Lock()

    def here(self, size: int = 0, *, trial: bool = False) -> _Compiled:
        """The one for as many threads as the calling thread may use; of width 1 for a trial."""
        width = 1 if trial else max(1, torch.get_num_threads())
        compiled = self._made.get((width, size))
        if compiled is None or (not trial and width not in self._lanes):
            with self._lock:
                compiled = self._get(width, size, trial)
        return compiled

    @property
    def made(self) -> dict[tuple[int, int], _Compiled]:
        """By width and size, as of now."""
        with self._lock:
            return dict(self._made)

    def _get(self, width: int, size: int, trial: bool) -> _Compiled:
        if not trial:
            if not self._lanes and width != 1:
                self._made.clear()
            self._lanes.add(width)
        if (width, size) not in self._made:
            self._made[width, size] = self._make(width, size)
        return self._made[width, size]


def open_graph(path: Path, runtime: str, context: LoadContext) -> Runtime:
    """The graph in a runtime: `onnxruntime`, `openvino`, or `auto`.

    auto: OpenVINO for its own IR (.xml), else onnxruntime where it is installed, else OpenVINO. Raises
    LoadError with what would be right.
    """
    chosen = _chosen(path, runtime)
    if importlib.util.find_spec(chosen) is None:
        extra = "onnx" if chosen == "onnxruntime" else "openvino"
        raise LoadError(
            f"model “{context.name}” needs {chosen}, which is not installed: pip install 'opsin[{extra}]'"
        )
    try:
        return _OnnxRuntime(path, context) if chosen == "onnxruntime" else _OpenVino(path, context)
    except LoadError:
        raise
    except Exception as error:  # each runtime has a tree of its own
        why = " ".join(str(error).split())[:300]
        raise LoadError(f"{chosen} cannot read {path}: {why}") from error


def bytes_of(graph: Path) -> int:
    """Of the graph's file and of its weights beside it (`.bin` of IR, `.data` of large ONNX files)."""
    beside = [
        graph.with_suffix(".bin"),
        graph.with_name(f"{graph.name}.data"),
        graph.with_name(f"{graph.name}_data"),
    ]
    return sum(file.stat().st_size for file in (graph, *beside) if file.is_file())


def _chosen(path: Path, runtime: str) -> str:
    ir = path.suffix == ".xml"
    if runtime == "auto":
        here = importlib.util.find_spec("onnxruntime") or not importlib.util.find_spec("openvino")
        return "onnxruntime" if here and not ir else "openvino"
    if runtime not in RUNTIMES:
        raise LoadError(f"setting “runtime” has to be auto, {' or '.join(RUNTIMES)}, not “{runtime}”")
    if ir and runtime == "onnxruntime":
        raise LoadError(f"{path.name} is OpenVINO's own format: runtime=openvino, or export an .onnx file")
    return runtime


def _only(inputs: Sequence[Port], path: Path) -> Port:
    if len(inputs) != 1:
        names = ", ".join(port.name for port in inputs)
        raise LoadError(f"{path.name} has {len(inputs)} inputs ({names}); it has to have one, the picture")
    return inputs[0]


class _OnnxRuntime(Runtime):
    """A session for each width. Extra threads of a width are shared by the lanes of that width."""

    name = "onnxruntime"

    def __init__(self, path: Path, context: LoadContext) -> None:
        import onnxruntime

        self._ort: Any = onnxruntime
        self._path = path
        self._providers = _providers(onnxruntime.get_available_providers(), context)
        if context.dtype not in ("auto", "float32"):
            raise LoadError(
                f"model “{context.name}”: onnxruntime runs a graph in the types it was exported with; "
                f"export it as {context.dtype}, or use runtime=openvino"
            )
        self._sessions = _PerLane(self._session)
        session = self._sessions.here(trial=True)
        self.input = _only([self._port(one) for one in session.get_inputs()], path)
        self.outputs = tuple(self._port(one) for one in session.get_outputs())

    def run(self, batch: Array, *, trial: bool = False) -> list[Array]:
        """See `Runtime`."""
        session = self._sessions.here(trial=trial)
        answer: list[Array] = session.run(None, {self.input.name: batch})
        return answer

    def _session(self, width: int, _: int) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = width
        options.inter_op_num_threads = 1
        # Idle threads that spin take the cores from the other lanes, and from decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        return self._ort.InferenceSession(str(self._path), options, providers=self._providers)

    def _port(self, port: Any) -> Port:
        shape = tuple(side if isinstance(side, int) else None for side in port.shape)
        return Port(port.name, shape, _dtype(port.type))


def _providers(available: Sequence[str], context: LoadContext) -> list[Any]:
    device, _, index = context.device.partition(":")
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in available:
        return [("CUDAExecutionProvider", {"device_id": index or "0"}), "CPUExecutionProvider"]
    raise LoadError(
        f"this onnxruntime cannot use device “{context.device}” of model “{context.name}”; for a GPU install "
        "onnxruntime-gpu in its place, or set device=cpu"
    )


def _dtype(written: str) -> np.dtype[Any]:
    """ "tensor(float16)" as numpy has it; what is no tensor of numbers becomes object."""
    name = written.removeprefix("tensor(").removesuffix(")")
    names = {"float": "float32", "double": "float64"}
    try:
        return np.dtype(names.get(name, name))
    except TypeError:
        return np.dtype(object)


class _OpenVino(Runtime):
    """A compiled model for each width, with as many streams as lanes of that width fit the machine.

    Of a small graph one for each batch size, too. A stream that gets another size than before works out again
    how each layer is to be run: 2 ms of a MobileNet's 16 for two pictures, and lanes hardly ever get the same
    size twice in a row. Where the size is fixed nothing is worked out at all, which saves 3 % more.
    """

    name = "openvino"

    def __init__(self, path: Path, context: LoadContext) -> None:
        import openvino

        if context.device != "cpu":
            raise LoadError(
                f"model “{context.name}”: OpenVINO is used on the CPU here; set device=cpu, or "
                "runtime=onnxruntime"
            )
        if context.dtype not in _OPENVINO_PRECISION:
            known = ", ".join(_OPENVINO_PRECISION)
            raise LoadError(f"model “{context.name}”: dtype has to be one of {known}, not {context.dtype}")
        self._precision = _OPENVINO_PRECISION[context.dtype]
        self._core: Any = openvino.Core()
        self._model: Any = self._core.read_model(path)
        self.input = _only([_openvino_port(one) for one in self._model.inputs], path)
        self.outputs = tuple(_openvino_port(one) for one in self._model.outputs)
        self._sizes = _SIZES if _is_open(self.input) and bytes_of(path) <= _SMALL else frozenset()
        self._threads = max(1, context.threads)
        can = sorted(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        self._tag = f"{path.name} {openvino.get_version()} {can}"
        """The graph's name says which it is: no two that are kept have the same."""
        self._blobs: Blobs | None = None
        self._compiled = _PerLane(self._compile)
        self._tensor: Any = openvino.Tensor
        self._mine = threading.local()
        """Of each thread: its request of each compiled model that it met."""

    def run(self, batch: Array, *, trial: bool = False) -> list[Array]:
        """See `Runtime`.

        Tensors by hand: `request.infer([batch])` finds out what it was given and copies it, 0.4 ms of Python
        in which nobody else may run any.
        """
        compiled = self._compiled.here(self._size(len(batch)), trial=trial)
        # A thread keeps what it has a request of, so a trial's is not remembered.
        request = compiled.create_infer_request() if trial else self._request(compiled)
        shared = np.require(batch, self.input.dtype, ("C", "W"))
        request.set_input_tensor(self._tensor(shared, shared_memory=True))
        request.start_async()
        request.wait()
        return [request.get_output_tensor(at).data.copy() for at in range(len(self.outputs))]

    def _size(self, batch: int) -> int:
        """The batch size that the graph for it is compiled for; 0: any.

        A lane that runs wide for once meets sizes that it was not warmed up with, and compiling takes tenths
        of a second.
        """
        wide = torch.get_num_threads() > self._threads
        return batch if batch in self._sizes and not wide else 0

    def _request(self, compiled: Any) -> Any:
        requests: dict[Any, Any] | None = getattr(self._mine, "requests", None)
        if requests is None:
            requests = self._mine.requests = {}
        request = requests.get(compiled)
        if request is None:
            request = requests[compiled] = compiled.create_infer_request()
        return request

    def keep(self, blobs: Blobs) -> None:
        """See `Runtime`. Told twice it does no more than told once."""
        if self._blobs is not None:
            return
        self._blobs = blobs
        for (width, size), compiled in self._compiled.made.items():
            self._put(width, size, compiled)

    def _compile(self, width: int, size: int) -> Any:
        compiled = self._kept(width, size)
        return self._put(width, size, self._anew(width, size)) if compiled is None else compiled

    def _kept(self, width: int, size: int) -> Any:
        """What an earlier start compiled; None without it."""
        blob = self._blobs.read(*self._named(width, size)) if self._blobs is not None else None
        try:
            return None if blob is None else self._core.import_model(blob, "CPU", self._config(width))
        except Exception as error:  # OpenVINO raises what it likes
            log.warning("a compiled graph is made anew: %s", " ".join(str(error).split())[:200])
            return None

    def _put(self, width: int, size: int, compiled: Any) -> Any:
        if self._blobs is None:
            return compiled
        try:
            blob = compiled.export_model().getvalue()
        except Exception as error:  # as above: it runs, and is compiled again at the next start
            log.warning("a compiled graph is not kept: %s", " ".join(str(error).split())[:200])
        else:
            self._blobs.write(*self._named(width, size), blob)
        return compiled

    def _named(self, width: int, size: int) -> tuple[str, str]:
        """Name and tag of a compiled graph."""
        return f"{width}-{size}", f"{self._tag} {sorted(self._config(width).items())}"

    def _anew(self, width: int, size: int) -> Any:
        model = self._model
        if size:
            model = model.clone()
            model.reshape({0: [size, *model.input(0).partial_shape[1:]]})
        return self._core.compile_model(model, "CPU", self._config(width))

    def _config(self, width: int) -> dict[str, Any]:
        streams = max(1, _cores() // width)
        return {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * width,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": self._precision,
        }


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_open(port: Port) -> bool:
    """Whether the graph takes any number of pictures."""
    return port.shape is not None and port.shape[:1] == (None,)


def _openvino_port(port: Any) -> Port:
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        sides = None
    else:
        sides = tuple(None if side.is_dynamic else side.get_length() for side in shape)
    kind: np.dtype[Any] = np.dtype(port.element_type.to_dtype())
    return Port(next(iter(sorted(port.names)), ""), sides, kind)
