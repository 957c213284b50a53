"""Values on the command line that are more than a number or a word. Each refusal says what would be right."""

import math
import re
from collections.abc import Iterable

import typer

__all__ = ["parse_duration", "parse_freshness", "parse_names", "parse_rate", "parse_region", "parse_size"]

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"b": 1, "": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2}


def parse_region(text: str) -> tuple[float, float, float, float]:
    """`x1,y1,x2,y2` in fractions of the picture."""
    try:
        x_min, y_min, x_max, y_max = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not four numbers: x1,y1,x2,y2, such as 0,0,0.5,1.") from None
    if not (0 <= x_min < x_max <= 1 and 0 <= y_min < y_max <= 1):
        raise typer.BadParameter(
            f"{text!r} must be fractions of the picture, from its top left: 0 <= x1 < x2 <= 1 and "
            "0 <= y1 < y2 <= 1."
        )
    return x_min, y_min, x_max, y_max


def parse_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Names given several times or separated by commas."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


def parse_duration(text: str) -> float:
    """Seconds from `200ms`, `1.5s`, `2m`, `1h` or a bare number of seconds; above 0."""
    match = re.fullmatch(r"([\d.]+)\s*([a-z]*)", text.strip().lower())
    if match and match[2] in _UNITS and _is_positive(match[1]):
        return float(match[1]) * _UNITS[match[2]]
    raise typer.BadParameter(f"{text!r} is not a duration above 0, such as 200ms, 10s or 2m.")


def parse_freshness(text: str) -> str:
    """The rule for frames that the server cannot keep up with, as `opsin.Client.stream` takes it."""
    name, _, value = text.strip().lower().replace("_", "-").partition("=")
    match name:
        case "latest" | "every-frame" if not value:
            return name.replace("-", "_")
        case "max-age" if value:
            return f"max_age={parse_duration(value):g}"
        case "fps" | "target-fps" if _is_positive(value):
            return f"target_fps={float(value):g}"
    raise typer.BadParameter(f"{text!r} is not one of every-frame, latest, max-age=200ms, fps=5.")


def parse_rate(text: str | None) -> str | float | None:
    """How fast frames are sent: `max`, `realtime`, or a number a second; None: as the source is."""
    if text is None or text in ("max", "realtime"):
        return text
    if _is_positive(text):
        return float(text)
    raise typer.BadParameter(f"{text!r} is not one of max, realtime, or frames a second above 0.")


def parse_size(text: str) -> int | tuple[int, int]:
    """Bytes from `1kB`, `500B`, `2MiB`; or (width, height) in pixels from `640x480`."""
    if pixels := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower()):
        width, height = int(pixels[1]), int(pixels[2])
        if width and height:
            return width, height
    amount = re.fullmatch(r"([\d.]+)\s*([a-z]*)", text.strip().lower())
    if amount and amount[2] in _BYTES and _is_positive(amount[1]):
        return max(1, round(float(amount[1]) * _BYTES[amount[2]]))
    raise typer.BadParameter(
        f"{text!r} is neither a number of bytes, such as 1kB, nor pixels, such as 640x480."
    )


def _is_positive(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and value > 0
