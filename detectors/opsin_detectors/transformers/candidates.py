"""Pictures together with the classes that their callers name: what every zero-shot family is given."""

from typing import Any, NamedTuple

from opsin_detectors.api import Options

__all__ = ["Sought", "labels_of"]

_STAND_IN = ("a thing",)
"""Looked for where nothing was named: a warm-up. The server refuses such a call before it comes here."""


class Sought(NamedTuple):
    """A picture made ready, and what to look for: the labels, or what was made of them."""

    picture: Any
    labels: Any

    @property
    def nbytes(self) -> int:
        """Of pixels held."""
        return int(self.picture.nbytes)


def labels_of(options: Options) -> tuple[str, ...]:
    """What the caller looks for."""
    return options.candidate_labels or _STAND_IN
