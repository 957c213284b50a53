"""The two towers of CLIP and its kin: pictures and texts into one space, where what belongs together is near.

Owns the loading of both and what each is given. Knows neither tasks nor scores: vectors come out as the model
makes them, not normalised.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel

from opsin_detectors import tensors
from opsin_detectors.api import LoadContext
from opsin_detectors.transformers import patches, pictures, texts
from opsin_detectors.transformers.checkpoint import Checkpoint

__all__ = ["Towers", "pooled"]

_LOOKS_AT_PADDING = frozenset(["siglip", "siglip2"])
"""Trained on texts padded to full length, without a mask; the last position is the answer."""


class Towers:
    """A loaded pair.

    pictures, texts: make one input ready; `Prepared.data` of these goes into the batches below, all of one
        shape.
    scale, bias: the score of a pair is scale * cosine + bias. sigmoid: whether each pair is scored for itself
        by the sigmoid; otherwise softmax over the texts, and the bias is 0.
    layout: what runs it, as ModelInfo tells it.
    """

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._device, self._dtype = tensors.device_of(context), tensors.dtype_of(context)
        processor = checkpoint.image_processor()
        self.pictures: pictures.Pictures = (
            patches.PatchedPictures(processor, self._device, self._dtype)
            if patches.is_patched(processor)
            else pictures.choose(processor, self._device, self._dtype)
        )
        config = checkpoint.config
        tokenizer = checkpoint.tokenizer()
        self.sigmoid = config.model_type in _LOOKS_AT_PADDING
        limit = texts.token_limit(tokenizer, config.text_config)
        self.texts = texts.Texts(tokenizer, limit, fixed=self.sigmoid)
        self._model = checkpoint.model(AutoModel).eval().to(torch.float32)
        with torch.inference_mode():
            self.texts.try_padding(self._text_features)
            self.scale = math.exp(self._model.logit_scale.item())
            self.bias = self._model.logit_bias.item() if self.sigmoid else 0.0
            probe = self.texts.arguments([self.texts.prepare("a", truncate=False).data])
            self.dimensions = int(self._text_features(probe).shape[1])
        self.layout = tensors.layout_of(context)
        tensors.placed(self._model, self._device, self._dtype, self.layout)
        self.dtype = tensors.name_of(self._dtype)
        self.memory_bytes = tensors.bytes_of(self._model)
        self.max_batch = 32 if self._device.type == "cpu" else 128

    @torch.inference_mode()
    def image_features(self, batch: Sequence[Any]) -> torch.Tensor:
        """(B, dimensions) for what `pictures` prepared, all of one shape."""
        seen = pictures.gathered(self.pictures, batch, self._device)
        return pooled(self._model.get_image_features(**seen))

    @torch.inference_mode()
    def text_features(self, batch: Sequence[texts.Tokens]) -> torch.Tensor:
        """(B, dimensions) for what `texts` prepared, all of one shape."""
        return self._text_features(self.texts.arguments(batch, self._device))

    def _text_features(self, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
        return pooled(self._model.get_text_features(**arguments))


def pooled(answer: Any) -> torch.Tensor:
    """Transformers 5 answers an object, 4 the tensor itself."""
    features: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.pooler_output
    return features
