"""Image embedders, and models that embed pictures and texts into one space, answer as the stock ones do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import checkpoints
from opsin_detectors.api import ImageInput, InputError, LoadContext, Options, Task, TextInput
from opsin_detectors.testing import image, run
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.patches import PatchedPictures, Patches
from opsin_detectors.transformers.towers import Towers

from .batches import SENTENCES, alone, groups, open_, refusal, texts_of, together, vectors

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SHAPES = ((96, 128), (128, 96), (40, 200), (64, 64), (300, 31), (9, 90))
EXACT = 2e-5
JOINT = (checkpoints.clip, checkpoints.siglip, checkpoints.siglip2_naflex)
SHORT = [one for one in SENTENCES if len(one) < 22]


def pictures() -> list[ImageInput]:
    """Smooth noise of many proportions, rows and columns as in SHAPES."""
    noise = np.random.default_rng(2)
    made = []
    for rows, columns in SHAPES:
        coarse = Image.fromarray(noise.integers(0, 256, (6, 6, 3), np.uint8))
        made.append(image(np.asarray(coarse.resize((columns, rows), Image.Resampling.BICUBIC))))
    return made


def stock(folder: Path, answer: Any, auto: Any = transformers.AutoModel) -> np.ndarray[Any, Any]:
    """`answer(model, arguments)` for every picture, each prepared alone by the checkpoint's own processor."""
    processor: Any = transformers.AutoImageProcessor
    processor = processor.from_pretrained(folder)
    model: Any = auto.from_pretrained(folder).eval()
    rows = []
    for one in pictures():
        given = processor(images=Image.fromarray(one.pixels), return_tensors="pt")
        with torch.inference_mode():
            rows.append(answer(model, given).flatten(1)[0].numpy())
    return np.stack(rows)


def apart(ours: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """The largest difference, as a share of the largest number."""
    return float(np.abs(ours - wanted).max() / np.abs(wanted).max())


BARE = {
    "vit": (checkpoints.vit, lambda model, given: model(**given).pooler_output),
    "dinov2": (checkpoints.dinov2, lambda model, given: model(**given).last_hidden_state[:, 0]),
    "convnext": (checkpoints.convnext, lambda model, given: model(**given).pooler_output),
}


@pytest.mark.parametrize("kind", BARE)
def test_a_bare_image_model_answers_its_pooled_output(kind: str) -> None:
    make, answer = BARE[kind]
    detector = open_(make())
    wanted = stock(make(), answer)

    assert detector.info.tasks == {Task.EMBED_IMAGE}
    assert detector.info.embedding_dimensions == 32
    assert detector.info.input is not None  # the fast way
    assert wanted.std(0).max() > 0.01
    # Resizing rounds differently by a level in places.
    ours = vectors(together(detector, pictures(), Task.EMBED_IMAGE))
    assert apart(ours, wanted) < 0.03
    np.testing.assert_allclose(ours, vectors(alone(detector, pictures(), Task.EMBED_IMAGE)), atol=EXACT)


def test_without_a_pooler_it_is_the_cls_token() -> None:
    folder = checkpoints.vit(pooler=False)
    wanted = stock(folder, lambda model, given: model(**given).last_hidden_state[:, 0])

    assert apart(vectors(together(open_(folder), pictures(), Task.EMBED_IMAGE)), wanted) < 0.03
    assert "it can: cls, mean" in refusal(folder, pooling="pooler")


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (checkpoints.vit, lambda model, given: model(**given).last_hidden_state.mean(1)),
        (checkpoints.convnext, lambda model, given: model(**given).last_hidden_state.mean((2, 3))),
    ],
)
def test_the_user_may_ask_for_the_mean(make: Any, answer: Any) -> None:
    ours = vectors(together(open_(make(), pooling="mean"), pictures(), Task.EMBED_IMAGE))

    assert apart(ours, stock(make(), answer)) < 0.03


def test_a_pooling_that_there_is_not_is_refused() -> None:
    assert "one of auto, pooler, cls, mean" in refusal(checkpoints.vit(), pooling="max")
    assert "it can: pooler, mean" in refusal(checkpoints.convnext(), pooling="cls")


def features(kind: str) -> Any:
    def answer(model: Any, given: Any) -> torch.Tensor:
        found = getattr(model, f"get_{kind}_features")(**given)
        return found if isinstance(found, torch.Tensor) else found.pooler_output

    return answer


@pytest.mark.parametrize("make", JOINT, ids=lambda make: make.__name__)
def test_pictures_get_the_stock_models_features_alone_and_in_mixed_batches(make: Any) -> None:
    detector, wanted = open_(make()), stock(make(), features("image"))

    ours = vectors(together(detector, pictures(), Task.EMBED_IMAGE))

    assert wanted.std(0).max() > 0.01
    # Where the processor itself is used there is no rounding of ours.
    assert apart(ours, wanted) < (EXACT if make is checkpoints.siglip2_naflex else 0.03)
    np.testing.assert_allclose(ours, vectors(alone(detector, pictures(), Task.EMBED_IMAGE)), atol=EXACT)


@pytest.mark.parametrize("make", JOINT, ids=lambda make: make.__name__)
def test_texts_get_the_stock_models_features_alone_and_in_mixed_batches(make: Any) -> None:
    detector, inputs = open_(make()), texts_of(SHORT)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(make())
    model: Any = transformers.AutoModel.from_pretrained(make()).eval()
    # SigLIP's documentation: padded to the full length, because it was trained so.
    padding = {"padding": False} if make is checkpoints.clip else {"padding": "max_length", "max_length": 24}
    with torch.inference_mode():
        rows = [features("text")(model, tokenizer(text, return_tensors="pt", **padding)) for text in SHORT]

    wanted = torch.cat(rows).numpy()
    assert wanted.std(0).max() > 0.05
    for ours in (together(detector, inputs, Task.EMBED_TEXT), alone(detector, inputs, Task.EMBED_TEXT)):
        np.testing.assert_allclose(vectors(ours), wanted, atol=EXACT)


@pytest.mark.parametrize("make", JOINT, ids=lambda make: make.__name__)
def test_pictures_and_texts_never_share_a_batch(make: Any) -> None:
    detector = open_(make())

    assert detector.info.tasks >= {Task.EMBED_IMAGE, Task.EMBED_TEXT}
    seen = groups(detector, pictures(), Task.EMBED_IMAGE)
    read = groups(detector, texts_of(SHORT), Task.EMBED_TEXT)
    assert not seen.keys() & read.keys()
    with pytest.raises(InputError, match="given a text"):
        detector.prepare(TextInput("tea"), Task.EMBED_IMAGE, Options())
    with pytest.raises(InputError, match="given a picture"):
        detector.prepare(pictures()[0], Task.EMBED_TEXT, Options())


def test_what_stands_in_the_padding_of_patches_is_not_looked_at() -> None:
    context = LoadContext("m", source=str(checkpoints.siglip2_naflex()))
    towers = Towers(context, Checkpoint.open(context))
    assert isinstance(towers.pictures, PatchedPictures)
    batch = [towers.pictures.prepare(one.pixels).data for one in pictures()]
    square = next(one for one in batch if one.rows == one.columns == 8)
    batch.append(Patches(square.values[: 7 * 8], 7, 8))
    arguments = towers.pictures.arguments(batch)
    padding = arguments["pixel_attention_mask"] == 0
    assert sorted(set(padding.sum(1).tolist())) == [0, 1, 8]

    calm = towers.image_features(batch)
    arguments["pixel_values"][padding] = 50.0
    with torch.inference_mode():
        disturbed = features("image")(towers._model, arguments)

    torch.testing.assert_close(disturbed, calm, atol=EXACT, rtol=1e-4)


def test_patches_are_padded_to_steps_of_their_number() -> None:
    folder = checkpoints.siglip2_naflex()
    processor: Any = transformers.AutoImageProcessor
    patched = PatchedPictures(processor.from_pretrained(folder), torch.device("cpu"), torch.float32)

    shapes = {patched.prepare(one.pixels).shape for one in pictures()}

    assert shapes <= {8, 12, 16, 24, 32, 48, 64}


def test_pictures_of_all_usual_proportions_come_to_a_shape_that_is_warmed() -> None:
    detector = open_(checkpoints.siglip2_naflex())

    warmed = groups(detector, list(detector.examples(Task.EMBED_IMAGE)), Task.EMBED_IMAGE)

    assert groups(detector, list(pictures()), Task.EMBED_IMAGE).keys() <= warmed.keys()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("make", JOINT, ids=lambda make: make.__name__)
def test_narrower_numbers_answer_about_the_same(make: Any, dtype: str) -> None:
    exact, narrow = open_(make()), open_(make(), dtype=dtype)

    for task, inputs in ((Task.EMBED_IMAGE, pictures()), (Task.EMBED_TEXT, texts_of(SHORT))):
        wanted = vectors(together(exact, inputs, task))
        assert apart(vectors(together(narrow, inputs, task)), wanted) < 0.05
    assert narrow.info.dtype == dtype


def test_a_text_longer_than_the_tower_reads_is_refused_or_cut() -> None:
    detector = open_(checkpoints.siglip())

    with pytest.raises(InputError, match=r"41 tokens long, .* at most 24"):
        detector.prepare(TextInput("x" * 40), Task.EMBED_TEXT, Options())
    [cut] = run(detector, [TextInput("x" * 40)], Task.EMBED_TEXT, Options(truncate_text=True))
    assert cut.vector is not None
