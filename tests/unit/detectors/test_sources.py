"""What may stand after `--model`, and which detector it means."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin_detectors.api import LoadError
from opsin_detectors.finder import find, valid_name
from opsin_detectors.sources import ModelSpec, parse, resolve

FOUND = find()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("nanodet", ModelSpec("nanodet")),
        ("slow=echo,delay_ms=50", ModelSpec("slow", "echo", {"delay_ms": "50"})),
        ("n=nsfw,flag=porn+hentai>=0.7", ModelSpec("n", "nsfw", {"flag": "porn+hentai>=0.7"})),
        ("a = ./b , k = v ", ModelSpec("a", "./b", {"k": "v"})),
        ("a,k=", ModelSpec("a", "", {"k": ""})),
    ],
)
def test_a_model_is_taken_apart(text: str, spec: ModelSpec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be a model's name"),
        ("Big", "cannot be a model's name"),
        ("a" * 65, "cannot be a model's name"),
        ("a,b", "has to be key=value"),
        ("a,=b", "has to be key=value"),
        ("a,k=1,k=2", "given twice"),
    ],
)
def test_a_model_written_wrong_is_refused(text: str, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        parse(text)


@given(st.text(max_size=80))
def test_whatever_is_written_is_a_spec_or_a_load_error(text: str) -> None:
    try:
        spec = parse(text)
    except LoadError:
        return
    assert valid_name(spec.name)


def test_a_bare_name_is_a_detector_with_its_own_weights() -> None:
    resolved = resolve(parse("nanodet"), FOUND)

    assert resolved.found.name == "nanodet"
    assert resolved.source.endswith("model.safetensors")


def test_a_detectors_name_as_source_gives_it_another_name_and_settings() -> None:
    resolved = resolve(parse("slow=echo,delay_ms=50"), FOUND)

    assert (resolved.found.name, resolved.source, resolved.settings) == ("echo", "", {"delay_ms": "50"})


def test_a_hugging_face_folder_goes_to_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    resolved = resolve(ModelSpec("m", str(tmp_path)), FOUND)

    assert (resolved.found.name, resolved.source) == ("transformers", str(tmp_path.resolve()))


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "MODEL.ONNX"])
def test_an_exported_graph_goes_to_onnx(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    resolved = resolve(ModelSpec("m", str(tmp_path / name)), FOUND)

    assert (resolved.found.name, resolved.source) == ("onnx", str((tmp_path / name).resolve()))


def test_a_hub_id_goes_to_transformers_as_it_is() -> None:
    resolved = resolve(parse("m=Falconsai/nsfw_image_detection"), FOUND)

    assert (resolved.found.name, resolved.source) == ("transformers", "Falconsai/nsfw_image_detection")


def test_an_explicit_detector_wins_over_every_guess(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    resolved = resolve(ModelSpec("m", str(tmp_path), {"detector": "echo", "k": "v"}), FOUND)

    assert (resolved.found.name, resolved.source) == ("echo", str(tmp_path.resolve()))
    assert resolved.settings == {"k": "v"}


def test_an_explicit_detector_without_source_keeps_its_packaged_weights() -> None:
    assert resolve(parse("m,detector=nsfw"), FOUND).source == FOUND["nsfw"].source


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nanodett", "there is no detector “nanodett”; did you mean “nanodet”?"),
        ("nope", "there is no detector “nope”; there are “echo”, “face-emotion”, “nanodet”, “nsfw”"),
        ("m=exports/plates.onnx", "there is no file exports/plates.onnx"),
        ("m=nanodett", "“nanodett” is neither a folder, nor a hub id (org/name); there is no detector"),
        ("m=./nowhere", "there is no folder nowhere"),
        ("m=/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("m=a/b/c", "nor a hub id (org/name); there is no detector “a/b/c”; there are"),
        ("m=x,detector=ecko", "did you mean “echo”"),
    ],
)
def test_what_means_nothing_is_refused_with_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(LoadError) as raised:
        resolve(parse(text), FOUND)

    assert said in str(raised.value)


def test_a_file_or_a_folder_without_config_needs_an_explicit_detector(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()

    for source in (tmp_path, tmp_path / "model.bin"):
        with pytest.raises(LoadError, match="detector=NAME"):
            resolve(ModelSpec("m", str(source)), FOUND)
