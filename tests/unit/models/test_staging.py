"""Staging: the copy of the next batch overlaps the running one, and no buffer is written while it is read."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from opsin_detectors.api import InputSpec
from opsin_server.models.staging import HostApi, Stager

torch = pytest.importorskip("torch")

SPEC = InputSpec(height=2, width=3)


def pictures(value: int, count: int) -> list[Any]:
    return [np.full((2, 3, 3), value + i, np.uint8) for i in range(count)]


class Gpu(HostApi):
    """A device whose streams only take notes: what was issued where, and who waited for what."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.stream = ""
        self.moments = 0

    @contextmanager
    def copying(self) -> Generator[None]:
        self.stream = "copy"
        yield
        self.stream = ""

    @contextmanager
    def computing(self, after: Any) -> Generator[None]:
        self.log.append(f"compute waits for {after.name}")
        self.stream = "compute"
        yield
        self.stream = ""

    def to_device(self, host: Any) -> Any:
        self.log.append(f"{self.stream}: in")
        return host.clone()

    def to_host(self, outputs: Any) -> Any:
        self.log.append(f"{self.stream}: home")
        return outputs

    def record(self) -> Any:
        self.moments += 1
        return _Moment(self, f"{self.stream} {self.moments}")


class _Moment:
    def __init__(self, gpu: Gpu, name: str) -> None:
        self.gpu, self.name = gpu, name

    def synchronize(self) -> None:
        self.gpu.log.append(f"cpu waits for {self.name}")


def test_the_batch_is_what_was_stacked() -> None:
    stager = Stager(HostApi())
    launched = stager.launch(pictures(5, 4), SPEC, lambda batch: batch.sum(dim=(1, 2, 3)))
    assert stager.collect(launched).tolist() == [5 * 18, 6 * 18, 7 * 18, 8 * 18]


def test_compute_waits_for_the_copy_and_the_cpu_for_nothing_until_it_collects() -> None:
    gpu = Gpu()
    stager = Stager(gpu)
    launched = stager.launch(pictures(0, 2), SPEC, lambda batch: batch)
    assert gpu.log == ["copy: in", "compute waits for copy 1", "compute: home"]
    stager.collect(launched)
    assert gpu.log[-1] == "cpu waits for compute 2"


def test_the_next_batch_is_launched_before_the_running_one_is_collected() -> None:
    gpu = Gpu()
    stager = Stager(gpu)
    first = stager.launch(pictures(0, 2), SPEC, lambda batch: batch)
    second = stager.launch(pictures(9, 2), SPEC, lambda batch: batch)
    assert not [line for line in gpu.log if line.startswith("cpu waits")]
    assert stager.collect(first)[0, 0, 0, 0] == 0
    assert stager.collect(second)[0, 0, 0, 0] == 9


def test_a_buffer_is_written_again_only_after_it_was_copied_away() -> None:
    gpu = Gpu()
    stager = Stager(gpu)
    for _ in range(3):
        stager.launch(pictures(0, 2), SPEC, lambda batch: batch)
    assert "cpu waits for copy 1" in gpu.log


def test_buffers_are_reused_from_batch_to_batch() -> None:
    class Counting(HostApi):
        made = 0

        def pinned(self, shape: tuple[int, ...]) -> Any:
            self.made += 1
            return super().pinned(shape)

    api = Counting()
    stager = Stager(api)
    for count in (4, 4, 2, 1, 4, 3):
        stager.launch(pictures(0, count), SPEC, lambda batch: batch)
    assert api.made == 2  # one for each slot


def test_tensors_are_stacked_on_the_device_without_a_trip_through_the_host() -> None:
    class NoHost(Gpu):
        def pinned(self, shape: tuple[int, ...]) -> Any:
            raise AssertionError("a host buffer was made")

        def stack(self, rows: Any) -> Any:
            self.log.append(f"{self.stream}: stack")
            return super().stack(rows)

    gpu = NoHost()
    rows = [torch.from_numpy(row) for row in pictures(5, 3)]
    launched = Stager(gpu).launch(rows, SPEC, lambda batch: batch)
    assert launched.outputs[:, 0, 0, 0].tolist() == [5, 6, 7]
    assert gpu.log == ["copy: stack", "compute waits for copy 1", "compute: home"]


def test_arrays_and_tensors_share_a_batch_in_their_order() -> None:
    stager = Stager(HostApi())
    for turn in range(3):
        rows = pictures(10 * turn, 5)
        mixed = [torch.from_numpy(row) if at in (1, 4) else row for at, row in enumerate(rows)]
        launched = stager.launch(mixed, SPEC, lambda batch: batch)
        assert launched.outputs[:, 1, 2, 0].tolist() == [10 * turn + at for at in range(5)]


def test_a_tensor_is_not_written_to_by_later_batches() -> None:
    stager = Stager(HostApi())
    row = torch.from_numpy(pictures(7, 1)[0])
    for _ in range(4):
        stager.launch([row, *pictures(50, 2)], SPEC, lambda batch: batch.fill_(9))
    assert int(row.max()) == 7
