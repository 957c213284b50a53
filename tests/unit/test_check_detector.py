"""`opsin check-detector`: what its arguments mean, what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from opsin_detectors import scaffold
from opsin_server import cli

PICTURE = Path(__file__).parents[1] / "data" / "images" / "astronaut.png"

app = typer.Typer()
cli.register(app)
runner = CliRunner()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return scaffold.write("mine", tmp_path)


def wrong(folder: Path) -> Path:
    """Scores that are no shares, in a detector that was right."""
    path = folder / "detector.py"
    path.write_text(path.read_text().replace('Label("bright", score, 1)', 'Label("bright", score + 1, 1)'))
    return folder


def test_a_line_for_each_rule_and_0_when_all_are_kept(mine: Path) -> None:
    result = runner.invoke(app, ["check-detector", str(mine), "--picture", str(PICTURE)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("passed  manifest    “mine” is detector:Mine")
    assert "passed  runs        6 samples answered" in lines
    assert lines[-1] == f"{mine}: 19 passed, 0 failed, 4 not for it"


def test_a_broken_rule_is_one_line_with_the_place_and_1(mine: Path) -> None:
    result = runner.invoke(app, ["check-detector", str(wrong(mine))])
    assert result.exit_code == 1
    (line,) = [one for one in result.output.splitlines() if one.startswith("FAILED")]
    assert "classify_image: for its own example the score of “bright” is 1." in line
    assert "; scores are in 0..1" in line
    assert f"[{mine}/detector.py:" in line
    assert result.output.splitlines()[-1].endswith("18 passed, 1 failed, 4 not for it")


def test_json_is_an_object_a_line_and_then_the_sum(mine: Path) -> None:
    result = runner.invoke(app, ["check-detector", str(wrong(mine)), "--json"])
    assert result.exit_code == 1
    *rules, total = map(json.loads, result.output.splitlines())
    assert {one["kind"] for one in rules} == {"rule"}
    (failed,) = [one for one in rules if one["status"] == "failed"]
    assert (failed["rule"], failed["task"]) == ("scores", "classify_image")
    assert total == {
        "kind": "sum",
        "detector": str(mine),
        "ok": False,
        "passed": 18,
        "failed": 1,
        "skipped": 4,
    }


def test_an_installed_detector_is_checked_by_its_name() -> None:
    result = runner.invoke(app, ["check-detector", "echo"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith("echo: ")


def test_settings_and_source_reach_the_detector(mine: Path) -> None:
    path = mine / "detector.py"
    path.write_text(
        path.read_text().replace(
            "        settings.done()", "        raise OSError(context.source, context.settings)"
        )
    )
    arguments = ["--setting", "threshold=0.25", "--source", "hub/id", "--json"]
    result = runner.invoke(app, ["check-detector", str(mine), *arguments])
    assert result.exit_code == 1
    loads = json.loads(result.output.splitlines()[2])
    assert loads["rule"] == "loads"
    assert "hub/id" in loads["seen"]
    assert "'threshold': '0.25'" in loads["seen"]


def test_a_wrong_manifest_breaks_the_first_rule(mine: Path) -> None:
    (mine / "detector.toml").write_text('nome = "mine"')
    result = runner.invoke(app, ["check-detector", str(mine)])
    assert result.exit_code == 1
    assert result.output.startswith("FAILED  manifest    ")
    assert "unknown key “nome”; did you mean “name”?" in result.output


def test_wrong_usage_is_a_sentence_and_2(mine: Path) -> None:
    text = mine / "README.md"
    for arguments, said in (
        (["nobody"], "there is no folder nobody, and no installed detector of that name"),
        (["~nobody-of-that-name/x"], "there is no folder ~nobody-of-that-name/x, and no installed"),
        ([str(mine), "--device", "gpu"], "--device gpu is none of auto, cpu, cuda"),
        ([str(mine), "--dtype", "float33"], "--dtype float33 is none of auto, float32"),
        ([str(mine), "--setting", "threshold"], "--setting threshold has to be KEY=VALUE"),
        ([str(mine), "--setting", "a=1", "--setting", "a=2"], "the setting a is given twice"),
        ([str(mine), "--picture", str(text)], "a picture cannot be used: "),
    ):
        result = runner.invoke(app, ["check-detector", *arguments])
        assert result.exit_code == 2, result.output
        assert result.output.startswith(f"opsin: {said}")


def test_a_folder_of_several_detectors_asks_for_one(mine: Path) -> None:
    scaffold.write("yours", mine.parent)
    result = runner.invoke(app, ["check-detector", str(mine.parent)])
    assert result.exit_code == 2
    assert f"name one: {mine}, {mine.parent / 'yours'}" in result.output


def test_the_help_tells_the_exit_codes() -> None:
    result = runner.invoke(app, ["check-detector", "--help"])
    assert "0 every rule kept, 1 a rule broken, 2 wrong usage" in " ".join(result.output.split())
