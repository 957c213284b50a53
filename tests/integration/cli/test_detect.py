"""`opsin detect` against a server: what it prints, writes, and ends with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from integration.cli.conftest import jpeg, run
from integration.cli.fake_server import FakeServer

Run = Callable[..., Any]


def lines(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_picture_gives_a_table_with_label_score_and_pixels(opsin: Run, pictures: Path) -> None:
    result = opsin("detect", pictures / "a.jpg")
    assert result.exit_code == 0, result.stderr
    assert "person  0.73  (6, 10) - (32, 43)" in result.stdout
    assert "fake@1" in result.stdout
    assert result.stderr == ""


def test_json_is_one_line_an_input_and_nothing_else(opsin: Run, pictures: Path) -> None:
    result = opsin("detect", pictures, "--json")
    told = lines(result)
    assert [Path(line["input"]).relative_to(pictures).as_posix() for line in told] == [
        "a.jpg",
        "b.jpg",
        "more/a.jpg",
    ]
    assert told[0]["detections"][0]["label"] == "person"
    assert told[0]["timings"]["batch_size"] == 2


def test_quiet_prints_nothing_when_all_is_well(opsin: Run, pictures: Path) -> None:
    result = opsin("detect", pictures, "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_every_option_reaches_the_server(opsin: Run, server: FakeServer, pictures: Path) -> None:
    options = ["--model", "other@2", "--min-score", "0.25", "--max-detections", "7", "--labels", "cat,dog"]
    options += ["--region", "0,0,0.5,1", "--region", "0.5,0,1,1", "--candidate-label", "a cup"]
    options += ["--truncate"]
    assert opsin("detect", pictures / "a.jpg", *options).exit_code == 0
    asked = server.last
    assert asked.model == "other@2"
    assert asked.options.min_score == 0.25
    assert (asked.options.max_detections, list(asked.options.labels)) == (7, ["cat", "dog"])
    assert [(r.x_min, r.x_max) for r in asked.options.regions] == [(0.0, 0.5), (0.5, 1.0)]
    assert list(asked.options.candidate_labels) == ["a cup"]
    assert asked.options.truncate_text


def test_a_token_is_sent_as_a_bearer(opsin: Run, server: FakeServer, pictures: Path) -> None:
    opsin("detect", pictures / "a.jpg", "--token", "abc")
    assert server.inference.metadata["authorization"] == "Bearer abc"


def test_one_bad_input_is_told_and_the_others_go_on(opsin: Run, pictures: Path) -> None:
    (pictures / "aa.jpg").write_bytes(b"bad picture")
    result = opsin("detect", pictures, "gone.jpg", "--json")
    assert result.exit_code == 1
    told = lines(result)
    assert [("error" in line) for line in told] == [False, True, False, False, True]
    assert told[1]["error"]["reason"] == "IMAGE_UNDECODABLE"
    assert "aa.jpg: the bytes cannot be decoded" in result.stderr
    assert "gone.jpg: no such file or folder" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"bad", 4), (b"busy", 5), (b"broken", 6)],
    ids=["refused", "overloaded", "server fault"],
)
def test_when_all_inputs_fail_the_exit_code_says_how(
    opsin: Run, tmp_path: Path, content: bytes, code: int
) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    assert opsin("detect", tmp_path / "x.jpg").exit_code == code


def test_a_file_that_is_not_there_is_exit_1(opsin: Run) -> None:
    assert opsin("detect", "gone.jpg").exit_code == 1


def test_a_port_on_the_command_line_goes_before_a_target_of_the_environment(
    server: FakeServer, pictures: Path
) -> None:
    port = server.target.rpartition(":")[2]
    result = run("detect", pictures / "a.jpg", "--port", port, target="127.0.0.1:1")
    assert result.exit_code == 0, result.stderr
    for words in (("--port", port, "list"), ("list", "--port", port)):
        assert run("models", *words, target="127.0.0.1:1").exit_code == 0
    both = run("detect", pictures / "a.jpg", "--port", "1", "--target", server.target)
    assert both.exit_code == 0, both.stderr


def test_no_server_is_exit_3_and_says_how_to_start_one(pictures: Path) -> None:
    result = run("detect", pictures)
    assert result.exit_code == 3
    assert "opsin serve" in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_an_unknown_model_ends_the_command_instead_of_failing_every_input(
    opsin: Run, server: FakeServer, pictures: Path
) -> None:
    result = opsin("detect", pictures, "--model", "missing", "-j", "1")
    assert result.exit_code == 4
    assert result.stderr.count("there is no model 'missing'") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--min-score", "2"],
        ["--region", "0,0,1"],
        ["--region", "0,0,2,2"],
        ["--jobs", "0"],
        ["--text", "--save", "x"],
    ],
)
def test_wrong_usage_is_exit_2_before_anything_is_sent(
    opsin: Run, server: FakeServer, pictures: Path, arguments: list[str]
) -> None:
    assert opsin("detect", pictures, *arguments).exit_code == 2
    assert server.inference.requests == []


def test_stdin_is_a_picture(opsin: Run) -> None:
    assert lines(opsin("detect", "-", "--json", input=jpeg()))[0]["input"] == "-"


def test_texts_are_sent_as_texts(opsin: Run, server: FakeServer) -> None:
    result = opsin("detect", "--text", "you are kind", "--json")
    assert server.last.text == "you are kind"
    assert lines(result)[0]["labels"][0]["name"] == "kind"


def test_annotated_pictures_are_written_under_names_of_their_own(
    opsin: Run, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = opsin("detect", pictures / "a.jpg", pictures / "more" / "a.jpg", "--save", out, "--json")
    assert [line["saved"] for line in lines(result)] == [str(out / "a.jpg"), str(out / "a-2.jpg")]
    with Image.open(out / "a-2.jpg") as drawn:
        assert drawn.size == (64, 48)
        assert len(drawn.getcolors(10_000) or []) > 10, "nothing was drawn on the grey picture"


def test_saving_beside_the_inputs_changes_no_input(opsin: Run, pictures: Path) -> None:
    before = (pictures / "a.jpg").read_bytes()
    opsin("detect", pictures / "a.jpg", "--save", pictures)
    assert (pictures / "a.jpg").read_bytes() == before
    assert (pictures / "a-2.jpg").exists()


def test_a_folder_that_cannot_be_written_is_told_and_is_exit_1(
    opsin: Run, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = opsin("detect", pictures / "a.jpg", "--save", tmp_path / "file")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


TAKES_ANY_NAME = pytest.mark.skipif(sys.platform == "darwin", reason="names of files are text there")


@TAKES_ANY_NAME
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_is_no_text_is_told_in_any_encoding(
    server: FakeServer, tmp_path: Path, encoding: str
) -> None:
    name = os.fsdecode(b"caf\xc3\xa9 \xff.jpg")
    (tmp_path / name).write_bytes(jpeg())
    for flags in (("--json",), ()):
        told = on_its_own(server, encoding, "detect", tmp_path / name, *flags)
        assert (told.returncode, told.stderr) == (0, b"")
        if flags:
            assert json.loads(told.stdout.decode(encoding))["input"] == str(tmp_path / name)


@TAKES_ANY_NAME
def test_vectors_of_a_file_whose_name_is_no_text_are_written(opsin: Run, tmp_path: Path) -> None:
    picture = tmp_path / os.fsdecode(b"\xff.jpg")
    picture.write_bytes(jpeg())
    result = opsin("embed", picture, "--json", "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.stderr
    (line,) = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["input"] == str(picture)


def test_a_line_of_stdin_that_is_no_text_fails_alone(server: FakeServer) -> None:
    told = on_its_own(server, "utf-8", "embed", "--text", "-", "--json", stdin=b"one\n\xff\ntwo\n")
    assert told.returncode == 1
    one, broken, two = map(json.loads, told.stdout.splitlines())
    assert ("vector" in one, "error" in broken, "vector" in two) == (True, True, True)


def on_its_own(
    server: FakeServer, encoding: str, *arguments: object, stdin: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """The command in a process of its own, on streams that take no half characters."""
    command = [sys.executable, "-m", "opsin.cli", *map(str, arguments)]
    environ = {**os.environ, "OPSIN_TARGET": server.target, "PYTHONIOENCODING": f"{encoding}:strict"}
    return subprocess.run(command, env=environ, input=stdin, capture_output=True, timeout=120, check=False)
