"""From a classifier's logits to its labels, of whatever was classified.

Owns what `scores` and `flag` mean. Knows neither pictures nor texts.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from opsin_detectors.api import Label, LoadContext, LoadError, Options
from opsin_detectors.flags import parse_flag
from opsin_detectors.transformers.checkpoint import Checkpoint, classes_of

__all__ = ["ClassScores"]

Scores = npt.NDArray[np.float32]

_FEW = 20
"""Up to so many classes are always all answered."""


class ClassScores:
    """Of one checkpoint. Settings: `flag` (see `flags.py`) and `scores` = softmax, sigmoid, or auto.

    auto: sigmoid where the config says multi-label or there is one class only, else softmax.
    classes: names, in the order of the logits. Raises LoadError for a setting that is wrong.
    """

    def __init__(self, context: LoadContext, checkpoint: Checkpoint) -> None:
        self.classes = classes_of(checkpoint.config)
        self.flag = parse_flag(checkpoint.settings.text("flag"), self.classes)
        self._independent = _independent(context, checkpoint)
        self._always = tuple(self.classes.index(name) for name in self.flag.classes) if self.flag else ()

    def of(self, logits: torch.Tensor) -> Scores:
        """(B, classes), each 0..1, from logits of the same shape and any float type."""
        exact = logits.float()
        scores: Scores = (exact.sigmoid() if self._independent else exact.softmax(-1)).cpu().numpy()
        return scores

    def labels(self, scores: Scores, options: Options) -> list[Label]:
        """What the caller may want of one row of scores."""
        wanted: Any = range(len(scores))
        if len(scores) > _FEW and 0 < options.max_labels < len(scores) and not options.labels:
            # Objects for a thousand classes cost more than the model's head; the flag's classes always count.
            best = np.argpartition(scores, -options.max_labels)[-options.max_labels :]
            wanted = dict.fromkeys([*best.tolist(), *self._always])
        return [Label(self.classes[index], float(scores[index]), index) for index in wanted]


def _independent(context: LoadContext, checkpoint: Checkpoint) -> bool:
    """Whether every class is scored for itself."""
    config = checkpoint.config
    match checkpoint.settings.text("scores", "auto"):
        case "auto":
            return bool(config.problem_type == "multi_label_classification" or config.num_labels == 1)
        case "sigmoid":
            return True
        case "softmax":
            return False
        case other:
            raise LoadError(f"“scores” of “{context.name}” has to be auto, softmax or sigmoid, not “{other}”")
