"""What detectors that are given texts alone have in common: the way to tokens, and what to warm up with."""

from collections.abc import Sequence

from opsin_detectors.api import Detector, Input, Options, Prepared, Task
from opsin_detectors.inputs import text_of
from opsin_detectors.transformers.texts import Texts

__all__ = ["TextReader"]


class TextReader(Detector):
    """The way in. Whoever inherits sets both fields while loading."""

    _name: str
    _texts: Texts

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Tokens, padded to a step of lengths. Raises InputError for a text that is too long."""
        return self._texts.prepare(text_of(self._name, source), truncate=options.truncate_text)

    def example(self, task: Task) -> Input:
        """A text of typical length that fits."""
        return self._texts.example()

    def examples(self, task: Task) -> Sequence[Input]:
        """A text for each length that texts are padded to."""
        return self._texts.examples()
