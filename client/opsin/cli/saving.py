"""Where annotated pictures go: one name each, decided before the first is written.

Promises: no input is ever overwritten, and no two inputs of a run share a name. The same command gives the
same names again.
"""

from collections.abc import Iterable
from pathlib import Path

from opsin.cli.inputs import Input, expanded

__all__ = ["plan_names", "save_picture"]

_KEPT = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def plan_names(folder: Path, inputs: Iterable[Input]) -> dict[Input, Path]:
    """A file below `folder` for each input: its own name, or `name-2`, `name-3` where that is taken.

    What was found in a folder keeps its place below that folder. A format that annotated pictures are not
    written in becomes PNG.
    """
    wanted = list(inputs)
    taken = {_key(entry.path) for entry in wanted if entry.path is not None}
    names: dict[Input, Path] = {}
    for entry in wanted:
        if entry.problem or entry in names:
            continue
        names[entry] = _free(folder / _with_format(entry.keep), taken)
        taken.add(_key(names[entry]))
    return names


def save_picture(picture: "object", path: Path) -> None:
    """Write a Pillow image, making the folders it needs. Raises OSError."""
    from PIL import Image

    assert isinstance(picture, Image.Image)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(path, quality=90)


def _with_format(name: Path) -> Path:
    if name.suffix.lower() in _KEPT:
        return name
    return name.with_name(f"{name.name}.png" if not name.suffix else f"{name.stem}.png")


def _free(path: Path, taken: set[str]) -> Path:
    candidate, number = path, 1
    while _key(candidate) in taken:
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def _key(path: Path) -> str:
    # Folded, because two names that differ by case alone are one file on some systems.
    return str(expanded(path).resolve()).casefold()
