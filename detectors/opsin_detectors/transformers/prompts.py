"""Candidate labels as the one text that Grounding DINO reads: “a cat. a dog.”

Owns the text's form and which of its tokens are whose. Knows nothing of pictures and scores.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from opsin_detectors.api import Prepared, TextTooLongError
from opsin_detectors.transformers.texts import Texts

__all__ = ["NOBODY", "Prompts", "prompt"]

NOBODY = -1
"""The owner of a token that is no label's: a full stop, begin, end and padding."""

Owners = npt.NDArray[np.int64]
"""By token, (padded length,): the label's place among the candidates, or `NOBODY`."""


def prompt(labels: Sequence[str]) -> str:
    """The text, as transformers' processor makes it of a list of labels."""
    return "".join(_sentences(labels))


def _sentences(labels: Sequence[str]) -> list[str]:
    return [f"{' ' if at else ''}{label.strip().lower()}." for at, label in enumerate(labels)]


class Prompts:
    """Of one checkpoint, for many threads at once."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._around = texts.count("")

    def prepare(self, labels: Sequence[str], *, truncate: bool) -> Prepared:
        """The tokens of all labels; their `Owners` are the state, and the padded length the shape.

        Raises TextTooLongError when they are too many together, unless they may be cut: then the last labels
        are looked for by fewer tokens or not at all.
        """
        try:
            ready = self._texts.prepare(prompt(labels), truncate=truncate)
        except TextTooLongError as error:
            message = f"{len(labels)} candidate labels are read as one text: {error}"
            raise TextTooLongError(message, option="candidate_labels") from None
        return Prepared(ready.data, self._owners(labels, len(ready.data["input_ids"])), ready.shape)

    def _owners(self, labels: Sequence[str], length: int) -> Owners:
        owners = np.full(length, NOBODY, np.int64)
        start = self._around // 2  # as many tokens before the text as after it
        for at, sentence in enumerate(_sentences(labels)):
            end = start + self._texts.count(sentence) - self._around
            if start >= length:  # cut away
                break
            owners[start : end - 1] = at  # its full stop is nobody's
            start = end
        owners[self._texts.limit - 1 :] = NOBODY  # where the text was cut stands the token of its end
        return owners
