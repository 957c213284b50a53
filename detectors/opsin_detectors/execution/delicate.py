"""Which layers of a graph stand int8 badly, so that the rest may be quantised without them. Pure.

The first layer sees the pixels and the last ones make the scores: an error there is an error of the answer.
Depthwise convolutions have a range for each channel that one scale for all cannot hold, and cost next to
nothing as they are. Graphs come as plain nodes, whatever library read them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Layer", "delicate"]


@dataclass(frozen=True, slots=True)
class Layer:
    """An operation. weighted: a convolution or a matrix product. feeds: the names of those that read it."""

    name: str
    weighted: bool = False
    depthwise: bool = False
    feeds: tuple[str, ...] = ()


def delicate(layers: Sequence[Layer], early: float = 0.0) -> list[str]:
    """Names of the delicate ones among the weighted layers. layers: each before those that it feeds.

    early: the share of the weighted layers, from the first on, that count as delicate as well.
    """
    weighted = [layer for layer in layers if layer.weighted]
    last = _last(layers) | {layer.name for layer in weighted[: round(early * len(weighted))]}
    return [layer.name for layer in weighted if layer is weighted[0] or layer.depthwise or layer.name in last]


def _last(layers: Sequence[Layer]) -> set[str]:
    """The weighted layers from which no other one is reached."""
    leads: set[str] = set()  # reach a weighted layer, or are one
    last = set()
    for layer in reversed(layers):
        onwards = any(name in leads for name in layer.feeds)
        if layer.weighted and not onwards:
            last.add(layer.name)
        if layer.weighted or onwards:
            leads.add(layer.name)
    return last
