"""Texts become the tokens that the stock tokenizer gives, in few lengths, from many threads at once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import checkpoints
from opsin_detectors.api import InputError
from opsin_detectors.transformers.texts import LEAST_LENGTH, Texts, padded_length, token_limit

from .batches import SENTENCES

LONG = "nothing is as long as a letter that nobody wants to read " * 3


def tokenizer(**settings: Any) -> Any:
    return checkpoints.letters(begin="[CLS]", end="[SEP]", pad="[PAD]", model_max_length=64, **settings)


@given(st.integers(1, 8192), st.integers(1, 8192))
def test_less_than_a_third_of_a_longer_text_is_padding(tokens: int, limit: int) -> None:
    padded = padded_length(min(tokens, limit), limit)

    assert min(tokens, limit) <= padded <= limit
    if tokens > LEAST_LENGTH:
        assert padded - min(tokens, limit) < padded / 3


def test_there_are_few_lengths() -> None:
    steps = sorted({padded_length(tokens, 512) for tokens in range(1, 513)})

    assert steps == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_tokens_are_the_stock_tokenizers_whole_and_cut(side: str) -> None:
    ours, stock = Texts(tokenizer(truncation_side=side), 64), tokenizer(truncation_side=side)

    for text in (*SENTENCES, LONG):
        tokens = ours.prepare(text, truncate=True).data
        wanted = stock(text, truncation=True, max_length=64)
        real = tokens["attention_mask"] == 1
        assert tokens.keys() == wanted.keys()
        for name, values in wanted.items():
            assert tokens[name][real].tolist() == values
        assert (tokens["input_ids"][~real] == stock.pad_token_id).all()


def test_a_text_that_is_too_long_is_refused_with_its_tokens_and_the_limit() -> None:
    texts = Texts(tokenizer(), 64)
    count = len(tokenizer()(LONG, verbose=False)["input_ids"])

    with pytest.raises(InputError, match=f"{count} tokens long, .* at most 64; truncate_text"):
        texts.prepare(LONG, truncate=False)
    assert texts.prepare("a" * 62, truncate=False).shape == 64  # exactly the limit, with the two added
    with pytest.raises(InputError, match="65 tokens"):
        texts.prepare("a" * 63, truncate=False)


@pytest.mark.parametrize("limit", [4, 24, 64, 512])
def test_the_example_to_warm_up_with_always_fits(limit: int) -> None:
    texts = Texts(tokenizer(), limit, prefix="q")

    assert texts.prepare(texts.example().text, truncate=False).shape <= limit


@pytest.mark.parametrize("limit", [4, 24, 64, 2000])
def test_there_is_an_example_of_every_length_that_texts_are_padded_to(limit: int) -> None:
    texts = Texts(tokenizer(), limit, prefix="q")

    offered = [texts.prepare(one.text, truncate=False).shape for one in texts.examples()]

    assert texts.examples()[0] == texts.example()
    assert set(offered) == {padded_length(tokens, limit) for tokens in range(4, min(limit, 512) + 1)}


def test_where_all_texts_are_padded_alike_or_not_at_all_one_example_is_enough() -> None:
    assert len(Texts(tokenizer(), 64, fixed=True).examples()) == 1
    alone = Texts(tokenizer(), 64)
    alone.try_padding(
        lambda arguments: arguments["input_ids"].float().cumsum(1)[:, -1:].mul(len(arguments["input_ids"]))
    )
    assert len(alone.examples()) == 1


def test_a_prefix_counts_and_goes_first() -> None:
    texts = Texts(tokenizer(), 64, prefix="query: ", lower=True)
    ids = tokenizer()("query: hat")["input_ids"]

    assert texts.prepare("HAT", truncate=False).data["input_ids"][: len(ids)].tolist() == ids
    with pytest.raises(InputError, match="65 tokens"):
        texts.prepare("a" * 56, truncate=False)


def test_many_threads_cut_and_do_not_cut_at_once() -> None:
    texts = Texts(tokenizer(), 64)
    alone = texts.prepare(LONG, truncate=True).data["input_ids"]

    def work(number: int) -> bool:
        if number % 2:
            return bool((texts.prepare(LONG, truncate=True).data["input_ids"] == alone).all())
        return texts.prepare("tea", truncate=False).shape == 8

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))


def test_where_padding_changes_the_answer_only_equal_lengths_share_a_batch() -> None:
    heedless, careful = Texts(tokenizer(), 64), Texts(tokenizer(), 64)

    heedless.try_padding(lambda given: given["input_ids"].float().mean(1, keepdim=True))
    careful.try_padding(lambda given: (given["input_ids"] * given["attention_mask"]).float().sum(1))

    assert [heedless.prepare("a" * n, truncate=False).shape for n in (3, 4, 5)] == [5, 6, 7]
    assert [careful.prepare("a" * n, truncate=False).shape for n in (3, 4, 5)] == [8, 8, 8]


def test_a_tokenizer_without_padding_is_not_padded() -> None:
    unpadded = tokenizer()
    unpadded.pad_token = None
    texts = Texts(unpadded, 64)
    prepared = texts.prepare("tea", truncate=False)

    assert prepared.shape == 5
    arguments = texts.arguments([prepared.data, prepared.data])
    assert arguments["input_ids"].shape == (2, 5)
    assert arguments["input_ids"].dtype == torch.int64


def test_the_limit_is_the_least_that_is_stated() -> None:
    config = checkpoints.transformers.BertConfig(max_position_embeddings=40)
    roberta = checkpoints.transformers.RobertaConfig(max_position_embeddings=42, pad_token_id=1)
    unlimited = tokenizer()
    unlimited.model_max_length = 10**30

    assert token_limit(tokenizer(), checkpoints.transformers.BertConfig()) == 64
    assert token_limit(unlimited, config) == 40
    assert token_limit(unlimited, roberta) == 40  # the first two positions are taken
    assert token_limit(unlimited, checkpoints.transformers.T5Config()) == 512


def test_a_tokenizer_without_a_fast_form_gives_the_same() -> None:
    class Slow:
        def __init__(self, stock: Any) -> None:
            self._stock = stock

        def __getattr__(self, name: str) -> Any:
            return None if name == "backend_tokenizer" else getattr(self._stock, name)

        def __call__(self, *given: Any, **settings: Any) -> Any:
            return self._stock(*given, **settings)

    slow, fast = Texts(Slow(tokenizer()), 64), Texts(tokenizer(), 64)

    for text in (*SENTENCES, LONG):
        ours, wanted = (one.prepare(text, truncate=True).data for one in (slow, fast))
        assert all(np.array_equal(ours[name], wanted[name]) for name in wanted)
