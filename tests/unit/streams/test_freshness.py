"""Ages without a common clock, and an even choice of frames."""

import math
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from opsin_server.errors import Failure, Reason
from opsin_server.streams.freshness import AgeClock, Freshness, FreshnessMode, Sampler

SECOND = 1_000_000_000


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize(
    ("mode", "name"), [(FreshnessMode.MAX_AGE, "max_age"), (FreshnessMode.TARGET_FPS, "target_fps")]
)
def test_a_mode_without_the_value_it_needs_is_refused(mode: FreshnessMode, name: str, value: float) -> None:
    with pytest.raises(Failure) as caught:
        Freshness(mode, **{name: value}).check()
    assert caught.value.reason is Reason.OPTION_INVALID
    assert caught.value.field == f"freshness.{name}"


def test_values_that_a_mode_does_not_need_are_not_looked_at() -> None:
    Freshness(FreshnessMode.LATEST, max_age=math.nan, target_fps=-1).check()


# Age.


def test_the_quickest_frame_has_no_age_and_the_others_what_they_took_longer() -> None:
    clock = AgeClock()
    assert clock.arrived(1000.0, 0) == 0.0
    assert clock.arrived(1000.3, SECOND // 10) == pytest.approx(0.2)
    assert clock.arrived(1000.35, SECOND // 2) == 0.0, "a quicker one sets the measure"


def test_age_needs_no_capture_time() -> None:
    assert AgeClock().arrived(5.0, None) == 0.0


@pytest.mark.parametrize("offset", [-(10**9), 0, 1_700_000_000])
def test_ages_do_not_depend_on_what_the_clients_clock_says(offset: int) -> None:
    clock = AgeClock()
    clock.arrived(10.0, offset * SECOND)
    assert clock.arrived(10.5, offset * SECOND) == pytest.approx(0.5, abs=1e-5)


def test_a_clock_that_drifts_does_not_make_frames_old() -> None:
    """0.1 % slow: after an hour it is 3.6 s off, of which a minute's worth may show."""
    clock = AgeClock()
    ages = [clock.arrived(float(t), int(t * 0.999 * SECOND)) for t in range(3600)]
    assert max(ages) <= 0.0611


@given(st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 1)), min_size=1, max_size=200))
def test_age_is_measured_against_the_quickest_of_the_last_minute(steps: list[tuple[float, float]]) -> None:
    clock, now, seen = AgeClock(), 50.0, []
    for gap, travel in steps:
        now += gap * 20
        seen.append((now, travel))
        late = clock.arrived(now, round((now - travel) * SECOND))
        least = min(t for when, t in seen if when > now - 60)
        least_of_61 = min(t for when, t in seen if when > now - 61)
        assert travel - least - 1e-6 <= late <= travel - least_of_61 + 1e-6


def test_ages_take_no_memory_of_each_frame() -> None:
    clock = AgeClock()
    for number in range(100_000):
        clock.arrived(number / 1000, -number * 10)
    assert len(clock._quickest) <= 62


# Choosing frames.


def kept(fps: float, times: list[float]) -> list[int]:
    sampler = Sampler(fps)
    return [i for i, t in enumerate(times) if sampler.keeps(0.0, round(t * SECOND))]


def test_a_camera_that_runs_at_the_target_loses_no_frame_to_jitter() -> None:
    noise = random.Random(1)
    times = [i / 30 + noise.uniform(-0.008, 0.008) for i in range(3000)]
    assert len(kept(30, times)) >= 2990


@pytest.mark.parametrize(
    ("source", "target"), [(30, 10), (30, 7), (25, 12.5), (60, 1), (29.97, 15), (120, 33)]
)
def test_the_rate_holds_over_an_hour_without_drift(source: float, target: float) -> None:
    times = [i / source for i in range(int(3600 * source))]
    chosen = kept(target, times)
    assert len(chosen) == pytest.approx(3600 * target, abs=2)
    for position in (len(chosen) // 2, len(chosen) - 1):
        assert times[chosen[position]] == pytest.approx(position / target, abs=0.51 / source)


def test_a_source_slower_than_the_target_is_kept_whole() -> None:
    assert kept(30, [i / 10 for i in range(100)]) == list(range(100))


@given(st.lists(st.floats(0, 0.5), max_size=300), st.floats(0.5, 60))
def test_there_are_never_more_than_the_rate_allows(gaps: list[float], fps: float) -> None:
    times = [sum(gaps[:i]) for i in range(len(gaps))]
    chosen = kept(fps, times)
    if chosen:
        assert chosen[0] == 0
        assert len(chosen) <= (times[chosen[-1]] - times[0]) * fps + 2


def test_a_clock_put_back_by_an_hour_does_not_stop_the_stream() -> None:
    times = [*(i / 30 for i in range(300)), *(i / 30 - 3600 for i in range(300))]
    chosen = kept(10, times)
    assert len([i for i in chosen if i >= 300]) == 100


def test_frames_without_capture_time_are_placed_by_arrival() -> None:
    sampler = Sampler(10)
    chosen = [i for i in range(60) if sampler.keeps(1000 + i / 30, None)]
    assert chosen == list(range(0, 60, 3))
    mixed = Sampler(10)
    chosen = [i for i in range(60) if mixed.keeps(1000 + i / 30, None if i % 2 else i * SECOND // 30)]
    assert chosen == list(range(0, 60, 3))


@pytest.mark.parametrize("fps", [1e300, math.inf, 5e-324])
def test_absurd_rates_do_no_harm(fps: float) -> None:
    chosen = kept(fps, [i / 30 for i in range(100)])
    assert chosen == ([0] if fps < 1 else list(range(100)))
