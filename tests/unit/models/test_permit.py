"""What requests may have loaded: files in the folders for models, links followed, and nobody else's code."""

from pathlib import Path

import pytest

from opsin_server.config import LoadingSettings
from opsin_server.errors import Failure, Reason
from opsin_server.models.permit import check_settings, check_source


@pytest.fixture
def allowed(tmp_path: Path) -> LoadingSettings:
    (tmp_path / "models").mkdir()
    (tmp_path / "secret.toml").write_text("a = 1")
    (tmp_path / "models" / "link.toml").symlink_to(tmp_path / "secret.toml")
    return LoadingSettings(dirs=(tmp_path / "models",))


@pytest.mark.parametrize(
    "way", ["secret.toml", "models/../secret.toml", "models/link.toml", "models-too/a.toml"]
)
def test_a_file_outside_the_folders_is_refused_wherever_it_is_named(
    tmp_path: Path, allowed: LoadingSettings, way: str
) -> None:
    for field, call in (
        ("source", lambda: check_source(str(tmp_path / way), "", allowed, ())),
        ("settings.description", lambda: check_settings({"description": str(tmp_path / way)}, allowed)),
    ):
        with pytest.raises(Failure) as refused:
            call()
        assert (refused.value.reason, refused.value.field) == (Reason.OPTION_INVALID, field)


def test_a_file_in_them_is_not_nor_any_where_none_are_named(tmp_path: Path, allowed: LoadingSettings) -> None:
    inside, outside = str(tmp_path / "models" / "a.toml"), str(tmp_path / "secret.toml")
    check_source(inside, "", allowed, ())
    check_settings({"description": inside}, allowed)
    check_source(outside, "", LoadingSettings(), ())
    check_settings({"description": outside}, LoadingSettings())
