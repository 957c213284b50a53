"""How much memory a model will take, read off its files."""

import json
from pathlib import Path

import pytest

from opsin_server.errors import Failure, Reason
from opsin_server.models.memory import DeviceMemory, memory_of, needed, refuse_if_short


def safetensors(path: Path, **tensors: tuple[str, list[int]]) -> None:
    width = {"F32": 4, "F16": 2, "I64": 8}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = width[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


@pytest.mark.parametrize(("dtype", "weights"), [("float32", 4_000_080), ("bfloat16", 2_000_080)])
def test_weights_count_at_the_type_they_will_have(tmp_path: Path, dtype: str, weights: int) -> None:
    safetensors(tmp_path / "model.safetensors", w=("F32", [1000, 1000]), steps=("I64", [10]))
    assert needed(str(tmp_path), dtype) == round(1.2 * weights)


def test_of_copies_in_two_formats_only_one_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(5000))
    safetensors(tmp_path / "model.safetensors", w=("F32", [100]))
    (tmp_path / "README.md").write_bytes(bytes(9000))
    size = (tmp_path / "model.safetensors").stat().st_size
    assert needed(str(tmp_path)) == round(1.2 * size)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, (4).to_bytes(8, "little") + b"{}]["])
def test_a_file_that_is_not_what_it_says_counts_by_its_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert needed(str(tmp_path), "float32") == round(1.2 * len(content))


@pytest.mark.parametrize("source", ["", "org/name", "/no/such/folder"])
def test_what_cannot_be_known_counts_as_nothing(source: str) -> None:
    assert needed(source) == 0


def test_a_model_that_does_not_fit_is_refused_with_both_figures() -> None:
    with pytest.raises(Failure) as refused:
        refuse_if_short("big", "cuda:0", 3_000_000_000, DeviceMemory(8_000_000_000, 1_500_000_000))
    assert refused.value.reason is Reason.DEVICE_MEMORY
    assert refused.value.never_retry
    assert refused.value.metadata["needed_bytes"] == "3000000000"
    assert refused.value.metadata["free_bytes"] == "1500000000"
    assert "3.0 GB" in refused.value.message
    assert "1.5 GB" in refused.value.message


def test_a_device_that_does_not_tell_its_memory_refuses_nothing() -> None:
    refuse_if_short("big", "cpu", 10**15, DeviceMemory())


def test_this_machine_knows_its_memory() -> None:
    memory = memory_of("cpu")
    assert 0 < memory.free <= memory.total
