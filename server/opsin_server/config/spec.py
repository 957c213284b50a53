"""A model written in one line, `NAME[=SOURCE][,key=value...]`, as the table it stands for in the file."""

from collections.abc import Mapping
from typing import Any

from opsin_detectors.api import LoadError
from opsin_detectors.sources import take_apart
from opsin_server.config.sections import ModelSettings

__all__ = ["model_spec", "model_table"]

_NO_KEYS = ("name", "source", "settings")


def model_spec(spec: str) -> dict[str, Any]:
    """The table of a model. A key that is no setting of ours is the detector's.

    The name is not judged here, so that a wrong one is told like any other setting. Raises ValueError with
    what would be right.
    """
    try:
        taken = take_apart(spec)
    except LoadError as error:
        msg = f"{error}; a model is written NAME[=SOURCE][,key=value...]"
        raise ValueError(msg) from None
    return model_table(taken.name, taken.source, taken.settings)


def model_table(name: str, source: str, pairs: Mapping[str, str]) -> dict[str, Any]:
    """The table of a model from its `key=value` pairs: ours beside `settings`, the detector's in it."""
    ours: dict[str, Any] = {}
    theirs: dict[str, str] = {}
    for key, value in pairs.items():
        if key in ("labels", "then", "then_classes"):
            ours[key] = value.split("+")
        elif key in ModelSettings.model_fields and key not in _NO_KEYS:
            ours[key] = value
        else:
            theirs[key] = value
    return {"name": name, "source": source, **ours, "settings": theirs}
