"""Any Hugging Face image classifier answers as the stock processor and model would, alone and in batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from opsin_detectors import imaging
from opsin_detectors.api import (
    Detector,
    ImageInput,
    InputError,
    LoadContext,
    LoadError,
    Options,
    Output,
    Task,
    TextInput,
)
from opsin_detectors.finder import find, load
from opsin_detectors.testing import check, image, run, sample_inputs

from .conftest import Picture

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Folder = Callable[..., Path]
SQUARE = {"height": 32, "width": 32}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NARROW = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}

# model class, its config, its processor and that one's settings
KINDS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "vit": ("ViT", {**VIT, "image_size": 32, "patch_size": 8}, "ViT", {"size": SQUARE}),
    "vit_bicubic": (
        "ViT",
        {**VIT, "image_size": 32, "patch_size": 8},
        "ViT",
        {"size": SQUARE, "resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
    ),
    "mobilenet_v2": (
        "MobileNetV2",
        {"depth_multiplier": 0.25, "image_size": 48},
        "MobileNetV2",
        {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}},
    ),
    "convnext": ("ConvNext", NARROW, "ConvNext", {"size": {"shortest_edge": 64}}),
    "resnet": (
        "ResNet",
        {**NARROW, "embedding_size": 8},
        "ConvNext",
        {"size": {"shortest_edge": 384}, "do_normalize": False},
    ),
    "deit": (
        "DeiT",
        {**VIT, "image_size": 32, "patch_size": 8},
        "DeiT",
        {"size": {"height": 40, "width": 40}, "crop_size": SQUARE},
    ),
    "vit_lanczos": (
        "ViT",
        {**VIT, "image_size": 32, "patch_size": 8},
        "ViT",
        {"size": SQUARE, "resample": 1},
    ),
}
STOCK = {"vit_lanczos"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Writes a tiny checkpoint with random weights, as its authors would have saved it."""

    def write(kind: str, **changes: Any) -> Path:
        model_name, config, processor_name, processing = KINDS[kind]
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(3)
        made = getattr(transformers, f"{model_name}Config")(**{"num_labels": 4, **config, **changes})
        model = getattr(transformers, f"{model_name}ForImageClassification")(made).eval()
        # As they are made, the weights are so small that all pictures would score about the same.
        for one in model.modules():
            if isinstance(one, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(one.weight)
        heads = [one for one in model.modules() if isinstance(one, torch.nn.Linear)]
        torch.nn.init.normal_(heads[-1].weight, std=heads[-1].in_features ** -0.5)
        model.save_pretrained(folder)
        getattr(transformers, f"{processor_name}ImageProcessorPil")(**processing).save_pretrained(folder)
        return folder

    return write


def open_(folder: Path | str, **settings: str) -> Detector:
    return load(find()["transformers"], LoadContext("m", source=str(folder), settings=settings))


def stock_scores(folder: Path, pictures: list[ImageInput], function: str = "softmax") -> np.ndarray[Any, Any]:
    """What the checkpoint's own processor and model answer, one picture at a time."""
    processor: Any = transformers.AutoImageProcessor
    processor = processor.from_pretrained(folder)
    model: Any = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    rows = []
    for one in pictures:
        with torch.inference_mode():
            logits = model(**processor(images=Image.fromarray(one.pixels), return_tensors="pt")).logits[0]
        rows.append((logits.softmax(-1) if function == "softmax" else logits.sigmoid()).numpy())
    return np.array(rows)


def scores(outputs: list[Output]) -> np.ndarray[Any, Any]:
    return np.array([[label.score for label in output.labels] for output in outputs])


def pictures(picture: Picture) -> list[ImageInput]:
    made = [one for one in sample_inputs(Task.CLASSIFY_IMAGE) if isinstance(one, ImageInput)]
    return [picture("astronaut.png"), *made[1:], picture("rocket.jpg")]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_stock_processors_and_models(checkpoint: Folder, picture: Picture, kind: str) -> None:
    folder, inputs = checkpoint(kind), pictures(picture)
    detector = open_(folder)

    together = scores(run(detector, inputs, Task.CLASSIFY_IMAGE))
    alone = scores([run(detector, [one], Task.CLASSIFY_IMAGE)[0] for one in inputs])

    wanted = stock_scores(folder, inputs)
    assert wanted.std(0).max() > 0.02  # the random weights do tell pictures apart
    # Resizing rounds differently by a level in places; exactly equal where the processor itself is used.
    np.testing.assert_allclose(alone, wanted, atol=1e-5 if kind in STOCK else 0.02)
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_way_is_taken_wherever_it_is_understood(checkpoint: Folder, kind: str) -> None:
    info = open_(checkpoint(kind)).info

    assert (info.input is None) == (kind in STOCK)
    if info.input is not None:
        assert min(info.decode_size) >= info.input.height


@pytest.mark.parametrize("kind", ["vit", "mobilenet_v2", "vit_lanczos"])
def test_it_keeps_the_rules_of_a_detector(checkpoint: Folder, kind: str) -> None:
    check(open_(checkpoint(kind)), tolerance=1e-4)


@pytest.mark.parametrize(
    ("kind", "attribute", "dimensions"),
    [("mobilenet_v2", "mobilenet_v2", 1280), ("convnext", "convnext", 32), ("resnet", "resnet", 32)],
)
def test_a_vector_is_the_models_pooled_features(
    checkpoint: Folder, picture: Picture, kind: str, attribute: str, dimensions: int
) -> None:
    folder, source = checkpoint(kind), picture("coffee.png")
    detector = open_(folder)
    [output] = run(detector, [source], Task.EMBED_IMAGE)

    processor: Any = transformers.AutoImageProcessor
    arguments = processor.from_pretrained(folder)(images=Image.fromarray(source.pixels), return_tensors="pt")
    model: Any = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        wanted = getattr(model, attribute)(**arguments).pooler_output.flatten().numpy()
    assert detector.info.embedding_dimensions == dimensions
    assert output.vector is not None
    assert wanted.std() > 0
    np.testing.assert_allclose(output.vector, wanted, atol=0.02 * np.abs(wanted).max())


def test_a_settings_file_with_a_step_that_is_not_known_falls_back_to_the_processor(
    checkpoint: Folder, picture: Picture
) -> None:
    folder = checkpoint("vit")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sharpen": True}))

    detector = open_(folder)

    assert detector.info.input is None
    inputs = pictures(picture)
    np.testing.assert_allclose(
        scores(run(detector, inputs, Task.CLASSIFY_IMAGE)), stock_scores(folder, inputs), atol=1e-5
    )


def test_a_multi_label_checkpoint_scores_every_class_for_itself(checkpoint: Folder, picture: Picture) -> None:
    folder = checkpoint("vit", problem_type="multi_label_classification")
    inputs = pictures(picture)

    ours = scores(run(open_(folder), inputs, Task.CLASSIFY_IMAGE))

    np.testing.assert_allclose(ours, stock_scores(folder, inputs, "sigmoid"), atol=0.02)
    np.testing.assert_allclose(
        scores(run(open_(folder, scores="softmax"), inputs, Task.CLASSIFY_IMAGE)),
        stock_scores(folder, inputs),
        atol=0.02,
    )


def test_many_classes_are_cut_to_the_best_but_the_flags_classes_stay(
    checkpoint: Folder, picture: Picture
) -> None:
    folder = checkpoint("vit", num_labels=40)
    everything = run(open_(folder), [picture("astronaut.png")], Task.CLASSIFY_IMAGE)[0].labels
    ranked = [label.name for label in sorted(everything, key=lambda one: -one.score)]

    detector = open_(folder, flag=f"{ranked[-1]}>=0.5")
    [output] = run(detector, [picture("astronaut.png")], Task.CLASSIFY_IMAGE, Options(max_labels=5))

    assert len(everything) == 40
    assert {label.name for label in output.labels} == {*ranked[:5], ranked[-1]}
    allowed = Options(max_labels=5, labels=frozenset({ranked[20]}))
    assert len(run(detector, [picture("astronaut.png")], Task.CLASSIFY_IMAGE, allowed)[0].labels) == 40


def test_classes_come_in_the_order_of_the_outputs(checkpoint: Folder) -> None:
    names = {0: "zebra", 1: "ant", 2: "mole"}

    assert open_(checkpoint("vit", num_labels=3, id2label=names)).info.classes == ("zebra", "ant", "mole")


def test_a_text_is_refused_in_the_callers_words(checkpoint: Folder) -> None:
    with pytest.raises(InputError, match="m looks at pictures"):
        open_(checkpoint("vit")).prepare(TextInput("hello"), Task.CLASSIFY_IMAGE, Options())


def refusal(source: Path | str, **settings: str) -> str:
    with pytest.raises(LoadError) as raised:
        open_(source, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_weights_that_are_not_all_there_are_refused_not_made_up(checkpoint: Folder, tmp_path: Path) -> None:
    folder = checkpoint("vit")
    model = transformers.ViTModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())

    assert "lacks the weights of classifier.bias, classifier.weight" in refusal(tmp_path)


def test_pickled_weights_are_loaded_only_when_allowed(checkpoint: Folder, picture: Picture) -> None:
    folder = checkpoint("vit")
    model = transformers.ViTForImageClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    assert "allow_pickle=true" in refusal(folder)
    detector = open_(folder, allow_pickle="true")
    assert len(run(detector, [picture("coffee.png")], Task.CLASSIFY_IMAGE)[0].labels) == 4


def test_a_checkpoints_own_code_is_never_run(checkpoint: Folder) -> None:
    folder = checkpoint("vit")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this was run')")

    assert "needs code of its own" in refusal(folder)


def test_a_family_that_is_not_read_is_named(tmp_path: Path) -> None:
    transformers.BertForQuestionAnswering(
        transformers.BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, vocab_size=32
        )
    ).save_pretrained(tmp_path)

    said = refusal(tmp_path)

    assert "BertForQuestionAnswering" in said
    assert "ForImageClassification" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"flag": "porn>=0.5"}, "does not have"),
        ({"scores": "argmax"}, "auto, softmax or sigmoid"),
        ({"flga": "x"}, "did you mean “flag”"),
        ({"allow_pickle": "perhaps"}, "true or false"),
    ],
)
def test_wrong_settings_are_refused(checkpoint: Folder, settings: dict[str, str], said: str) -> None:
    assert said in refusal(checkpoint("vit"), **settings)


def test_a_source_that_is_missing_or_no_checkpoint_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text("{}")

    assert "cannot be loaded" in refusal(tmp_path)
    assert "needs a folder or a hub id" in refusal("")


def test_of_a_strip_no_more_is_made_than_what_can_be_seen(
    checkpoint: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = open_(checkpoint("mobilenet_v2"))
    resize = imaging.resize

    def bounded(pixels: Any, width: int, height: int, *how: Any) -> Any:
        assert width * height <= 56 * 32 * 48, "its shorter side made 56 long all of it would be megabytes"
        return resize(pixels, width, height, *how)

    monkeypatch.setattr(imaging, "resize", bounded)
    strip = image(np.full((1, 16_384, 3), 99, np.uint8))
    assert detector.prepare(strip, Task.CLASSIFY_IMAGE, Options()).data.shape == (48, 48, 3)
