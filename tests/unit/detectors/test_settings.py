"""A wrong setting is refused with its name and what would be right."""

import pytest

from opsin_detectors.api import FlagRule, LoadContext, LoadError
from opsin_detectors.flags import parse_flag
from opsin_detectors.settings import Settings


def settings(**values: str) -> Settings:
    return Settings(LoadContext("m", settings=values))


def test_values_are_read_with_their_types_and_defaults() -> None:
    read = settings(a=" 2.5 ", b="Yes", c=" x ")

    assert read.number("a", 0.0) == 2.5
    assert read.number("missing", 7.0) == 7.0
    assert read.switch("b") is True
    assert read.switch("absent", True) is True
    assert read.text("c") == "x"
    read.done()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("abc", "has to be a number"),
        ("nan", "from 0 to 1"),
        ("inf", "from 0 to 1"),
        ("-0.1", "from 0 to 1, not -0.1"),
        ("1.1", "from 0 to 1"),
    ],
)
def test_a_number_out_of_range_is_refused(value: str, said: str) -> None:
    with pytest.raises(LoadError, match="setting “k” of model “m”") as raised:
        settings(k=value).number("k", 0.5, least=0.0, most=1.0)

    assert said in str(raised.value)


def test_a_switch_that_is_neither_is_refused() -> None:
    with pytest.raises(LoadError, match="true or false, not “maybe”"):
        settings(k="maybe").switch("k")


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    read = settings(delay="1")
    read.number("delay_ms", 0.0)

    with pytest.raises(LoadError, match="no setting “delay”; did you mean “delay_ms”"):
        read.done()


def test_a_flag_rule_is_read() -> None:
    assert parse_flag("b + c >= 0.7", ("a", "b", "c")) == FlagRule(("b", "c"), 0.7)
    assert parse_flag("  ", ("a",)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "has to look like"),
        ("a+>=0.5", "has to look like"),
        (">=0.5", "has to look like"),
        ("pron>=0.5", "which the model does not have; it has porn"),
        ("a>=1.5", "from 0 to 1, not “1.5”"),
        ("a>=x", "from 0 to 1, not “x”"),
        ("a>=nan", "from 0 to 1"),
    ],
)
def test_a_wrong_flag_rule_is_refused(text: str, said: str) -> None:
    with pytest.raises(LoadError) as raised:
        parse_flag(text, ("a", "porn"))

    assert said in str(raised.value)
