"""Tensors are resized, cropped and fitted as arrays are, to a level: whether a GPU decoded does not show."""

from typing import Any

import numpy as np
import pytest
import torch

from opsin_detectors import imaging
from opsin_detectors.api import Pixels
from opsin_detectors.execution.views import pictures

SIZES = ((416, 416), (224, 224), (1000, 700), (37, 400))
FEW = 1e-4
"""A share of values."""


def photographs() -> list[Pixels]:
    return [one.pixels.copy() for one in pictures()]


def apart(tensor: torch.Tensor, array: Pixels) -> Any:
    assert tensor.dtype == torch.uint8
    assert tensor.is_contiguous()
    assert tuple(tensor.shape) == array.shape
    return np.abs(tensor.numpy().astype(int) - array)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("photograph", photographs())
def test_a_resized_tensor_is_within_a_level_of_the_resized_array(photograph: Pixels, size: Any) -> None:
    tensor = imaging.resize(torch.from_numpy(photograph), *size)
    assert apart(tensor, imaging.resize(photograph, *size)).max() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("photograph", photographs())
def test_bicubic_is_within_a_level_but_for_a_few_pixels(photograph: Pixels, size: Any) -> None:
    how = imaging.Filter.BICUBIC
    levels = apart(
        imaging.resize(torch.from_numpy(photograph), *size, how), imaging.resize(photograph, *size, how)
    )
    assert levels.max() <= 2
    assert (levels > 1).mean() < FEW


def test_overshoot_at_hard_edges_is_clipped_as_with_arrays() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    stripes[:, ::3] = 255
    how = imaging.Filter.BICUBIC
    tensor = imaging.resize(torch.from_numpy(stripes), 150, 150, how)
    assert apart(tensor, imaging.resize(stripes, 150, 150, how)).max() <= 2


@pytest.mark.parametrize("size", [(10, 10), (100, 100)])
def test_a_crop_of_a_tensor_is_the_crop_of_the_array(size: tuple[int, int]) -> None:
    array = np.random.default_rng(3).integers(0, 256, (40, 51, 3), np.uint8)
    assert not apart(
        imaging.center_crop(torch.from_numpy(array), *size), imaging.center_crop(array, *size)
    ).any()


@pytest.mark.parametrize("centered", [False, True])
def test_a_tensor_is_fitted_at_the_same_place_and_scale(*, centered: bool) -> None:
    array = np.random.default_rng(3).integers(0, 256, (40, 51, 3), np.uint8)
    canvas, *place = imaging.letterbox(torch.from_numpy(array), 96, 64, fill=114, centered=centered)
    expected, *there = imaging.letterbox(array, 96, 64, fill=114, centered=centered)
    assert place == there
    assert apart(canvas, expected).max() <= 1


def test_a_tensor_that_shrinks_too_much_for_a_gpus_kernel_is_what_the_array_would_be() -> None:
    array = np.random.default_rng(3).integers(0, 256, (90, 4000, 3), np.uint8)
    assert not apart(imaging.resize(torch.from_numpy(array), 20, 20), imaging.resize(array, 20, 20)).any()


def test_a_tensor_of_the_right_size_is_given_back_as_it_is() -> None:
    tensor = torch.zeros((8, 9, 3), dtype=torch.uint8)
    assert imaging.resize(tensor, 9, 8) is tensor
