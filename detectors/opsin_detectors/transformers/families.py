"""Which code answers for a checkpoint: chosen from the checkpoint's own config, never from its name.

To add a family, write a sibling module with a class called with (context, checkpoint), and name here the
endings of the architectures that it reads.
"""

from collections.abc import Callable, Mapping

from opsin_detectors.api import Detector, LoadContext, LoadError
from opsin_detectors.transformers.bare_models import bare_model
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.grounded_detection import GroundedDetector
from opsin_detectors.transformers.image_classification import ImageClassifier
from opsin_detectors.transformers.joint_embedding import JointEmbedder
from opsin_detectors.transformers.object_detection import ObjectDetector
from opsin_detectors.transformers.text_classification import TextClassifier
from opsin_detectors.transformers.text_embedding import SentenceEmbedder
from opsin_detectors.transformers.zero_shot_detection import OwlDetector

__all__ = ["FAMILIES", "load"]

FAMILIES: Mapping[str, Callable[[LoadContext, Checkpoint], Detector]] = {
    "ForImageClassification": ImageClassifier,
    "ForImageClassificationWithTeacher": ImageClassifier,
    "CLIPModel": JointEmbedder,
    "SiglipModel": JointEmbedder,
    "Siglip2Model": JointEmbedder,
    # Before the ending that they share.
    "OwlViTForObjectDetection": OwlDetector,
    "Owlv2ForObjectDetection": OwlDetector,
    "GroundingDinoForObjectDetection": GroundedDetector,  # MM Grounding DINO's as well
    "ForObjectDetection": ObjectDetector,
    "ForSequenceClassification": TextClassifier,
    "ForMaskedLM": SentenceEmbedder,
    "ForCausalLM": SentenceEmbedder,
    "Model": bare_model,  # all that ends so: stays last
}
"""Ending of the architecture's class name -> what reads it; the first that fits."""


def load(context: LoadContext) -> Detector:
    """The detector for `context.source`. Raises LoadError for a family that is not known."""
    checkpoint = Checkpoint.open(context)
    architectures = checkpoint.config.architectures or []
    for ending, family in FAMILIES.items():
        if any(name.endswith(ending) for name in architectures):
            return family(context, checkpoint)
    known = ", ".join(f"…{ending}" for ending in FAMILIES)
    what = " or ".join(architectures) or "checkpoint of no stated architecture"
    raise LoadError(f"{context.source} is a {what}, which this detector does not read; it reads {known}")
