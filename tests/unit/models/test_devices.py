"""Which devices a setting means."""

import pytest

from opsin_server.models.devices import current, devices_of, place_of


@pytest.mark.parametrize(
    ("wanted", "gpus", "devices"),
    [
        ("cpu", 0, ("cpu",)),
        ("cuda", 4, ("cuda",)),
        ("cuda:1", 4, ("cuda:1",)),
        ("cuda:0+cuda:2", 4, ("cuda:0", "cuda:2")),
        ("cuda:1+cuda:1", 4, ("cuda:1",)),
        ("cuda:*", 3, ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda:*", 1, ("cuda:0",)),
        ("cuda:*", 0, ("cuda:0",)),  # which cannot be used, as loading will say
    ],
)
def test_several_gpus_are_named_or_counted(wanted: str, gpus: int, devices: tuple[str, ...]) -> None:
    assert devices_of(wanted, lambda: gpus) == devices


def test_stand_ins_on_one_device_are_told_apart_by_name_only() -> None:
    assert [place_of(name) for name in ("cpu/0", "cpu/1", "cuda:1")] == ["cpu", "cpu", "cuda:1"]
    with current("cpu/1"):
        pass


def test_a_gpu_that_is_not_there_is_left_to_whoever_uses_it() -> None:
    with current("cuda:99"):
        pass
    with pytest.raises(ValueError, match="own"), current("cuda:99"):
        raise ValueError("its own")
