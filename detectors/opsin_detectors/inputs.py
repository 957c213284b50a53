"""Telling pictures from texts: a model that takes the one refuses the other in the caller's words."""

from opsin_detectors.api import ImageInput, Input, InputError, TextInput

__all__ = ["picture_of", "text_of"]


def picture_of(name: str, source: Input) -> ImageInput:
    """The input as a picture. Raises InputError for a text, in the name of the model."""
    match source:
        case ImageInput():
            return source
        case TextInput():
            raise InputError(f"{name} looks at pictures; it was given a text")


def text_of(name: str, source: Input) -> str:
    """The input's text. Raises InputError for a picture, in the name of the model."""
    match source:
        case TextInput():
            return source.text
        case ImageInput():
            raise InputError(f"{name} reads texts; it was given a picture")
