"""Zero-shot detection with OWL-ViT and OWLv2: boxes of the classes that the caller names.

The picture's part and the text's part are run apart, so that texts are run once and pictures with different
classes share a batch. Owns the order of the steps and what boxes are relative to.
"""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForZeroShotObjectDetection

from opsin_detectors import tensors
from opsin_detectors.api import Detector, Input, Item, LoadContext, Options, Output, Prepared, Task
from opsin_detectors.inputs import picture_of
from opsin_detectors.transformers import pictures, set_prediction
from opsin_detectors.transformers.candidates import Sought, info_of, labels_of
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.label_features import LabelFeatures
from opsin_detectors.transformers.texts import Texts, Tokens, token_limit
from opsin_detectors.transformers.towers import pooled

__all__ = ["OwlDetector"]


class OwlDetector(Detector):
    """A loaded checkpoint. Settings: `min_score` (0..1, 0.1) and `template`, “{}” where a label goes."""

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self._name = context.name
        self._device, dtype = tensors.device_of(context), tensors.dtype_of(context)
        min_score = checkpoint.settings.number("min_score", 0.1, least=0.0, most=1.0)
        template = checkpoint.template("{}")
        checkpoint.settings.done()
        processor = checkpoint.image_processor()
        self._squared = bool(getattr(processor, "do_pad", False))
        self._pictures = pictures.choose(processor, self._device, dtype)
        tokenizer = checkpoint.tokenizer()
        self._texts = Texts(tokenizer, token_limit(tokenizer, checkpoint.config.text_config), fixed=True)
        layout = tensors.layout_of(context)
        self._model = tensors.placed(
            checkpoint.model(AutoModelForZeroShotObjectDetection), self._device, dtype, layout
        )
        self._model.box_bias = self._model.box_bias.to(dtype)
        self._queries = LabelFeatures(self._texts, self._embedded, template)
        self.info = info_of(self._model, context, min_score=min_score, decode_size=self._pictures.decode_size)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """The picture, beside its labels. Raises InputError for a label that is too long."""
        picture, labels = picture_of(self._name, source), labels_of(options)
        self._queries.check(labels, truncate=options.truncate_text)
        ready = self._pictures.prepare(picture.pixels)
        return Prepared(Sought(ready.data, labels), shape=ready.shape)

    @torch.inference_mode()
    def infer(self, batch: Sequence[Sought]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, places, most labels of any item) and boxes (B, places, 4).

        The logits are the lowest there is where an item has fewer labels.
        """
        queries = [self._queries(one.labels) for one in batch]
        known = [torch.ones(len(rows), dtype=torch.bool, device=self._device) for rows in queries]
        seen = pictures.gathered(self._pictures, [one.picture for one in batch], self._device)
        grid, _ = self._model.image_embedder(**seen)[:2]
        places = grid.flatten(1, 2)
        padded, mask = pad_sequence(queries, batch_first=True), pad_sequence(known, batch_first=True)
        logits, _ = self._model.class_predictor(places, padded, mask)
        boxes = self._model.box_predictor(places, grid)
        return logits.cpu(), boxes.cpu()

    @torch.inference_mode()
    def finish(self, outputs: tuple[torch.Tensor, torch.Tensor], items: Sequence[Item]) -> list[Output]:
        """A place's box is of the label that it is most like, as transformers' processor has it."""
        logits, boxes = outputs
        names = [labels_of(item.options) for item in items]
        scores = set_prediction.best_only(set_prediction.independent_scores(logits))
        corners = set_prediction.corners(boxes) * self._reach(items)
        return set_prediction.answers(scores, corners, items, names)

    def _embedded(self, batch: Sequence[Tokens]) -> torch.Tensor:
        towers = getattr(self._model, self._model.base_model_prefix)
        return pooled(towers.get_text_features(**self._texts.arguments(batch, self._device)))

    def _reach(self, items: Sequence[Item]) -> torch.Tensor:
        """(B, 1, 4): what the model's 1 is, in sides of the picture; more than 1 where it saw a square."""
        sides = torch.tensor([[item.width, item.height] for item in items], dtype=torch.float32)
        reach = sides.amax(1, keepdim=True) / sides if self._squared else torch.ones_like(sides)
        return reach.repeat(1, 2)[:, None]
