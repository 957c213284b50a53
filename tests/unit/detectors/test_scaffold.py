"""What `opsin new-detector` writes works at once, and nothing is overwritten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsin_detectors import scaffold
from opsin_detectors.api import LoadContext
from opsin_detectors.finder import find, load
from opsin_detectors.testing import check


@pytest.mark.parametrize("name", ["bright", "my-first_detector2"])
def test_a_new_detector_passes_its_own_test(tmp_path: Path, name: str) -> None:
    folder = scaffold.write(name, tmp_path / "not" / "there yet")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(scaffold.__file__).parents[1])},
    )

    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_it_is_found_and_keeps_the_rules(tmp_path: Path) -> None:
    scaffold.write("bright-or-dark", tmp_path)

    found = find([tmp_path])["bright-or-dark"]

    assert found.target == "detector:BrightOrDark"
    check(load(found, LoadContext("b")), tolerance=0.0)


def test_no_mark_of_the_template_is_left(tmp_path: Path) -> None:
    folder = scaffold.write("mine", tmp_path)

    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "detector.py", "detector.toml", "test_mine.py"]
    for path in folder.iterdir():
        text = path.read_text()
        assert not any(mark in text for mark in ("__NAME__", "__CLASS__", "__MODULE__"))
        assert max(map(len, text.splitlines())) <= 110 or path.name == "README.md"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()

    with pytest.raises(scaffold.ScaffoldError, match="is there already; nothing was written"):
        scaffold.write("mine", tmp_path)
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("name", ["", "Big", "1st", "a.b", "../up", "a b", "a--b", "-a", "a_", "a" * 65, "ä"])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(scaffold.ScaffoldError, match="cannot be a detector's name"):
        scaffold.write(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_keyword_of_python_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(scaffold.ScaffoldError, match="“class” is a word of Python's own"):
        scaffold.write("class", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_built_in_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(scaffold.ScaffoldError, match="“echo” is a detector already"):
        scaffold.write("echo", tmp_path)
