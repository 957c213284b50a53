"""Reading a flag rule: which classes make an answer `flagged`, and from which sum of their scores.

    porn+hentai>=0.7

Knows no model; the server applies the rule.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from opsin_detectors.api import FlagRule, LoadError

__all__ = ["parse_flag"]


def parse_flag(text: str, classes: Sequence[str]) -> FlagRule | None:
    """The rule written as `class+class>=threshold`; None for an empty text.

    Raises LoadError when it is not written so, a class is not among `classes`, or the threshold is not in
    0..1.
    """
    if not text.strip():
        return None
    names, mark, limit = text.partition(">=")
    wanted = tuple(name.strip() for name in names.split("+"))
    if not mark or not all(wanted):
        raise LoadError(f"flag has to look like porn+hentai>=0.7, not “{text}”")
    for name in wanted:
        if name not in classes:
            near = ", ".join(get_close_matches(name, classes, n=1) or classes[:10])
            raise LoadError(f"flag names the class “{name}”, which the model does not have; it has {near}")
    return FlagRule(wanted, _threshold(limit, text))


def _threshold(limit: str, text: str) -> float:
    try:
        value = float(limit)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise LoadError(f"the threshold in flag has to be from 0 to 1, not “{limit.strip()}” (“{text}”)")
    return value
