"""Where files of the server's own go that it can do without. Reads the environment."""

import contextlib
import os
from pathlib import Path

from opsin_server.config.faults import ConfigError

__all__ = ["cache_folder"]


def cache_folder(written: str) -> Path | None:
    """The folder that `server.cache_dir` means: `auto`, `off`, or a path. None: nothing is kept.

    auto: `opsin` in XDG_CACHE_HOME, which is `~/.cache` where nobody says otherwise; nothing is kept for a
    user without a home. Raises ConfigError for a path that begins with the home of nobody.
    """
    if written == "off":
        return None
    if written != "auto":
        return _told(written)
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if told.is_absolute():  # the specification: a relative path is to be ignored
        return told / "opsin"
    with contextlib.suppress(RuntimeError, OSError):  # nobody knows of a home, or it may not be looked at
        home = Path.home()
        return home / ".cache" / "opsin" if home.is_dir() else None
    return None


def _told(written: str) -> Path:
    try:
        return Path(written).expanduser()
    except RuntimeError as error:
        raise ConfigError([f"server.cache_dir: {written} begins with a home that nobody knows of"]) from error
