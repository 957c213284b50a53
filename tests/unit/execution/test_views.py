"""What int8 is checked with, calibration never saw; and every shipped picture says where it comes from."""

import re
from pathlib import Path

import numpy as np
import pytest

from opsin_detectors.execution import views as module
from opsin_detectors.execution.views import pictures, views

FOLDER = Path(module.__file__).parent / "pictures"
LARGEST = 600_000
"""Bytes of all together: they are in every wheel."""


@pytest.fixture(scope="module")
def thumbnails() -> dict[str, list[np.ndarray]]:
    """Of each folder's pictures, small and grey, less their mean, of length 1."""
    from PIL import Image

    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(FOLDER.glob("*/*.jpg")):
        with Image.open(path) as opened:
            grey = np.asarray(opened.convert("L").resize((16, 16)), np.float32).ravel()
        grey = grey - grey.mean()
        found.setdefault(path.parent.name, []).append(grey / np.linalg.norm(grey))
    return found


def test_no_picture_that_is_checked_with_is_calibrated_on(thumbnails: dict[str, list[np.ndarray]]) -> None:
    checking, calibrating = np.stack(thumbnails["checking"]), np.stack(thumbnails["calibrating"])
    assert float(np.abs(checking @ calibrating.T).max()) < 0.9
    assert {path.name for path in (FOLDER / "checking").iterdir()}.isdisjoint(
        path.name for path in (FOLDER / "calibrating").iterdir()
    )


def test_views_are_of_their_own_folder(thumbnails: dict[str, list[np.ndarray]]) -> None:
    for checking, folder in ((True, "checking"), (False, "calibrating")):
        assert len(views(checking=checking)) == 6 * len(thumbnails[folder])


def test_the_views_of_a_picture_differ() -> None:
    six = views(checking=True)[:6]
    assert len({view.pixels.tobytes() for view in six}) == 6


def test_ways_that_need_no_calibration_are_proved_on_five_pictures() -> None:
    assert len(pictures()) == 5
    assert all(max(one.width, one.height) <= 448 for one in pictures())


def test_every_picture_has_its_origin_and_terms_in_the_notice() -> None:
    notice = (FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\S+)` \|.*\| ([^|]+) \|$", notice, re.MULTILINE))
    assert rows.keys() == {path.name for path in FOLDER.glob("*/*.jpg")}
    assert all("CC" in terms or terms in ("public domain", "as Opsin") for terms in rows.values())


def test_the_pictures_are_small_together() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*/*.jpg")) < LARGEST
