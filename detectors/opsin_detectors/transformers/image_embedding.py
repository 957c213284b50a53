"""The family of image embedders: a picture in, a vector out.

The vector is the model's own pooled output where it has one (the pooler of ViT, the normalised CLS token of
DINOv2, the averaged map of ConvNeXt and BiT), and the CLS token where the checkpoint comes without a pooler.
Owns that choice and the order of the steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from opsin_detectors import tensors
from opsin_detectors.api import (
    Input,
    Item,
    LoadContext,
    LoadError,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Task,
)
from opsin_detectors.execution.decide import decide
from opsin_detectors.execution.network import Network, Program, Runnable
from opsin_detectors.inputs import picture_of
from opsin_detectors.transformers import pictures
from opsin_detectors.transformers.checkpoint import Checkpoint

__all__ = ["ImageEmbedder"]

_POOLINGS = ("auto", "pooler", "cls", "mean")


class ImageEmbedder(Runnable):
    """A loaded checkpoint.

    Setting `pooling`: auto (see the module), pooler (the model's pooled output), cls (the first token of the
    last layer) or mean (over all tokens of the last layer, or all places of the last map).
    """

    program: Program

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        device = tensors.device_of(context)
        wanted = checkpoint.settings.text("pooling", "auto")
        checkpoint.settings.done()
        if wanted not in _POOLINGS:
            raise LoadError(
                f"“pooling” of “{context.name}” has to be one of {', '.join(_POOLINGS)}, not “{wanted}”"
            )
        processor = checkpoint.image_processor()
        self._pictures = pictures.choose(processor, device, torch.float32)
        model = checkpoint.model(AutoModel, spare=["pooler"]).eval().to(torch.float32)
        with torch.inference_mode():
            tried = model(**pictures.probe(processor))
        pooling = _choose(checkpoint.source, wanted, tried, model)
        body = _Embedder(model, pooling).eval().requires_grad_(False).to(device)
        self.info = ModelInfo(
            tasks=frozenset({Task.EMBED_IMAGE}),
            input=self._pictures.spec,
            embedding_dimensions=int(_pooled(pooling, tried).shape[1]),
            max_batch=32 if device.type == "cpu" else 128,
            decode_size=self._pictures.decode_size,
            device=context.device,
            takes_tensors=self._pictures.spec is not None,
        )
        decide(self, Network(body, self._pictures.arguments, self._pictures.spec), context)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Resize and crop, as the checkpoint's processor does."""
        return self._pictures.prepare(picture_of(self._name, source).pixels)

    @torch.inference_mode()
    def infer(self, batch: Any) -> torch.Tensor:
        """Vectors, (B, dimensions)."""
        vectors: torch.Tensor = self.program(batch)
        return vectors

    def finish(self, outputs: torch.Tensor, items: Sequence[Item]) -> list[Output]:
        """A vector for each."""
        return [Output(vector=row.copy()) for row in outputs.float().cpu().numpy()]


class _Embedder(nn.Module):
    """The model as one step: its arguments -> vectors (B, dimensions)."""

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, **arguments: torch.Tensor) -> torch.Tensor:
        return _pooled(self.pooling, self.model(**arguments))


def _choose(source: str, wanted: str, tried: Any, model: Any) -> str:
    """The pooling to use, proven to work. tried: what the model answered."""
    pooler = tried.get("pooler_output") is not None
    tokens = tried.get("last_hidden_state") is not None and tried.last_hidden_state.ndim == 3
    cls = tokens and any(
        name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters()
    )
    match wanted:
        case "auto" if pooler or cls:
            return "pooler" if pooler else "cls"
        case "pooler" if pooler:
            return wanted
        case "cls" if cls:
            return wanted
        case "mean" if tried.get("last_hidden_state") is not None:
            return wanted
    can = [name for name, there in (("pooler", pooler), ("cls", cls), ("mean", True)) if there]
    raise LoadError(f"{source} has nothing to make a vector of by pooling={wanted}; it can: {', '.join(can)}")


def _pooled(pooling: str, answer: Any) -> torch.Tensor:
    if pooling == "pooler":
        pooled: torch.Tensor = answer.pooler_output
        return pooled.flatten(1)
    hidden: torch.Tensor = answer.last_hidden_state
    if pooling == "cls":
        return hidden[:, 0]
    return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))
