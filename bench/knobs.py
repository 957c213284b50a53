"""What each setting does to speed: servers that differ in one of them, in rounds that take turns.

All run at once and all but one are asleep, so that each round of one lies seconds from the same round of the
default. Which settings there are to choose, and how, is in docs/performance.md; this shows what they do here.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.figures import Figure
from bench.inputs import Kind, pictures
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import ENVIRONMENT, Server
from bench.tree import Tree

__all__ = ["KNOBS", "Knob", "measure", "spec"]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MODELS = ("nsfw", "nanodet")
CALLERS = (1, 8, 32)
_MALLOC: Mapping[str, str | None] = {
    **{name: None for name in ENVIRONMENT if name.startswith("MALLOC")},
    # Else `opsin serve` starts itself anew with what is missing, and this were the default once more.
    "OPSIN_STARTED_TUNED": "1",
}


@dataclass(frozen=True, slots=True)
class Knob:
    """One difference from the default. model: its settings; settings: OPSIN_*; variables: others."""

    name: str
    model: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str | None] = field(default_factory=dict)


def _lanes(lanes: int, threads: int) -> Mapping[str, str]:
    return {"SCHEDULER__LANES": str(lanes), "SCHEDULER__LANE_THREADS": str(threads)}


KNOBS = (
    Knob("default"),
    Knob("malloc as glibc has it", variables=_MALLOC),
    Knob("OpenMP threads that spin", variables={"OMP_WAIT_POLICY": "ACTIVE"}),
    Knob(f"one lane of {CORES} threads", settings=_lanes(1, CORES)),
    # On one core that is the same.
    *([Knob(f"{CORES} lanes of one thread", settings=_lanes(CORES, 1))] if CORES > 1 else []),
    Knob("one thread to decode, prepare and finish", settings={"SCHEDULER__CPU_THREADS": "1"}),
    Knob("max_batch=1", model="max_batch=1"),
    Knob("runtime=eager", model="runtime=eager"),
    Knob("runtime=channels_last", model="runtime=channels_last,lane_kind=threads"),
    Knob("runtime=channels_last in processes", model="runtime=channels_last,lane_kind=processes"),
    Knob("dtype=bfloat16", model="dtype=bfloat16"),
)


def measure(scale: Scale) -> list[Figure]:
    """About twenty minutes."""
    figures = []
    with pictures() as paths:
        for model in MODELS:
            figures += _model(model, paths, scale)
    return figures


def _model(model: str, paths: tuple[str, ...], scale: Scale) -> list[Figure]:
    with ExitStack() as stack:
        running: dict[str, tuple[Server, Tree]] = {}
        for knob in KNOBS:
            scale.say(f"{model}, {knob.name}")
            server = Server(spec(model, knob), settings=knob.settings, variables=knob.variables)
            stack.enter_context(server)
            tree = Tree(server.pid)
            # Contexts end in the reverse order: awake before it is asked to end.
            stack.callback(tree.wake)
            tree.sleep()
            running[knob.name] = server, tree
        return [figure for callers in CALLERS for figure in _turns(model, running, callers, paths, scale)]


def spec(model: str, knob: Knob) -> str:
    """As for `--model`."""
    return f"{model}={model},{knob.model}" if knob.model else model


def _turns(
    model: str,
    running: Mapping[str, tuple[Server, Tree]],
    callers: int,
    paths: tuple[str, ...],
    scale: Scale,
) -> list[Figure]:
    scale.say(f"{model}, {callers} callers")
    rates: dict[str, list[float]] = {name: [] for name in running}
    names = list(running)
    for number in range(scale.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            server, tree = running[name]
            load = Load(server.target, model, Kind(paths), scale.seconds(5), callers, warmup=0.7, seed=number)
            with tree.awake():
                heard = drive(load)
            rates[name].append(sum(sample.answered for sample in heard.samples) / heard.seconds)
    default = rates["default"]
    return [
        Figure(
            f"{model}, {callers} callers: {name} over the default",
            [one / two for one, two in zip(rates[name], default, strict=True)],
            "",
            None,
            {"rates": rates[name], "default_rates": default},
        )
        for name in names
        if name != "default"
    ]
