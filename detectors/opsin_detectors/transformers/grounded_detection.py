"""Zero-shot detection with Grounding DINO: boxes of the classes that the caller names, in one text.

The model looks at picture and text together, so pictures of one size share a batch when their texts are of
about one length, whatever classes they name. Owns the order of the steps and what a token's score means.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForZeroShotObjectDetection

from opsin_detectors import tensors
from opsin_detectors.api import Detector, Input, Item, LoadContext, Options, Output, Prepared, Task
from opsin_detectors.inputs import picture_of
from opsin_detectors.transformers import pictures, set_prediction, varied_pictures
from opsin_detectors.transformers.candidates import Sought, info_of, labels_of
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.prompts import NOBODY, Prompts
from opsin_detectors.transformers.texts import Texts, token_limit

__all__ = ["GroundedDetector"]


class GroundedDetector(Detector):
    """A loaded checkpoint. Settings: `min_score` (0..1, 0.25: below it nothing is a detection)."""

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        self._device, dtype = tensors.device_of(context), tensors.dtype_of(context)
        min_score = checkpoint.settings.number("min_score", 0.25, least=0.0, most=1.0)
        checkpoint.settings.done()
        self._pictures = varied_pictures.choose(checkpoint.image_processor(), self._device, dtype)
        config, tokenizer = checkpoint.config, checkpoint.tokenizer()
        limit = min(token_limit(tokenizer, config.text_config), config.max_text_len)
        self._texts = Texts(tokenizer, limit)
        self._prompts = Prompts(self._texts)
        layout = tensors.layout_of(context)
        self._model = tensors.placed(
            checkpoint.model(AutoModelForZeroShotObjectDetection), self._device, dtype, layout
        )
        self.info = info_of(self._model, context, min_score=min_score, decode_size=self._pictures.decode_size)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """The picture beside the tokens of its labels, whose owners are the state.

        Raises InputError for labels that are too long together.
        """
        picture = picture_of(self._name, source)
        text = self._prompts.prepare(labels_of(options), truncate=options.truncate_text)
        ready = self._pictures.prepare(picture.pixels, (picture.width, picture.height))
        return Prepared(Sought(ready.data, text.data), text.state, (ready.shape, text.shape))

    def example(self, task: Task) -> Input:
        """A picture of the commonest proportions."""
        return pictures.EXAMPLES[0]

    def examples(self, task: Task) -> Sequence[Input]:
        """Pictures of the proportions that cameras have."""
        return pictures.EXAMPLES

    @torch.inference_mode()
    def infer(self, batch: Sequence[Sought]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, queries, tokens), and boxes (B, queries, 4) of center and size."""
        seen = pictures.gathered(self._pictures, [one.picture for one in batch], self._device)
        read = self._texts.arguments([one.labels for one in batch], self._device)
        outputs = self._model(**seen, **read)
        return outputs.logits.cpu(), outputs.pred_boxes.cpu()

    @torch.inference_mode()
    def finish(self, outputs: tuple[torch.Tensor, torch.Tensor], items: Sequence[Item]) -> list[Output]:
        """A box is of the label with the best token; the full stops between labels score nothing."""
        logits, boxes = outputs
        names = [labels_of(item.options) for item in items]
        owners = torch.from_numpy(np.stack([item.state for item in items]))
        scores = _by_label(logits.float().sigmoid(), owners, max(map(len, names)))
        return set_prediction.answers(
            set_prediction.best_only(scores), set_prediction.corners(boxes), items, names
        )


def _by_label(scores: torch.Tensor, owners: torch.Tensor, labels: int) -> torch.Tensor:
    """(B, queries, labels): the best of each label's tokens, 0 for a label without any.

    scores: (B, queries, at least T), 0..1. owners: (B, T).
    """
    scores = scores[..., : owners.shape[1]]
    place = owners.where(owners != NOBODY, labels)[:, None].expand_as(scores)
    best = scores.new_zeros(*scores.shape[:2], labels + 1)
    return best.scatter_reduce_(-1, place, scores, "amax")[..., :labels]
