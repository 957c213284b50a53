"""Where files of the server's own go that it can do without. Reads the environment."""

import contextlib
import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(written: str) -> Path | None:
    """The folder that `server.cache_dir` means: `auto`, `off`, or a path. None: nothing is kept.

    auto: `opsin` in XDG_CACHE_HOME, which is `~/.cache` where nobody says otherwise; nothing is kept for a
    user without a home.
    """
    if written == "off":
        return None
    if written != "auto":
        return Path(written).expanduser()
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if told.is_absolute():  # the specification: a relative path is to be ignored
        return told / "opsin"
    with contextlib.suppress(RuntimeError):  # nobody knows of a home
        home = Path.home()
        return home / ".cache" / "opsin" if home.is_dir() else None
    return None
