"""From prepared inputs to one batch on the device, and from its outputs back: the work around `infer`.

One `Stager` belongs to one lane and one device. It keeps two staging buffers and uses them in turn, so that
one batch can be copied in while the one before it is still computed:

    launch(k + 1):  rows -> pinned buffer -> copy stream -> device      while the compute stream runs batch k
                    compute stream: wait for that copy, infer, copy the outputs home, record an event
    collect(k):     wait for its event

On a GPU the streams, events and pinned memory are torch.cuda's. On a CPU they are the stand-ins of
`HostApi`: the same steps in the same order, each done when it returns. Buffers are made once for each shape
and reused; one is written again only after the batch that used it was copied away (`Slot.copied`).

Rows that are tensors were decoded and prepared on the device already: they are stacked there, without a trip
through the host's memory, and arrays that share their batch are copied in beside them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from opsin_detectors.api import InputSpec

__all__ = ["CudaApi", "DeviceApi", "Event", "HostApi", "Launched", "Stager", "api_for"]

SLOTS = 2
"""One buffer in use by the batch that runs, one by the batch that is made ready."""


class Event(Protocol):
    """A moment in a stream."""

    def synchronize(self) -> None:
        """Block until the stream has come to it."""
        ...


class DeviceApi(Protocol):
    """What staging needs of a device: two streams, events, pinned memory."""

    def pinned(self, shape: tuple[int, ...]) -> Any:
        """A host tensor of uint8 that the device can read while the CPU goes on."""
        ...

    def copying(self) -> AbstractContextManager[Any]:
        """Work issued inside goes to the copy stream."""
        ...

    def computing(self, after: Event | None) -> AbstractContextManager[Any]:
        """Work issued inside goes to the compute stream, behind `after`."""
        ...

    def to_device(self, host: Any) -> Any:
        """Start copying a pinned tensor to the device."""
        ...

    def stack(self, rows: Sequence[Any]) -> Any:
        """Start stacking tensors of one shape, those of other devices brought here."""
        ...

    def to_host(self, outputs: Any) -> Any:
        """Start copying every tensor in nested tuples, lists and dicts home."""
        ...

    def record(self) -> Event:
        """A moment in the stream that is current."""
        ...


class _Now:
    """An event on a device whose work is done when it was issued."""

    def synchronize(self) -> None:
        """It has happened."""


class HostApi:
    """The stand-in where the device is the CPU: no streams, no pinning, everything at once."""

    def pinned(self, shape: tuple[int, ...]) -> Any:
        import torch

        return torch.empty(shape, dtype=torch.uint8)

    def copying(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def computing(self, after: Event | None) -> AbstractContextManager[Any]:
        return nullcontext()

    def to_device(self, host: Any) -> Any:
        return host

    def stack(self, rows: Sequence[Any]) -> Any:
        import torch

        return torch.stack([row.cpu() for row in rows])

    def to_host(self, outputs: Any) -> Any:
        return outputs

    def record(self) -> Event:
        return _Now()


class CudaApi:
    """torch.cuda's streams, events and pinned memory on one GPU."""

    def __init__(self, device: str) -> None:
        import torch

        self._torch: Any = torch
        self._device = torch.device(device)
        self._copy = self._torch.cuda.Stream(self._device)
        self._compute = self._torch.cuda.Stream(self._device)

    def pinned(self, shape: tuple[int, ...]) -> Any:
        return self._torch.empty(shape, dtype=self._torch.uint8, pin_memory=True)

    def copying(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._torch.cuda.stream(self._copy)
        return context

    def computing(self, after: Event | None) -> AbstractContextManager[Any]:
        if after is not None:
            self._compute.wait_event(after)
        context: AbstractContextManager[Any] = self._torch.cuda.stream(self._compute)
        return context

    def to_device(self, host: Any) -> Any:
        tensor = host.to(self._device, non_blocking=True)
        # It was allocated on the copy stream; the allocator must know who else reads it.
        tensor.record_stream(self._compute)
        return tensor

    def stack(self, rows: Sequence[Any]) -> Any:
        here = [row.to(self._device, non_blocking=True) for row in rows]
        for row in {id(row): row for row in (*rows, *here) if row.is_cuda}.values():
            # Allocated on the stream of the thread that prepared it, read on this one.
            row.record_stream(self._torch.cuda.current_stream(row.device))
        batch = self._torch.stack(here)
        batch.record_stream(self._compute)
        return batch

    def to_host(self, outputs: Any) -> Any:
        return _each_tensor(outputs, self._torch.Tensor, self._home)

    def record(self) -> Event:
        event = self._torch.cuda.Event()
        event.record()
        moment: Event = event
        return moment

    def _home(self, tensor: Any) -> Any:
        host = self._torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)


@dataclass(slots=True)
class Slot:
    """A staging buffer, and when its last content had been copied away."""

    buffers: dict[tuple[int, ...], Any] = field(default_factory=dict)
    copied: Event | None = None

    def rows(self, api: DeviceApi, shape: tuple[int, int, int], count: int) -> Any:
        """The first `count` rows of the buffer for pictures of `shape`, free to be written."""
        if self.copied is not None:
            self.copied.synchronize()
        buffer = self.buffers.get(shape)
        if buffer is None or len(buffer) < count:
            buffer = self.buffers[shape] = api.pinned((count, *shape))
        return buffer[:count]


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch that is on its way through the device. batch: kept alive until it is done."""

    outputs: Any
    done: Event
    batch: Any


class Stager:
    """The buffers and streams of one lane."""

    def __init__(self, api: DeviceApi) -> None:
        self._api = api
        self._slots = [Slot() for _ in range(SLOTS)]
        self._turn = 0

    def launch(self, rows: Sequence[Any], spec: InputSpec, infer: Callable[[Any], Any]) -> Launched:
        """Stack `rows` (uint8, all of the spec's shape), move them, and start `infer` on them.

        rows: arrays, or tensors that nobody writes to any more.
        """
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % SLOTS
        arrays = [row for row in rows if isinstance(row, np.ndarray)]
        if arrays:
            host = slot.rows(self._api, (spec.height, spec.width, spec.channels), len(arrays))
            np.stack(arrays, out=host.numpy())
        with self._api.copying():
            moved = self._api.to_device(host) if arrays else ()
            batch = moved if len(arrays) == len(rows) else self._api.stack(_merged(rows, moved))
            slot.copied = self._api.record()
        with self._api.computing(after=slot.copied):
            outputs = self._api.to_host(infer(batch))
            return Launched(outputs, self._api.record(), batch)

    def collect(self, launched: Launched) -> Any:
        """The outputs, on the host."""
        launched.done.synchronize()
        return launched.outputs


def _merged(rows: Sequence[Any], moved: Sequence[Any]) -> list[Any]:
    """The rows in order, each array replaced by its copy on the device."""
    copies = iter(moved)
    return [next(copies) if isinstance(row, np.ndarray) else row for row in rows]


def api_for(device: str) -> DeviceApi:
    """The way to stage for a device by its name."""
    return CudaApi(device) if device.startswith("cuda") else HostApi()


def _each_tensor(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return change(value)
    match value:
        case tuple():
            return tuple(_each_tensor(v, kind, change) for v in value)
        case list():
            return [_each_tensor(v, kind, change) for v in value]
        case dict():
            return {k: _each_tensor(v, kind, change) for k, v in value.items()}
        case _:
            return value
