"""The family of text embedders: a text in, a vector out.

Owns the order of the steps. How tokens become one vector is said by the checkpoint (`sentence.py`) or by
the user, and done in `pooling.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForTextEncoding

from opsin_detectors import tensors
from opsin_detectors.api import Item, LoadContext, LoadError, ModelInfo, Output, Task
from opsin_detectors.transformers import texts
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.pooling import MODES, pool
from opsin_detectors.transformers.reading import TextReader
from opsin_detectors.transformers.sentence import Recipe, read_recipe

__all__ = ["SentenceEmbedder", "TextEmbedder"]


class TextEmbedder(TextReader):
    """A loaded checkpoint.

    Settings: `pooling` = auto or a mode of `pooling.py` (auto: as the checkpoint says, mean where it says
    nothing) and `prompt`, the name of one of the checkpoint's own prompts, or none.
    """

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        self._device, dtype = tensors.device_of(context), tensors.dtype_of(context)
        self._recipe = recipe = _recipe(context, checkpoint)
        checkpoint.settings.done()
        tokenizer = checkpoint.tokenizer()
        limit = texts.token_limit(tokenizer, checkpoint.config)
        self._texts = texts.Texts(
            tokenizer, min(limit, recipe.limit or limit), prefix=recipe.prefix, lower=recipe.lower
        )
        # Where a pooler lacks weights nobody misses them: the vector is made of the tokens.
        self._model = checkpoint.model(_auto_class(checkpoint.config), spare=["pooler"])
        self._model.eval().to(torch.float32)
        self._after = nn.Sequential(*recipe.layers).eval()
        with torch.inference_mode():
            self._texts.try_padding(self._vectors)
            probe = self._texts.arguments([self._texts.prepare("a", truncate=True).data])
            dimensions = int(self._vectors(probe).shape[1])
        tensors.placed(self._model, self._device, dtype)
        tensors.placed(self._after, self._device, torch.float32)
        self.info = ModelInfo(
            tasks=frozenset({Task.EMBED_TEXT}),
            embedding_dimensions=dimensions,
            max_batch=texts.largest_batch(self._device, checkpoint.config),
            device=context.device,
            dtype=tensors.name_of(dtype),
            runtime="eager",
            memory_bytes=tensors.bytes_of(self._model) + tensors.bytes_of(self._after),
        )

    @torch.inference_mode()
    def infer(self, batch: Sequence[texts.Tokens]) -> torch.Tensor:
        """Vectors, (B, dimensions) float32."""
        return self._vectors(self._texts.arguments(batch, self._device))

    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        """A vector for each."""
        return [Output(vector=row.copy()) for row in outputs.cpu().numpy()]

    def _vectors(self, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = self._model(**arguments).last_hidden_state
        mask = arguments.get("attention_mask", torch.ones(hidden.shape[:2], device=hidden.device))
        made: torch.Tensor = self._after(pool(self._recipe.modes, hidden, mask))
        return nn.functional.normalize(made) if self._recipe.normalize else made


class SentenceEmbedder(TextEmbedder):
    """The same for a checkpoint whose architecture has another head: only if it says how to make a vector."""

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        if checkpoint.json("modules.json") is None:
            what = " or ".join(checkpoint.config.architectures)
            raise LoadError(
                f"{checkpoint.source} is a {what} without modules.json, so it says not how to embed a text"
            )
        super().__init__(context, checkpoint)


def _recipe(context: LoadContext, checkpoint: Checkpoint) -> Recipe:
    """The checkpoint's, with the pooling that the user asked for."""
    recipe = read_recipe(checkpoint) or Recipe()
    wanted = checkpoint.settings.text("pooling", "auto")
    if wanted == "auto":
        return recipe
    if wanted not in MODES:
        raise LoadError(
            f"“pooling” of “{context.name}” has to be one of auto, {', '.join(MODES)}, not “{wanted}”"
        )
    return replace(recipe, modes=(wanted,))


def _auto_class(config: Any) -> Any:
    """T5's kin are an encoder and a decoder to AutoModel; a checkpoint of the encoder says so."""
    encoder = any(name.endswith("EncoderModel") for name in config.architectures or [])
    return AutoModelForTextEncoding if encoder else AutoModel
