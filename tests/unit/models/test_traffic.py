"""How calls fall to versions: in the shares asked for, and where they fell before."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin_server.models.traffic import Choice, draw, lead, stick, wanted

WEIGHTS = st.dictionaries(st.integers(1, 50), st.integers(1, 1000), min_size=1, max_size=6)
KEYS = [f"user-{n}" for n in range(4000)]


def within(count: int, of: int, share: float) -> bool:
    """Whether a count is what a share makes likely: one wrong alarm in a billion, by Bernstein's inequality.

    Counts of what is rare are not normal, so no number of sigmas would do.
    """
    luck = math.log(2e9)
    bound = luck / 3 + math.sqrt(luck**2 / 9 + 2 * luck * of * share * (1 - share))
    return abs(count - of * share) <= bound


@given(WEIGHTS, st.integers(0, 2**32))
def test_draws_fall_in_the_shares_of_the_weights(weights: dict[int, int], seed: int) -> None:
    chance = random.Random(seed)
    fell = [draw(weights, chance.random()) for _ in range(2000)]
    for version, weight in weights.items():
        assert within(fell.count(version), len(fell), weight / sum(weights.values()))


@pytest.mark.parametrize("chance", [0.0, 0.5, math.nextafter(1.0, 0.0), 1.0])
def test_every_chance_falls_to_some_version(chance: float) -> None:
    assert draw({1: 1, 2: 10**9, 3: 1}, chance) in {1, 2, 3}


@pytest.mark.parametrize("weights", [{1: 1, 2: 1}, {1: 95, 2: 5}, {1: 1, 2: 2, 3: 7}])
def test_keys_fall_in_the_shares_of_the_weights(weights: dict[int, int]) -> None:
    fell = [stick(weights, "m", key) for key in KEYS]
    for version, weight in weights.items():
        assert within(fell.count(version), len(fell), weight / sum(weights.values()))


def test_the_longest_name_that_a_model_may_have_splits_as_any_other() -> None:
    weights = {1: 1, 2: 1}
    fell = [stick(weights, "m" * 64, key) for key in KEYS]
    assert within(fell.count(1), len(fell), 0.5)


@given(WEIGHTS, st.text(max_size=20))
def test_a_key_sticks_whatever_the_order_of_the_versions(weights: dict[int, int], key: str) -> None:
    turned = dict(reversed(weights.items()))
    assert stick(weights, "m", key) == stick(turned, "m", key)


@given(WEIGHTS.filter(lambda w: len(w) > 1), st.integers(1, 1000), st.data())
def test_changing_one_weight_moves_keys_only_from_or_to_that_version(
    weights: dict[int, int], weight: int, data: st.DataObject
) -> None:
    changed = data.draw(st.sampled_from(sorted(weights)))
    after = {**weights, changed: weight}
    for key in KEYS[:100]:
        one, other = stick(weights, "m", key), stick(after, "m", key)
        assert one == other or changed in (one, other)


def test_a_canary_that_grows_takes_keys_and_gives_none_back() -> None:
    shares = [{1: 100 - canary, 2: canary} for canary in (5, 20, 50)]
    on_canary = [{key for key in KEYS if stick(weights, "m", key) == 2} for weights in shares]
    assert on_canary[0] < on_canary[1] < on_canary[2]


def test_two_models_with_the_same_weights_split_keys_differently() -> None:
    apart = sum(stick({1: 1, 2: 1}, "a", key) != stick({1: 1, 2: 1}, "b", key) for key in KEYS)
    assert within(apart, len(KEYS), 0.5)


@pytest.mark.parametrize(
    ("choices", "leads"),
    [
        ([Choice(1, 9), Choice(2, 1)], {1: 9, 2: 1}),
        ([Choice(1, 9), Choice(2, 0)], {1: 9}),
        ([Choice(1, 9), Choice(2, 1, serves=False)], {1: 9}),  # it loads, or drains
        ([Choice(1, 9, serves=False), Choice(2, 0), Choice(3, 0)], {3: 1}),
        ([Choice(1, 9, serves=False)], {}),
        ([], {}),
    ],
)
def test_a_bare_name_leads_to_those_that_serve(choices: list[Choice], leads: dict[int, int]) -> None:
    assert lead(tuple(choices)) == leads


def test_a_version_and_a_label_lead_to_one_version_and_a_name_to_all_with_a_weight() -> None:
    choices = (Choice(1, 9, labels=("stable",)), Choice(2, 1, labels=("canary",)), Choice(3, 0))
    assert wanted("m").leads_to(choices) == {1, 2}
    assert wanted("m@canary").leads_to(choices) == {2}
    assert wanted("m@3").leads_to(choices) == {3}
    assert wanted("m@gone").leads_to(choices) == frozenset()
