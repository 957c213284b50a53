"""From what a user writes after `--model` to a detector and its weights. Looks at file names, loads nothing.

nanodet                                    the detector of that name, with its own weights
slow=echo,delay_ms=50                      another name for it, with settings
cats=./my-classifier                       a Hugging Face folder
falcon=Falconsai/nsfw_image_detection      a Hugging Face hub id
plates=exports/plates.onnx                 an ONNX file, or OpenVINO IR (.xml), with its description beside it
mine=weights/v7.bin,detector=brightness    any source, for a detector named explicitly
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opsin_detectors._manifest import quoted
from opsin_detectors.api import LoadError
from opsin_detectors.finder import Found, nearest, pick, valid_name

__all__ = ["HUGGING_FACE", "ModelSpec", "Resolved", "parse", "resolve", "take_apart"]

HUGGING_FACE = "transformers"
"""The detector that reads Hugging Face folders and hub ids."""
ONNX = "onnx"
"""The detector that reads exported graphs."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GRAPHS = (".onnx", ".xml")
_PATH_MARKS = ("/", "./", "../", "~", ".\\")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One `--model`, taken apart. source is empty when none was written."""

    name: str
    source: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Which detector to load, and what to give it.

    source: absolute folder or file, hub id, or whatever an explicit `detector=` takes; empty for none.
    settings: the user's, without `detector`, which was used up here.
    """

    found: Found
    source: str
    settings: Mapping[str, str]


def parse(text: str) -> ModelSpec:
    """`NAME[=SOURCE][,key=value...]`. Values may hold “=”, not “,”. Raises LoadError for anything else."""
    spec = take_apart(text)
    if not valid_name(spec.name):
        raise LoadError(
            f"“{spec.name}” cannot be a model's name: lower-case letters, digits, “.”, “_” and “-”, at most "
            "64, beginning with a letter or a digit"
        )
    return spec


def take_apart(text: str) -> ModelSpec:
    """As `parse`, with any name taken. Raises LoadError for a part that is no key=value, or a key twice."""
    head, *pairs = text.split(",")
    name, _, source = (part.strip() for part in head.partition("="))
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key or not equals:
            raise LoadError(f"“{pair}” in model “{name}” has to be key=value")
        if key in settings:
            raise LoadError(f"setting “{key}” of model “{name}” is given twice")
        settings[key] = value
    return ModelSpec(name, source, settings)


def resolve(spec: ModelSpec, found: Mapping[str, Found]) -> Resolved:
    """The detector and the source that `spec` means.

    An explicit `detector=` setting wins. Else the source (or the name, where there is no source) is a
    detector, a local Hugging Face folder, an exported graph, or a hub id. Raises LoadError saying what would
    be right.
    """
    settings = {key: value for key, value in spec.settings.items() if key != "detector"}
    if explicit := spec.settings.get("detector", ""):
        one = pick(explicit, found)
        return Resolved(one, _absolute(spec.source) or one.source, settings)
    one, source = _guess(spec.source or spec.name, found, named=bool(spec.source))
    return Resolved(one, source, settings)


def _guess(source: str, found: Mapping[str, Found], *, named: bool) -> tuple[Found, str]:
    if source in found:
        return found[source], found[source].source
    if not named:
        raise LoadError(_unknown_name(source, found))
    path = Path(source).expanduser()
    if path.is_dir():
        return pick(HUGGING_FACE, found), _checked_folder(path)
    if path.suffix.lower() in _GRAPHS:
        return pick(ONNX, found), _checked_graph(path)
    if path.exists():
        raise LoadError(f"{path} is a file; say which detector reads it: detector=NAME")
    if source.startswith(_PATH_MARKS):
        raise LoadError(f"there is no folder {path}")
    if _HUB_ID.fullmatch(source):
        return pick(HUGGING_FACE, found), source
    raise LoadError(
        f"“{source}” is neither a folder, nor a hub id (org/name); {_unknown_name(source, found)}"
    )


def _checked_folder(path: Path) -> str:
    if not (path / "config.json").is_file():
        raise LoadError(
            f"{path} holds no config.json, so it is no Hugging Face model folder; "
            "say which detector reads it: detector=NAME"
        )
    return str(path.resolve())


def _checked_graph(path: Path) -> str:
    if not path.is_file():
        raise LoadError(f"there is no file {path}")
    return str(path.resolve())


def _absolute(source: str) -> str:
    """A source that exists here as an absolute path; anything else as it is."""
    path = Path(source).expanduser() if source else None
    return str(path.resolve()) if path is not None and path.exists() else source


def _unknown_name(name: str, found: Mapping[str, Found]) -> str:
    near = nearest(name, found)
    hint = f"did you mean {quoted(near)}?" if near else f"there are {quoted(found)}"
    return f"there is no detector “{name}”; {hint}"
