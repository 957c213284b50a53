"""Pictures as patches, as many as the picture's own proportions ask for (SigLIP 2 “naflex”).

A picture becomes a list of patches, padded to a step of their number with a mask, so that pictures of about
equally many share a batch and the padding is not looked at. Knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from opsin_detectors.api import InputSpec, Pixels, Prepared
from opsin_detectors.transformers.texts import padded_length

__all__ = ["PatchedPictures", "Patches", "is_patched"]


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """One picture.

    values: (patches, patch side * patch side * 3) float32, normalised, without padding.
    rows, columns: how the patches lie; rows * columns = patches.
    """

    values: npt.NDArray[np.float32]
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        """Held while it waits."""
        return self.values.nbytes


def is_patched(processor: Any) -> bool:
    """Whether an image processor gives patches."""
    return {"pixel_values", "pixel_attention_mask", "spatial_shapes"} <= set(processor.model_input_names)


class PatchedPictures:
    """The checkpoint's own processor, one picture at a time, less the padding that it adds."""

    spec: InputSpec | None = None
    decode_size = (0, 0)

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._processor = processor
        self._most = int(processor.max_num_patches)
        self._device = device
        self._dtype = dtype

    def prepare(self, pixels: Pixels, original: tuple[int, int] = (0, 0)) -> Prepared:
        """Patches; the shape is the number that they are padded to."""
        answer = self._processor(images=Image.fromarray(pixels), return_tensors="np")
        rows, columns = (int(size) for size in answer["spatial_shapes"][0])
        values = np.asarray(answer["pixel_values"][0][: rows * columns], np.float32)
        return Prepared(Patches(values, rows, columns), shape=padded_length(rows * columns, self._most))

    def arguments(self, batch: Sequence[Patches]) -> dict[str, torch.Tensor]:
        """pixel_values (B, padded, values), pixel_attention_mask (B, padded), spatial_shapes (B, 2)."""
        length = padded_length(len(batch[0].values), self._most)
        values = np.zeros((len(batch), length, batch[0].values.shape[1]), np.float32)
        mask = np.zeros((len(batch), length), np.int64)
        for row, one in enumerate(batch):
            values[row, : len(one.values)] = one.values
            mask[row, : len(one.values)] = 1
        shapes = np.array([(one.rows, one.columns) for one in batch], np.int64)
        return {
            "pixel_values": torch.from_numpy(values).to(self._device, self._dtype),
            "pixel_attention_mask": torch.from_numpy(mask).to(self._device),
            "spatial_shapes": torch.from_numpy(shapes),
        }
