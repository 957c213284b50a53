"""Which version of a model answers a call: weights, sticky keys, labels. Pure.

A call that brings no routing key goes by a draw. One that does goes by weighted rendezvous hashing: each
version gets the score -weight / ln(u), u in 0..1 from a hash of key and version, and the highest wins. So
each version gets its share of the keys, a key stays where it is, and when one weight changes no key moves
between two versions whose weights did not. (Schindelhauer and Schomaker, "Weighted distributed hash tables",
2005.)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

__all__ = ["Choice", "Wanted", "draw", "lead", "stick", "wanted"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One version, as far as traffic goes. serves: it answers calls. labels: those that lead to it."""

    version: int
    weight: int
    serves: bool = True
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks for: a name alone, or with a version or a label behind the “@”."""

    name: str
    kind: Literal["traffic", "tag"]
    tag: str = ""

    def leads_to(self, choices: tuple[Choice, ...]) -> frozenset[int]:
        """Every version that calls written like this may reach."""
        if self.kind == "tag":
            return frozenset(c.version for c in choices if self.names(c))
        return frozenset(lead(choices))

    def names(self, choice: Choice) -> bool:
        """Whether its tag is this version's number, or one of its labels."""
        return self.tag == str(choice.version) or self.tag in choice.labels


def wanted(asked: str) -> Wanted:
    """`name`, `name@3` or `name@label`, taken apart."""
    name, marked, tag = asked.partition("@")
    return Wanted(name, "tag" if marked else "traffic", tag)


def lead(choices: tuple[Choice, ...]) -> dict[int, int]:
    """The versions that a bare name leads to now, and their weights; empty when none serves.

    Weights count among the versions that serve: one that loads or drains gets nothing until it serves, and
    the others its share. When nothing that serves has a weight, the newest that serves gets everything.
    """
    serving = [c for c in choices if c.serves]
    weighted = {c.version: c.weight for c in serving if c.weight > 0}
    if weighted or not serving:
        return weighted
    return {max(c.version for c in serving): 1}


def draw(weights: Mapping[int, int], chance: float) -> int:
    """The version that `chance`, evenly in 0..1, falls to. `weights` must not be empty."""
    left = chance * sum(weights.values())
    for version, weight in weights.items():
        left -= weight
        if left < 0:
            return version
    return next(reversed(weights))  # chance was 1, or rounding


def stick(weights: Mapping[int, int], name: str, routing_key: str) -> int:
    """The version that a routing key sticks to. `weights` must not be empty; all are above 0."""
    return max(weights, key=lambda version: (_score(weights[version], name, version, routing_key), version))


def _score(weight: int, name: str, version: int, routing_key: str) -> float:
    spelled = f"{name}@{version}\0{routing_key}"  # no name holds a zero
    digest = blake2b(spelled.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    unit = (int.from_bytes(digest, "little") + 0.5) / 2**64
    # The highest hash rounds to 1, whose logarithm is 0.
    return weight / -math.log(min(unit, 1 - 2**-53))
