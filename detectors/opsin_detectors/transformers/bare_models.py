"""Checkpoints of a model without a head (`…Model`): whether it takes pictures or texts decides who reads it.

Either way a vector is made of what the model answers. Goes by what the class says of itself.
"""

import transformers

from opsin_detectors.api import Detector, LoadContext, LoadError
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.image_embedding import ImageEmbedder
from opsin_detectors.transformers.text_embedding import TextEmbedder

__all__ = ["bare_model"]


def bare_model(context: LoadContext, checkpoint: Checkpoint) -> Detector:
    """Raises LoadError for a model that is given neither."""
    name = checkpoint.config.architectures[0]
    kind = getattr(transformers, name, None) or checkpoint.own_class("AutoModel")
    match getattr(kind, "main_input_name", None):
        case "pixel_values":
            return ImageEmbedder(context, checkpoint)
        case "input_ids":
            return TextEmbedder(context, checkpoint)
        case _:
            raise LoadError(f"{checkpoint.source} is a {name}, which takes neither pictures nor texts")
