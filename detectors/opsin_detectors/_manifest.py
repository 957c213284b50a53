"""What is known about a detector before it is imported, and reading that from its `detector.toml`.

Owns the names and the manifest's form (told in `opsin_detectors.finder`). Imports no detector's code.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from opsin_detectors.api import LoadError

__all__ = ["MANIFEST", "NAME_PATTERN", "Found", "nearest", "on_base", "pick", "quoted", "read", "valid_name"]

MANIFEST = "detector.toml"
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"

_KEYS = ("name", "class", "description", "extra", "source", "preset_of", "settings")


@dataclass(frozen=True, slots=True)
class Found:
    """A detector that was found and not imported.

    place: where, for people: a folder, or the entry point and its distribution.
    target: "module:Class"; the module is relative to `package`, or absolute when that is empty.
    package: import name of the folder's package; empty for an entry point.
    folder: the detector's folder; None for an entry point.
    code: the folder its code is in, another one than `folder` for a preset; None for an entry point.
    extra: what `pip install 'opsin[...]'` it needs; empty for nothing.
    source: absolute path of its packaged weights; empty when it has none.
    settings: defaults, which the user's settings override.
    """

    name: str
    place: str
    target: str
    package: str = ""
    folder: Path | None = None
    code: Path | None = None
    description: str = ""
    extra: str = ""
    source: str = ""
    preset_of: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def valid_name(name: str) -> bool:
    """Whether a detector or a model may be called that: `[a-z0-9][a-z0-9._-]{0,63}`."""
    return re.fullmatch(NAME_PATTERN, name) is not None


def nearest(name: str, names: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """The names that look most like `name`, best first, at most `most`; empty when none does."""
    return tuple(get_close_matches(name.lower(), list(names), n=most, cutoff=0.6))


def pick(name: str, found: Mapping[str, Found]) -> Found:
    """The detector of that name. Raises LoadError naming the nearest ones."""
    if name in found:
        return found[name]
    near = nearest(name, found)
    hint = f"did you mean {quoted(near)}?" if near else f"there are {quoted(found)}"
    raise LoadError(f"there is no detector “{name}”; {hint}")


def quoted(names: Iterable[str]) -> str:
    """Names as they stand in a sentence."""
    return ", ".join(f"“{name}”" for name in names)


def read(manifest: Path, package: str) -> Found:
    """The detector that a `detector.toml` describes. Raises LoadError naming the file and what is wrong."""
    folder = manifest.parent
    values = _checked(_parsed(manifest), manifest)
    return Found(
        name=values["name"],
        place=str(folder),
        target=values.get("class", ""),
        package=package,
        folder=folder,
        code=folder,
        description=values.get("description", ""),
        extra=values.get("extra", ""),
        source=str(folder / values["source"]) if values.get("source") else "",
        preset_of=values.get("preset_of", ""),
        settings={key: _as_text(value) for key, value in values.get("settings", {}).items()},
    )


def on_base(one: Found, found: Mapping[str, Found]) -> Found:
    """A preset with the code of the detector it is a preset of; any other detector as it is.

    Raises LoadError when that detector is unknown or a preset itself.
    """
    if not one.preset_of:
        return one
    try:
        base = pick(one.preset_of, found)
    except LoadError as error:
        raise LoadError(f"{one.place}: preset_of: {error}") from error
    if base.preset_of:
        raise LoadError(f"{one.place}: “{base.name}” is a preset itself; name “{base.preset_of}”")
    return replace(
        one,
        target=base.target,
        package=base.package,
        code=base.code,
        extra=one.extra or base.extra,
        settings={**base.settings, **one.settings},
    )


def _parsed(manifest: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LoadError(f"{manifest} cannot be read: {error}") from error


def _checked(values: Mapping[str, Any], manifest: Path) -> Mapping[str, Any]:
    for key, value in values.items():
        if key not in _KEYS:
            near = nearest(key, _KEYS, most=1)
            hint = f"did you mean {quoted(near)}?" if near else f"known keys: {quoted(_KEYS)}"
            raise LoadError(f"{manifest}: unknown key “{key}”; {hint}")
        if not isinstance(value, dict if key == "settings" else str):
            raise LoadError(f"{manifest}: “{key}” has to be a {'table' if key == 'settings' else 'string'}")
    if not valid_name(values.get("name", "")):
        raise LoadError(f"{manifest}: “name” is needed and has to match {NAME_PATTERN}")
    if ("class" in values) == ("preset_of" in values):
        raise LoadError(f"{manifest}: either “class” or “preset_of” is needed, and only one of them")
    if "class" in values and not re.fullmatch(r"\w[\w.]*:\w+", values["class"]):
        raise LoadError(f"{manifest}: “class” has to look like module:Class, not “{values['class']}”")
    return values


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
