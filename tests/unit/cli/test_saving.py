"""Annotated pictures never overwrite an input, nor each other."""

from pathlib import Path

from opsin.cli.inputs import Input
from opsin.cli.saving import plan_names


def picture(path: Path, keep: str) -> Input:
    return Input(str(path), path=path, keep=Path(keep))


def test_inputs_of_the_same_name_get_names_of_their_own(tmp_path: Path) -> None:
    inputs = [picture(tmp_path / folder / "cat.jpg", "cat.jpg") for folder in "abc"]
    names = plan_names(tmp_path / "out", inputs)
    assert [names[entry].name for entry in inputs] == ["cat.jpg", "cat-2.jpg", "cat-3.jpg"]


def test_names_that_differ_by_case_alone_are_told_apart(tmp_path: Path) -> None:
    inputs = [picture(tmp_path / "a" / "Cat.jpg", "Cat.jpg"), picture(tmp_path / "b" / "cat.jpg", "cat.jpg")]
    assert [path.name for path in plan_names(tmp_path, inputs).values()] == ["Cat.jpg", "cat-2.jpg"]


def test_saving_into_the_folder_of_the_inputs_overwrites_none_of_them(tmp_path: Path) -> None:
    inputs = [picture(tmp_path / name, name) for name in ("cat.jpg", "cat-2.jpg")]
    names = set(plan_names(tmp_path, inputs).values())
    assert names == {tmp_path / "cat-3.jpg", tmp_path / "cat-2-2.jpg"}


def test_a_later_input_is_as_safe_as_an_earlier_one(tmp_path: Path) -> None:
    first = picture(tmp_path / "elsewhere" / "cat.jpg", "cat.jpg")
    second = picture(tmp_path / "cat.jpg", "cat.jpg")
    assert tmp_path / "cat.jpg" not in plan_names(tmp_path, [first, second]).values()


def test_what_lay_in_a_folder_keeps_its_place(tmp_path: Path) -> None:
    entry = picture(tmp_path / "in" / "x" / "cat.jpg", "x/cat.jpg")
    assert plan_names(tmp_path / "out", [entry])[entry] == tmp_path / "out" / "x" / "cat.jpg"


def test_formats_that_are_not_written_become_png(tmp_path: Path) -> None:
    inputs = [picture(tmp_path / "a.gif", "a.gif"), Input("-", data=b"x", keep=Path("stdin"))]
    names = [path.name for path in plan_names(tmp_path / "out", inputs).values()]
    assert names == ["a.png", "stdin.png"]


def test_an_input_that_is_not_there_gets_no_name(tmp_path: Path) -> None:
    assert plan_names(tmp_path, [Input("gone.jpg", problem="no such file")]) == {}
