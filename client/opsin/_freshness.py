"""A stream's rule for frames that the server cannot keep up with."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from opsin._errors import InvalidInput

__all__ = ["Freshness", "FreshnessMode"]


class FreshnessMode(StrEnum):
    """The rules there are."""

    EVERY_FRAME = "every_frame"
    """Drop none: the server stops reading instead, and the source waits."""
    LATEST = "latest"
    """Keep only the newest frame that waits."""
    MAX_AGE = "max_age"
    """Drop a frame that is too old when its turn comes."""
    TARGET_FPS = "target_fps"
    """Look at so many frames a second, evenly spaced."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """A rule with its value. Raises InvalidInput for a value that is missing, or not above 0.

    max_age: seconds, for MAX_AGE. target_fps: frames a second, for TARGET_FPS.
    """

    mode: FreshnessMode = FreshnessMode.EVERY_FRAME
    max_age: float | None = None
    target_fps: float | None = None

    def __post_init__(self) -> None:
        match self.mode:
            case FreshnessMode.MAX_AGE:
                _check("max_age", self.max_age, "seconds")
            case FreshnessMode.TARGET_FPS:
                _check("target_fps", self.target_fps, "frames a second")
            case _:
                object.__setattr__(self, "mode", _mode(self.mode))

    @classmethod
    def of(cls, rule: "str | Freshness") -> Self:
        """From `"every_frame"`, `"latest"`, `"max_age=0.5"` (seconds), `"target_fps=10"`, or a Freshness."""
        if isinstance(rule, Freshness):
            return cls(rule.mode, rule.max_age, rule.target_fps)
        name, _, text = rule.partition("=")
        mode = _mode(name.strip())
        value = _number(mode, text) if text else None
        match mode:
            case FreshnessMode.MAX_AGE:
                return cls(mode, max_age=value)
            case FreshnessMode.TARGET_FPS:
                return cls(mode, target_fps=value)
            case _ if value is not None:
                raise _invalid(f"{mode} takes no value; got {rule!r}")
            case _:
                return cls(mode)

    @property
    def drops(self) -> bool:
        """Whether frames may be left out."""
        return self.mode is not FreshnessMode.EVERY_FRAME

    def __str__(self) -> str:
        value = self.max_age if self.mode is FreshnessMode.MAX_AGE else self.target_fps
        return str(self.mode) if value is None else f"{self.mode}={value:g}"


def _mode(name: str) -> FreshnessMode:
    try:
        return FreshnessMode(name)
    except ValueError:
        raise _invalid(f"freshness is one of {', '.join(FreshnessMode)}; not {name!r}") from None


def _number(mode: FreshnessMode, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _invalid(f"{mode} takes a number; not {text!r}") from None


def _check(name: str, value: float | None, unit: str) -> None:
    if value is None or not 0 < value < math.inf:
        raise _invalid(f"{name} takes {unit} above 0, as in '{name}=0.5'; not {value}")


def _invalid(message: str) -> InvalidInput:
    return InvalidInput.at("freshness", message)
