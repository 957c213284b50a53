"""What is written on the command line becomes the pictures and texts that were meant."""

import io
from pathlib import Path

import pytest

from opsin.cli.inputs import Input, MissingInputError, find_pictures, find_texts


def found(*arguments: str, stdin: bytes = b"") -> list[Input]:
    return list(find_pictures(arguments, io.BytesIO(stdin)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.webp", ".hidden/d.jpg", "sub/.e.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_a_folder_gives_its_pictures_and_those_below_sorted_without_hidden_ones(folder: Path) -> None:
    assert [entry.keep for entry in found(str(folder))] == [Path("a.JPG"), Path("b.png"), Path("sub/c.webp")]


def test_a_folder_without_pictures_is_a_problem_that_says_what_was_looked_for(tmp_path: Path) -> None:
    (entry,) = found(str(tmp_path))
    assert ".jpeg" in entry.problem


def test_a_file_named_by_itself_may_be_called_anything(folder: Path) -> None:
    (entry,) = found(str(folder / "notes.txt"))
    assert entry.read() == b"notes.txt"


def test_a_quoted_glob_is_expanded_recursively(folder: Path) -> None:
    names = [entry.path.name for entry in found(f"{folder}/**/*.webp") if entry.path]
    assert names == ["c.webp"]


def test_a_glob_that_matches_nothing_is_a_problem_and_not_silence(folder: Path) -> None:
    (entry,) = found(f"{folder}/*.gif")
    assert entry.problem == "no file matches this pattern"


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jpg").write_bytes(b"x")
    (entry,) = found(str(tmp_path / "a[1].jpg"))
    assert entry.read() == b"x"


@pytest.mark.parametrize("written", ["~nobody-of-that-name/a.jpg", "~nobody-of-that-name/*.jpg", "x" * 5000])
def test_a_path_that_cannot_even_be_looked_at_costs_the_others_nothing(folder: Path, written: str) -> None:
    first, second = found(written, str(folder / "b.png"))
    assert len(first.name) <= 80
    assert first.problem
    assert second.read() == b"b.png"


def test_a_text_that_is_taken_for_a_path_is_told_how_texts_are_given() -> None:
    (entry,) = found("what is a cat? " * 500)
    assert "--text" in entry.problem


def test_a_missing_file_is_told_when_it_is_read_so_that_the_others_go_on(folder: Path) -> None:
    first, second = found("gone.jpg", str(folder / "b.png"))
    with pytest.raises(MissingInputError, match="no such file"):
        first.read()
    assert second.read() == b"b.png"


def test_a_dash_is_the_bytes_of_stdin() -> None:
    assert found("-", stdin=b"jpeg")[0].read() == b"jpeg"


def test_an_empty_stdin_is_a_problem() -> None:
    assert found("-")[0].problem == "stdin is empty"


def test_a_url_is_fetched_when_it_is_read_and_saved_under_its_own_name() -> None:
    (entry,) = found("https://example.org/a/cat.jpg?x=1")
    assert (entry.url, entry.keep) == ("https://example.org/a/cat.jpg?x=1", Path("cat.jpg"))


def test_what_a_folder_holds_besides_pictures_is_told_by_kind(folder: Path) -> None:
    for name in ("scan.tiff", "sub/scan.TIFF"):
        (folder / name).touch()
    told: list[str] = []
    assert len(list(find_pictures([str(folder)], io.BytesIO(), told.append))) == 3
    (sentence,) = told
    assert "3 files were left out" in sentence
    assert "(2 .tiff, 1 .txt)" in sentence


def test_texts_come_from_arguments_and_from_lines_of_stdin() -> None:
    texts = [entry.data for entry in find_texts(["one", "-"], io.StringIO("two\n\n three \n"))]
    assert texts == ["one", "two", "three"]
