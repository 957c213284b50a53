"""The packages that the base install does without: found when needed, missed with one clear sentence."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from opsin._errors import MissingExtra

__all__ = ["loaded", "need", "optional"]

_EXTRAS = {"numpy": ("numpy", "images"), "PIL": ("Pillow", "images"), "av": ("PyAV", "video")}


def need(module: str, what: str) -> Any:
    """The module, for `what` (a phrase that starts a sentence). Raises MissingExtra with the pip command."""
    try:
        return import_module(module)
    except ImportError:
        package, extra = _EXTRAS[module.partition(".")[0]]
        raise MissingExtra(what, package, extra) from None


def optional(module: str) -> Any | None:
    """The module, or None where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        return None


def loaded(module: str) -> ModuleType | None:
    """The module if the program has imported it already: whoever holds one of its objects has."""
    return sys.modules.get(module)
