"""Layers that stand int8 badly: the first, the last, and those with a range for each channel."""

from opsin_detectors.execution.delicate import Layer, delicate


def chain(*layers: tuple[str, bool, bool]) -> list[Layer]:
    names = [name for name, _, _ in layers]
    return [
        Layer(name, weighted, depthwise, tuple(names[at + 1 : at + 2]))
        for at, (name, weighted, depthwise) in enumerate(layers)
    ]


def test_the_first_and_the_last_are_delicate_and_what_is_between_is_not() -> None:
    network = chain(
        ("pixels", False, False), ("stem", True, False), ("mid", True, False), ("head", True, False)
    )
    assert delicate(network) == ["stem", "head"]


def test_depthwise_layers_are_delicate() -> None:
    network = chain(("stem", True, False), ("deep", True, True), ("wide", True, False), ("head", True, False))
    assert delicate(network) == ["stem", "deep", "head"]


def test_every_head_is_a_last_layer_whatever_follows_without_weights() -> None:
    network = [
        Layer("stem", True, feeds=("body",)),
        Layer("body", True, feeds=("boxes", "scores")),
        Layer("boxes", True, feeds=("join",)),
        Layer("scores", True, feeds=("join",)),
        Layer("join"),
    ]
    assert delicate(network) == ["stem", "boxes", "scores"]


def test_a_network_without_weights_has_none() -> None:
    assert delicate([Layer("a", feeds=("b",)), Layer("b")]) == []
    assert delicate([]) == []
