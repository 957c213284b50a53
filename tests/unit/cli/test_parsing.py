"""Values on the command line mean what they say, and a wrong one is refused with what would be right."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from opsin.cli.parsing import (
    parse_duration,
    parse_freshness,
    parse_names,
    parse_rate,
    parse_region,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("1.5s", 1.5), ("10", 10.0), ("2m", 120.0), ("50 us", 5e-5), ("1H", 3600.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0s", "-1s", "ms", "1.2.3s", "5 parsecs", "nan", "inf"])
def test_a_duration_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="such as 200ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("latest", "latest"),
        ("every-frame", "every_frame"),
        ("EVERY_FRAME", "every_frame"),
        ("max-age=200ms", "max_age=0.2"),
        ("fps=5", "target_fps=5"),
        ("target-fps=2.5", "target_fps=2.5"),
    ],
)
def test_freshness(text: str, rule: str) -> None:
    assert parse_freshness(text) == rule


@pytest.mark.parametrize(
    "text", ["", "newest", "latest=1", "max-age", "fps=0", "fps=-3", "fps=nan", "fps=fast"]
)
def test_a_freshness_that_is_none_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="every-frame, latest"):
        parse_freshness(text)


@pytest.mark.parametrize(
    ("text", "rate"), [(None, None), ("max", "max"), ("realtime", "realtime"), ("12.5", 12.5)]
)
def test_rates(text: str | None, rate: str | float | None) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "-1", "quick", "inf"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="max, realtime"):
        parse_rate(text)


@given(*[st.floats(allow_nan=True, allow_infinity=True)] * 4)
def test_a_region_is_accepted_exactly_when_it_is_a_box_within_the_picture(
    x1: float, y1: float, x2: float, y2: float
) -> None:
    text = f"{x1!r},{y1!r},{x2!r},{y2!r}"
    if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1:
        assert parse_region(text) == (x1, y1, x2, y2)
    else:
        with pytest.raises(typer.BadParameter):
            parse_region(text)


@pytest.mark.parametrize("text", ["", "0,0,1", "0,0,1,1,1", "a,b,c,d"])
def test_a_region_that_is_not_four_numbers_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="x1,y1,x2,y2"):
        parse_region(text)


def test_names_may_be_repeated_or_separated_by_commas() -> None:
    assert parse_names(["person, cat", "dog", ""]) == ("person", "cat", "dog")


@pytest.mark.parametrize(
    ("text", "size"),
    [("640x480", (640, 480)), ("1kB", 1000), ("2KiB", 2048), ("500B", 500), ("12", 12), ("1.5MB", 1_500_000)],
)
def test_sizes_are_pixels_or_bytes(text: str, size: int | tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0x10", "big", "10x", "0B", "-5kB"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="such as"):
        parse_size(text)
