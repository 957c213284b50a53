"""Getting a text into a model: tokens, the limit on how many, and lengths that share a batch.

Texts of about equal length go together, padded to the next of a few steps (`padded_length`), with a mask so
that the padding is not looked at. Some models look at it all the same, by position or by taking the last
token; whether this one does is not assumed but tried (`Texts.try_padding`). Knows nothing of what the model
answers.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from opsin_detectors.api import Prepared, TextInput, TextTooLongError

__all__ = ["LEAST_LENGTH", "Texts", "Tokens", "largest_batch", "padded_length", "token_limit"]

LEAST_LENGTH = 8
"""Shorter texts are padded to so many tokens."""

_EXAMPLE = (
    "A photograph of an astronaut in an orange suit, smiling, in front of a flag and a model of the shuttle."
)
"""Between a query and a passage in length, because what it costs is what the scheduler first knows."""

_WARMED = 512
"""Tokens of the longest example: longer texts are rare, and one may take a CPU a minute."""

Tokens = Mapping[str, npt.NDArray[np.int64]]
"""A model's arguments for one text, each (padded length,)."""

_PROBES = ("a photograph of an astronaut", "tea", "the quick brown fox jumps over the lazy dog")
_UNLIMITED = 10**9
"""A tokenizer without a limit of its own states an even larger one."""


def padded_length(tokens: int, limit: int) -> int:
    """The step that a text of so many tokens is padded to: 8, 12, 16, 24, 32, 48 ... and `limit` itself.

    Each step is at most 1.5 times the one before, so that less than a third of a text of more than 8 tokens
    is padding, and there are two steps to a doubling, so that texts still meet others of their step.
    """
    step = LEAST_LENGTH
    while step < tokens:
        step += step // 2 if step & (step - 1) == 0 else step // 3
    return min(step, limit)


class Texts:
    """A checkpoint's tokenizer, for many threads at once.

    limit: most tokens of a text, the ones that the tokenizer adds included.
    fixed: every text is padded to the limit, for models that were trained so and look at the padding.
    prefix: goes before every text, and counts.
    lower: texts are put in lower case first.
    """

    def __init__(
        self, tokenizer: Any, limit: int, *, fixed: bool = False, prefix: str = "", lower: bool = False
    ) -> None:
        self.limit = limit
        self._fixed = fixed
        self._padded = tokenizer.pad_token_id is not None
        self._prefix = prefix
        self._lower = lower
        self._right = not fixed or tokenizer.padding_side == "right"
        self._encode = _encoder(tokenizer, limit)
        self._names = tuple(n for n in tokenizer.model_input_names if n in _MEANINGS)
        self._fill = {
            "input_ids": tokenizer.pad_token_id or 0,
            "token_type_ids": tokenizer.pad_token_type_id,
            "attention_mask": 0,
        }

    def prepare(self, text: str, *, truncate: bool) -> Prepared:
        """The tokens of one text; its shape is the padded length.

        Raises TextTooLongError when they are more than the limit, unless they may be cut.
        """
        text = self._prefix + (text.lower() if self._lower else text)
        ids, types = self._encode(text, False)
        if len(ids) > self.limit:
            if not truncate:
                raise TextTooLongError(
                    f"the text is {len(ids)} tokens long, and the model reads at most {self.limit}; "
                    "truncate_text cuts it there"
                )
            ids, types = self._encode(text, True)
        length = self._length(len(ids))
        return Prepared(self._tokens(ids, types, length), shape=length)

    def count(self, text: str) -> int:
        """How many tokens a text is, the ones that the tokenizer adds included."""
        return len(self._encode(text, False)[0])

    def example(self) -> TextInput:
        """A text of typical length that fits."""
        text = _EXAMPLE
        while len(text) > 1 and self.count(self._prefix + text) > self.limit:
            text = text[: len(text) // 2]
        return TextInput(text)

    def examples(self) -> list[TextInput]:
        """The example, and a text for each further length that texts are padded to, up to 512 tokens."""
        if self._fixed or not self._padded:
            return [self.example()]
        word = " a"
        one, two = (self.count(self._prefix + word * times) for times in (1, 2))
        each = max(1, two - one)
        most = min(self.limit, _WARMED)
        lengths = dict.fromkeys(padded_length(tokens, self.limit) for tokens in range(one, most + 1))
        words = [1 + (length - one) // each for length in lengths]
        return [self.example(), *(TextInput(word * times) for times in words)]

    def try_padding(self, answer: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> None:
        """Pad from here on only if that leaves the answers as they are.

        answer: from a model's arguments, on the CPU, to (B, anything) in float32. Where padding changes them,
        or cannot be done, only texts of equally many tokens share a batch.
        """
        if self._fixed or not self._padded:
            return
        probes = [self._encode(self._prefix + text, True) for text in _PROBES]
        length = max(self._length(len(ids)) for ids, _ in probes)
        try:
            together = answer(self.arguments([self._tokens(*probe, length) for probe in probes]))
            alone = torch.cat(
                [answer(self.arguments([self._tokens(*probe, len(probe[0]))])) for probe in probes]
            )
            self._padded = torch.allclose(together, alone, rtol=1e-3, atol=1e-4)
        except Exception:  # a model may do anything with padding that it does not know
            self._padded = False

    def arguments(
        self, batch: Sequence[Tokens], device: torch.device | str = "cpu"
    ) -> dict[str, torch.Tensor]:
        """The model's keyword arguments for texts of one shape, each (B, length) int64."""
        return {
            name: torch.from_numpy(np.stack([one[name] for one in batch])).to(device) for name in batch[0]
        }

    def _length(self, tokens: int) -> int:
        if self._fixed:
            return self.limit
        return padded_length(tokens, self.limit) if self._padded else tokens

    def _tokens(self, ids: Sequence[int], types: Sequence[int], length: int) -> Tokens:
        given = {"input_ids": ids, "token_type_ids": types, "attention_mask": [1] * len(ids)}
        made = {}
        for name in self._names:
            made[name] = np.full(length, self._fill[name], np.int64)
            made[name][slice(len(ids)) if self._right else slice(length - len(ids), None)] = given[name]
        return made


_MEANINGS = frozenset(["input_ids", "token_type_ids", "attention_mask"])

_Encode = Callable[[str, bool], tuple[Sequence[int], Sequence[int]]]
"""(text, whether to cut at the limit) -> ids and segment of each token."""


def _encoder(tokenizer: Any, limit: int) -> _Encode:
    """The way to the tokens that threads may take together."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return _slow(tokenizer, limit) if backend is None else _fast(tokenizer, backend, limit)


def _fast(tokenizer: Any, backend: Any, limit: int) -> _Encode:
    # Called the usual way a tokenizer sets its truncation anew for each text, and then two threads fail with
    # “Already borrowed”. One that cuts and one that does not, which nobody changes, do not.
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    whole, cut = backend, type(backend).from_str(backend.to_str())
    cut.encode_special_tokens = tokenizer.split_special_tokens
    cut.enable_truncation(limit, direction=tokenizer.truncation_side)

    def encode(text: str, truncate: bool) -> tuple[Sequence[int], Sequence[int]]:
        encoding = (cut if truncate else whole).encode(text)
        return encoding.ids, encoding.type_ids

    return encode


def _slow(tokenizer: Any, limit: int) -> _Encode:
    lock = threading.Lock()

    def encode(text: str, truncate: bool) -> tuple[Sequence[int], Sequence[int]]:
        with lock:
            # Told not to warn of a text over the limit: that is answered here.
            found = tokenizer(
                text, truncation=truncate, max_length=limit if truncate else None, verbose=False
            )
        ids = found["input_ids"]
        return ids, found.get("token_type_ids", [0] * len(ids))

    return encode


def token_limit(tokenizer: Any, config: Any) -> int:
    """Most tokens that a checkpoint reads: the least that tokenizer and config say, else 512."""
    stated = [tokenizer.model_max_length, _positions(config)]
    known = [limit for limit in stated if limit and limit < _UNLIMITED]
    return int(min(known, default=512))


def largest_batch(device: torch.device, config: Any) -> int:
    """The most texts at once. Decoders that classify refuse two when they know no padding to look for."""
    if getattr(config, "pad_token_id", None) is None:
        return 1
    return 32 if device.type == "cpu" else 256


def _positions(config: Any) -> int:
    most = getattr(config, "max_position_embeddings", None) or 0
    # RoBERTa and its kin number positions from after the padding's own number.
    offset = (config.pad_token_id or 0) + 1 if config.model_type in _AFTER_PADDING else 0
    return int(most) - offset if most > offset else 0


_AFTER_PADDING = frozenset(
    ["roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "mpnet", "longformer", "data2vec-text", "ibert"]
)
