"""Where the server keeps what it can do without."""

from pathlib import Path

import pytest

from opsin_server.config import ConfigError
from opsin_server.config.folders import cache_folder


def test_it_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder("auto") == tmp_path / "cache" / "opsin"


@pytest.mark.parametrize("written", [None, "", "relative"])
def test_without_xdg_it_is_in_the_users_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: str | None
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if written is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", written)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder("auto") == tmp_path / ".cache" / "opsin"


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "nowhere")
    assert cache_folder("auto") is None


def test_it_can_be_told_or_turned_off(tmp_path: Path) -> None:
    assert cache_folder(str(tmp_path)) == tmp_path
    assert cache_folder("off") is None


def test_a_home_that_may_not_be_looked_at_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "is_dir", refused)
    assert cache_folder("auto") is None


def test_the_home_of_a_user_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"server.cache_dir: ~nobody-at-all/cache"):
        cache_folder("~nobody-at-all/cache")
