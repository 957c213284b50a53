"""From what is written on the command line to pictures and texts: paths, globs, folders, URLs, stdin.

Only names are looked at here; a picture is read when its turn comes. Nothing here knows the server.
"""

import errno
import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from opsin.cli.words import counted

__all__ = ["PICTURES", "Input", "MissingInputError", "expanded", "find_pictures", "find_texts", "pictures_in"]

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
"""What a folder is searched for; a file named by itself may be called anything."""


LONGEST_NAME = 80
"""Characters told of a name that no file can have."""


class MissingInputError(Exception):
    """An input is not there or cannot be read; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Input:
    """One picture or text to come.

    name: as people and JSON lines see it. path: of a file, else None. url: of a picture that is fetched when
    it is read. data: the bytes or the text itself, when it was given as such. keep: where its annotated
    picture belongs below the save folder. problem: why there is nothing to send; the rest is then empty.
    """

    name: str
    path: Path | None = None
    url: str = ""
    data: bytes | str | None = None
    keep: Path = Path()
    problem: str = ""

    def read(self) -> bytes:
        """The picture's bytes. Raises `MissingInputError`."""
        if self.problem:
            raise MissingInputError(self.problem)
        if self.url:
            return _fetched(self.url)
        if isinstance(self.data, bytes):
            return self.data
        assert self.path is not None
        try:
            return self.path.read_bytes()
        except OSError as reason:
            raise MissingInputError(f"cannot be read: {reason.strerror or reason}") from None


def find_pictures(
    arguments: Iterable[str], stdin: BinaryIO, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Input]:
    """Every picture the arguments name, in their order; the files of a folder or glob sorted by name.

    tell: gets a sentence about each folder in which files were left out.
    """
    for argument in arguments:
        if argument == "-":
            yield _from_stdin(stdin)
        elif argument.startswith(("http://", "https://")):
            yield Input(argument, url=argument, keep=Path(_last_part(argument)))
        else:
            yield from _from_disk(argument, tell)


def find_texts(arguments: Iterable[str], stdin: TextIO) -> Iterator[Input]:
    """Every argument is a text; `-` is one text a line of stdin, empty lines left out."""
    for argument in arguments:
        lines = (line.strip() for line in stdin) if argument == "-" else [argument]
        yield from (Input(text, data=text) for text in lines if text)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and below, hidden ones left out, sorted by path."""
    return [path for path in _files_in(folder) if _is_picture(path)]


def _files_in(folder: Path) -> list[Path]:
    found = []
    for top, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(top, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def _fetched(url: str) -> bytes:
    from opsin.cli.fetch import FetchError, fetch

    try:
        return fetch(url)
    except FetchError as reason:
        raise MissingInputError(str(reason)) from None


def _from_stdin(stdin: BinaryIO) -> Input:
    data = stdin.read()
    if not data:
        return Input("-", problem="stdin is empty")
    return Input("-", data=data, keep=Path("stdin"))


def expanded(written: str | Path) -> Path:
    """The path with `~` as the home that is meant; as it is written where nobody knows of that home."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        return Path(written)


def _from_disk(argument: str, tell: Callable[[str], None]) -> Iterator[Input]:
    path = expanded(argument)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if glob.has_magic(argument):
            yield from _from_glob(argument)
        else:
            yield Input(argument, problem="no such file or folder")
    except OSError as reason:
        hint = " (for a text, say --text)" if reason.errno == errno.ENAMETOOLONG else ""
        name = argument if len(argument) <= LONGEST_NAME else f"{argument[: LONGEST_NAME - 4]} ..."
        yield Input(name, problem=f"cannot be looked at: {reason.strerror or reason}{hint}")
    else:
        if stat.S_ISDIR(mode):
            yield from _from_folder(argument, path, tell)
        else:
            yield Input(argument, path=path, keep=Path(path.name))


def _from_folder(argument: str, folder: Path, tell: Callable[[str], None]) -> Iterator[Input]:
    files = _files_in(folder)
    found = [path for path in files if _is_picture(path)]
    if found and len(found) < len(files):
        tell(_left_out(argument, [path for path in files if not _is_picture(path)]))
    if not found:
        endings = ", ".join(sorted(PICTURES))
        yield Input(argument, problem=f"no pictures in this folder (looked for {endings})")
    for path in found:
        yield Input(str(path), path=path, keep=path.relative_to(folder))


def _left_out(argument: str, files: list[Path]) -> str:
    kinds = Counter(path.suffix.lower() or "no ending" for path in files).most_common()
    told = ", ".join(f"{count} {kind}" for kind, count in kinds)
    were = "was" if len(files) == 1 else "were"
    return (
        f"{argument}: {counted(len(files), 'file')} {were} left out, by name no picture ({told}); "
        "one that is named by itself is sent."
    )


def _from_glob(pattern: str) -> Iterator[Input]:
    matches = [Path(match) for match in sorted(glob.glob(str(expanded(pattern)), recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        yield Input(pattern, problem="no file matches this pattern")
    for path in files:
        yield Input(str(path), path=path, keep=Path(path.name))


def _last_part(url: str) -> str:
    return Path(url.partition("?")[0].rstrip("/")).name or "picture"
