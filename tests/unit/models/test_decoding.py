"""A device decodes for a model only where it was proved to give the same, and is worth it or told to."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import device_codec
from opsin_detectors import imaging
from opsin_detectors.api import (
    Detector,
    ImageInput,
    InputSpec,
    LoadError,
    ModelInfo,
    Options,
    Prepared,
    Task,
)
from opsin_server.media import device
from opsin_server.models import decoding
from opsin_server.models.loaded import LoadedModel

INFO = ModelInfo(
    tasks=frozenset({Task.DETECT}), input=InputSpec(64, 64), decode_size=(64, 64), takes_tensors=True
)


class Stretches(Detector):
    """What `prepare` is given is kept in `seen`."""

    def __init__(self, spoil: Callable[[Any], Any] = lambda pixels: pixels) -> None:
        self.info = INFO
        self.seen: list[Any] = []
        self._spoil = spoil

    def prepare(self, source: Any, task: Task, options: Options) -> Prepared:
        self.seen.append(source.pixels)
        resized = imaging.resize(source.pixels, 64, 64)
        return Prepared(self._spoil(resized) if isinstance(resized, torch.Tensor) else resized)

    def infer(self, batch: Any) -> Any:
        return batch

    def finish(self, outputs: Any, items: Any) -> Any:
        return ()


def clock(device_seconds: float, cpu_seconds: float) -> Callable[[], float]:
    """By which one round of the device's takes so long, then one of the CPU's."""
    spans = [device_seconds] * decoding.ROUNDS + [cpu_seconds] * decoding.ROUNDS
    times: Iterator[float] = itertools.chain.from_iterable((0.0, span) for span in spans)
    return lambda: next(times)


def use(monkeypatch: pytest.MonkeyPatch, codec: device.Codec) -> None:
    monkeypatch.setattr(device, "open_codec", lambda name: ("test", codec))


def test_it_is_taken_where_it_beats_all_threads_of_the_cpu_together(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, device_codec.codec)
    taken = decoding.choose(Stretches(), "auto", threads=4, clock=clock(1.0, 4.1))
    assert (taken.name, taken.why) == ("test", "chosen")
    left = decoding.choose(Stretches(), "auto", threads=4, clock=clock(1.0, 3.9))
    assert (left.name, left.why) == ("cpu", "test is slower than 4 threads")
    assert "ms" in left.tried


def test_told_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, device_codec.codec)
    slow = decoding.choose(Stretches(), "device", threads=4, clock=clock(9.0, 1.0))
    assert slow.name == "test"
    fast = Stretches()
    assert decoding.choose(fast, "cpu", threads=4).name == "cpu"
    assert not fast.seen


def _tinted(data: bytes) -> Any:
    return (device_codec.codec(data).int() + 5).clamp(0, 255).to(torch.uint8)


def _one_edge_off(data: bytes) -> Any:
    pixels = device_codec.codec(data)
    pixels[:, :9] = 255 - pixels[:, :9]
    return pixels


def _fails(data: bytes) -> Any:
    raise RuntimeError("no such engine")


@pytest.mark.parametrize(
    ("codec", "why"),
    [
        (_tinted, "pixels are not the CPU's"),
        (_one_edge_off, "pixels are not the CPU's"),
        (_fails, "decoded none of 5 photographs"),
    ],
)
def test_a_decoder_that_gives_other_pixels_is_not_used(
    monkeypatch: pytest.MonkeyPatch, codec: device.Codec, why: str
) -> None:
    use(monkeypatch, codec)
    choice = decoding.choose(Stretches(), "auto", threads=1)
    assert choice.decoder is None
    assert why in choice.why
    with pytest.raises(LoadError, match=why):
        decoding.choose(Stretches(), "device", threads=1)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda tensor: tensor.numpy(), "no tensor on the device"),
        (lambda tensor: tensor[:, :60], "something else for a tensor"),
        (lambda tensor: tensor.float(), "something else for a tensor"),
        (lambda tensor: tensor.flip(1), "levels from that of an array"),
    ],
)
def test_a_detector_that_makes_something_else_of_tensors_is_given_none(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], Any], why: str
) -> None:
    use(monkeypatch, device_codec.codec)
    choice = decoding.choose(Stretches(spoil), "auto", threads=1)
    assert choice.decoder is None
    assert why in choice.why


def _refuses(tensor: Any) -> Any:
    raise TypeError("expected an array,\nnot a tensor")


def _refuses_once_sized() -> Callable[[Any], Any]:
    """What is only tried when it is timed fails, as a kernel does that was chosen for another size."""
    left = iter(range(5))
    return lambda tensor: tensor if next(left, None) is not None else _refuses(tensor)


@pytest.mark.parametrize("spoil", [_refuses, _refuses_once_sized()], ids=["proved", "timed"])
def test_a_detector_that_fails_on_tensors_is_given_none_and_loads(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], Any]
) -> None:
    use(monkeypatch, device_codec.codec)
    choice = decoding.choose(Stretches(spoil), "auto", threads=1)
    assert choice.decoder is None
    assert choice.why == "its detector fails on a tensor: TypeError: expected an array, not a tensor"
    with pytest.raises(
        LoadError, match="cannot be decoded on cpu: its detector fails on a tensor: TypeError"
    ):
        decoding.choose(Stretches(spoil), "device", threads=1)


def test_where_nothing_decodes_on_the_device_loading_says_so_only_when_told() -> None:
    assert decoding.choose(Stretches(), "auto", threads=1).why.startswith("nothing decodes on cpu")
    with pytest.raises(LoadError, match="cannot be decoded on cpu: nothing decodes on cpu"):
        decoding.choose(Stretches(), "device", threads=1)


@pytest.mark.parametrize("spec", [None, InputSpec(64, 64, framework="numpy")])
def test_only_batches_that_the_server_stacks_in_torch_take_tensors(spec: InputSpec | None) -> None:
    assert decoding.takes_tensors(INFO)
    assert not decoding.takes_tensors(ModelInfo(tasks=INFO.tasks, input=spec, takes_tensors=True))


def _tensor() -> Any:
    pixels: Any = torch.zeros((70, 80, 3), dtype=torch.uint8)
    return ImageInput(pixels, 80, 70)


@pytest.mark.parametrize("home", ["", "cuda:0"])
def test_a_detector_never_sees_a_tensor_that_is_not_on_its_device(home: str) -> None:
    detector = Stretches()
    model = LoadedModel("m", 1, detector)
    model.decoder = device.DeviceDecoder("test", home, device_codec.codec) if home else None
    model.prepare(_tensor(), Task.DETECT, Options())
    assert isinstance(detector.seen[0], np.ndarray)


def test_where_the_device_has_no_memory_left_the_cpu_prepares() -> None:
    def full(tensor: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB")

    detector = Stretches(full)
    model = LoadedModel("m", 1, detector)
    model.decoder = device.DeviceDecoder("test", "cpu", device_codec.codec)
    assert isinstance(model.prepare(_tensor(), Task.DETECT, Options()).data, np.ndarray)
    assert len(detector.seen) == 2
