"""Inputs to check detectors with: ordinary ones, and ones that are awkward. Always the same ones.

Knows no detector.
"""

import numpy as np

from opsin_detectors.api import ImageInput, Input, ModelInfo, Options, Pixels, Task, TextInput

__all__ = [
    "TEXT_TASKS",
    "awkward_inputs",
    "describe",
    "image",
    "largest_input",
    "options_for",
    "sample_inputs",
]

TEXT_TASKS = (Task.CLASSIFY_TEXT, Task.EMBED_TEXT)
LONG_TEXT = 100_000
"""Characters: more than any model reads."""
CANDIDATES = ("a cat", "a dog")
"""What a zero-shot model is asked to look for."""


def image(pixels: Pixels) -> ImageInput:
    """An input of these pixels, (rows, columns, 3) uint8 RGB, decoded at full size."""
    return ImageInput(np.ascontiguousarray(pixels), pixels.shape[1], pixels.shape[0])


def options_for(info: ModelInfo, task: Task) -> Options:
    """What a caller who asks for nothing in particular asks for."""
    return Options(candidate_labels=CANDIDATES) if task is Task.ZERO_SHOT else info.defaults


def sample_inputs(task: Task) -> list[Input]:
    """A few made-up inputs for a task, of different sizes and content; always the same ones."""
    if task in TEXT_TASKS:
        return [TextInput("a"), TextInput("A rocket on its launch pad. " * 5), TextInput("héllo 世界")]
    noise = np.random.default_rng(7)
    ramp = np.linspace(0, 255, 300 * 200 * 3).reshape(200, 300, 3).astype(np.uint8)
    pictures = [
        noise.integers(0, 256, (480, 640, 3), np.uint8),
        ramp,
        np.zeros((64, 48, 3), np.uint8),
        np.full((1, 1, 3), 255, np.uint8),
    ]
    return [image(one) for one in pictures]


def awkward_inputs(task: Task, info: ModelInfo) -> list[tuple[str, Input]]:
    """Inputs that callers do send and authors forget, each with its name."""
    return _awkward_texts() if task in TEXT_TASKS else _awkward_pictures(info)


def largest_input(task: Task) -> Input:
    """The largest a caller may be expected to send."""
    if task in TEXT_TASKS:
        return TextInput("word " * (LONG_TEXT // 5))
    return image(np.full((2160, 3840, 3), 90, np.uint8))


def describe(source: Input) -> str:
    """An input as it stands in a sentence."""
    match source:
        case ImageInput():
            return f"a picture of {source.width} x {source.height}"
        case TextInput():
            return f"a text of {len(source.text)} characters"


def _awkward_texts() -> list[tuple[str, Input]]:
    texts = {
        "an empty text": "",
        "a blank": " ",
        "line breaks alone": "\n\n\r\n",
        "a NUL character": "a\0b",
        "emoji": "👩‍🚀🚀" * 40,
        "a lone surrogate": "a\ud800b",
        "text from right to left": "שלום עולם",
        "one word of 5000 letters": "x" * 5000,
        f"a text of {LONG_TEXT} characters": "word " * (LONG_TEXT // 5),
    }
    return [(name, TextInput(text)) for name, text in texts.items()]


def _awkward_pictures(info: ModelInfo) -> list[tuple[str, Input]]:
    noise = np.random.default_rng(8).integers(0, 256, (90, 120, 3), np.uint8)
    sealed = noise.copy()
    sealed.flags.writeable = False
    pixels = {
        "a picture of 1 x 1": noise[:1, :1],
        "a picture of 2 x 3": noise[:3, :2],
        "a picture of 4000 x 1": np.resize(noise, (1, 4000, 3)),
        "a picture of 1 x 4000": np.resize(noise, (4000, 1, 3)),
        "a picture of 37 x 5": noise[:5, :37],
        "a grey picture": np.repeat(noise[..., :1], 3, axis=2),
        "a black picture": np.zeros((90, 120, 3), np.uint8),
        "a white picture": np.full((90, 120, 3), 255, np.uint8),
    }
    named: list[tuple[str, Input]] = [(name, image(one)) for name, one in pixels.items()]
    named.append(("a picture that is read-only memory", ImageInput(sealed, 120, 90)))
    if info.decode_size != (0, 0):
        # As the server gives it: the pixels at least of the size stated, the original eight times as large.
        width, height = info.decode_size
        reduced = np.resize(noise, (max(1, height), max(1, width), 3))
        original = (reduced.shape[1] * 8, reduced.shape[0] * 8)
        named.append(("a picture decoded at an eighth of its size", ImageInput(reduced, *original)))
    return named
