"""The age of a frame, without a common clock."""

from hypothesis import given
from hypothesis import strategies as st

from opsin_server.rpc.stream_age import MEMORY, Ages


def test_the_quickest_frame_is_the_measure_whatever_the_clocks_say() -> None:
    ages = Ages()
    assert ages.excess(captured=5000.0, arrived=100.0, now=0.0) == 0.0
    assert ages.excess(captured=5001.0, arrived=101.5, now=1.5) == 0.5
    assert ages.excess(captured=5002.0, arrived=101.75, now=1.75) == 0.0  # quicker: the new measure
    assert ages.excess(captured=5003.0, arrived=103.0, now=3.0) == 0.25


def test_the_measure_is_forgotten_after_a_minute_because_clocks_drift() -> None:
    ages = Ages()
    ages.excess(captured=0.0, arrived=0.0, now=0.0)
    assert ages.excess(captured=30.0, arrived=31.0, now=30.0) == 1.0
    assert ages.excess(captured=70.0, arrived=71.0, now=MEMORY + 2) == 0.0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=500))
def test_an_excess_is_never_negative_and_little_is_kept(frames: list[tuple[float, float]]) -> None:
    ages, now = Ages(), 0.0
    for gap, travel in frames:
        now += gap
        assert ages.excess(captured=now, arrived=now + travel, now=now) >= 0.0
        assert len(ages._minima) <= MEMORY + 2
