"""The contract is clean, and a change that would break a client is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[3] / "protos"
BUF = Path(sys.executable).with_name("buf")

pytestmark = pytest.mark.skipif(not BUF.exists(), reason="buf comes with the dev extra")


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BUF), *arguments], capture_output=True, check=False, text=True, timeout=60)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The protos in a place where a test may change them."""
    return shutil.copytree(PROTOS, tmp_path / "protos")


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, old
    file.write_text(text.replace(old, new, 1))


def test_the_protos_are_lint_clean() -> None:
    done = buf("lint", str(PROTOS))
    assert done.returncode == 0, done.stdout


def test_the_contract_breaks_no_client_of_the_released_one() -> None:
    done = buf("breaking", str(PROTOS), "--against", str(PROTOS / "released.binpb"))
    assert done.returncode == 0, done.stdout


def test_a_field_that_changes_its_number_is_noticed(copy: Path) -> None:
    replace(copy / "opsin/v1/detect.proto", "string model = 1;", "string model = 31;")
    done = buf("breaking", str(copy), "--against", str(PROTOS / "released.binpb"))
    assert done.returncode != 0
    assert "detect.proto" in done.stdout


def test_a_field_without_a_comment_is_noticed(copy: Path) -> None:
    replace(copy / "opsin/v1/common.proto", "message Box {", "message Box {\n  float bare = 99;\n")
    assert buf("lint", str(copy)).returncode != 0
