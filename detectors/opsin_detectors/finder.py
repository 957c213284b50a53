"""Finding detectors, and loading one. Finding imports nothing: not a detector's code, not its dependencies.

Detectors come from three places, and look the same afterwards:

1. the built-in folders beside this file;
2. folders named by the user (`--detectors-dir`): a folder of detector folders, or one detector's own;
3. installed packages, by the entry-point group `opsin.detectors` (`name = "package.module:Class"`).

A detector folder holds a `detector.toml`:

    name = "brightness"              # what `--model` calls it
    class = "detector:Brightness"    # module:Class inside this folder; called with a LoadContext
    description = "Bright or dark"
    extra = "torch"                  # optional: what `pip install 'opsin[...]'` it needs
    source = "model.safetensors"     # optional: packaged weights, a path inside this folder
    [settings]                       # optional: defaults that the user's settings override
    threshold = "0.5"

`preset_of = "transformers"` in place of `class` makes a folder without code: another detector's class with
this folder's weights and settings. A name used twice is an error that names both places.

This module owns where to look; it knows neither models nor the server.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from opsin_detectors._importing import load, private_package
from opsin_detectors._manifest import MANIFEST, NAME_PATTERN, Found, nearest, on_base, pick, read, valid_name
from opsin_detectors.api import LoadError

__all__ = ["ENTRY_POINT_GROUP", "MANIFEST", "Found", "find", "load", "nearest", "pick", "valid_name"]

ENTRY_POINT_GROUP = "opsin.detectors"

_BUILT_IN = Path(__file__).parent


def find(directories: Iterable[Path | str] = ()) -> dict[str, Found]:
    """All detectors by name: built-in ones, those in `directories`, and installed ones.

    Raises LoadError for a folder that is missing or holds no detector, a wrong `detector.toml`, and a name
    used twice.
    """
    found: dict[str, Found] = {}
    for one in (*_built_in(), *_in_directories(directories), *_installed()):
        if one.name in found:
            raise LoadError(f"two detectors are called “{one.name}”: {found[one.name].place} and {one.place}")
        found[one.name] = one
    return {name: on_base(one, found) for name, one in sorted(found.items())}


def _built_in() -> Iterator[Found]:
    for manifest in sorted(_BUILT_IN.glob(f"*/{MANIFEST}")):
        yield read(manifest, package=f"{__package__}.{manifest.parent.name}")


def _in_directories(directories: Iterable[Path | str]) -> Iterator[Found]:
    # A folder named twice, or named once beside the folder it is in, holds no second detector.
    manifests = [
        one for directory in directories for one in _manifests(Path(directory).expanduser().resolve())
    ]
    for manifest in dict.fromkeys(manifests):
        yield read(manifest, package=private_package(manifest.parent))


def _manifests(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise LoadError(f"detectors folder {directory} does not exist or is not a folder")
    own = directory / MANIFEST
    manifests = [own] if own.is_file() else sorted(directory.glob(f"*/{MANIFEST}"))
    if not manifests:
        raise LoadError(f"detectors folder {directory} holds no {MANIFEST}, nor do the folders in it")
    return manifests


def _installed() -> Iterator[Found]:
    # The same distribution may be seen twice, through two entries of sys.path.
    unique = {(one.name, one.value): one for one in entry_points(group=ENTRY_POINT_GROUP)}
    return map(_from_entry_point, unique.values())


def _from_entry_point(entry: EntryPoint) -> Found:
    owner = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    place = f"entry point {entry.name} = {entry.value}{owner}"
    if not valid_name(entry.name):
        raise LoadError(f"{place}: the name has to match {NAME_PATTERN}")
    return Found(name=entry.name, place=place, target=entry.value, description=f"Installed{owner}")
