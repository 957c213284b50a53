"""Choosing how a detector's network is run, in order: settings, an earlier choice, measuring, proof.

What was told is obeyed and nothing is measured. Else an earlier start's choice on this kind of machine holds.
Else every way that the hardware offers is built and timed in turn with the baseline, and the fastest that
gives the same answers on the shipped pictures is taken: the baseline itself when there is none.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from opsin_detectors.api import Input, LoadContext, LoadError, Output, TextInput, Trial
from opsin_detectors.execution import graphs, quantize, trying
from opsin_detectors.execution.exported import GRAPH, Exported, there, writing
from opsin_detectors.execution.guard import agreement, difference
from opsin_detectors.execution.hardware import free, here
from opsin_detectors.execution.lane import stream, width
from opsin_detectors.execution.measure import measure
from opsin_detectors.execution.network import Network, Program, Runnable, digest
from opsin_detectors.execution.plan import (
    BASELINE,
    DTYPES,
    RUNTIMES,
    Hardware,
    Plan,
    candidates,
    faster,
    told,
)
from opsin_detectors.execution.programs import torch_program
from opsin_detectors.execution.store import Choice, Store, key_of
from opsin_detectors.execution.views import pictures, views
from opsin_detectors.tensors import bytes_of

__all__ = ["LEAST_AGREEMENT", "SIZES", "Measure", "decide"]

log = logging.getLogger(__name__)

SIZES = (1, 4)
"""Batch sizes that are measured: one caller's, and one at which CPU models have their best throughput."""
_SPARED = (None, 0.0, 0.4)
"""What int8 leaves as it is, tried in this order: nothing, delicate layers, these and the first of all."""
LEAST_AGREEMENT = 0.98
"""int8 is refused below this share of views with the answer that they had."""
_MEMORY = 0.5
"""The part of the free memory that all ways together, each with weights of its own, may take."""
_GPU_ONLY = ("compile", "cuda_graphs")
_GRAPHS = ("openvino", "onnxruntime")
_VERSIONS = ("opsin", "torch", "transformers", "openvino", "onnxruntime", "nncf")
_SENTENCES = (
    "A man is eating food.",
    "The server answers every frame exactly once, and says so when it could not.",
    "What a lovely day!",
    "this was the worst film I have seen in years",
)

Measure = Callable[..., dict[Plan, dict[int, float]]]


def decide(detector: Runnable, network: Network, context: LoadContext, *, timed: Measure = measure) -> None:
    """Set `detector.program`, and say in its `info` what it is. Raises LoadError for what cannot be done.

    The detector is otherwise ready to be used, its `info` stating what holds whatever way is taken. Nobody
    else may hold on to the network's body.
    """
    _Decision(detector, network, context, timed).make()


class _Decision:
    def __init__(self, detector: Runnable, network: Network, context: LoadContext, timed: Measure) -> None:
        self._detector = detector
        self._network = network
        self._context = context
        self._timed = timed
        self._rest = detector.info.memory_bytes
        """What the detector holds beside the network."""
        self._reference: list[Output] = []
        """What float32 answers to the views that int8 is checked with."""

    def make(self) -> None:
        self._known("dtype", self._context.dtype, ("auto", *DTYPES))
        self._known("runtime", self._context.runtime, ("auto", *RUNTIMES))
        plan = told(self._context.runtime, self._context.dtype)
        if plan is not None and plan.dtype != "int8" and plan.runtime not in _GRAPHS:
            self._check(plan)
            self._take(Choice(plan), torch_program(self._network, plan, own=True))
            return
        hardware = here(self._context.device)
        store = Store(self._context.cache, self._key(hardware))
        self._graph = Exported(self._network, self._context, store)
        with width(self._context.threads), stream(self._context.device):
            self._decide(plan, hardware, store)

    def _decide(self, plan: Plan | None, hardware: Hardware, store: Store) -> None:
        if plan is None:
            choice, program = self._again(store) or self._measured(hardware, store)
        elif plan.dtype == "int8":
            choice, program = self._quantized(plan, store)
        else:
            choice, program = Choice(plan), self._built(plan)
        self._take(choice, program)

    def _take(self, choice: Choice, program: Program) -> None:
        self._detector.program = program
        self._detector.info = dataclasses.replace(
            self._detector.info,
            dtype=choice.plan.dtype,
            runtime=choice.plan.runtime,
            memory_bytes=self._rest + program.memory_bytes,
            trials=choice.trials,
        )

    def _known(self, what: str, value: str, known: Sequence[str]) -> None:
        if value not in known:
            name = self._context.name
            raise LoadError(f"{what} of model “{name}” has to be one of {', '.join(known)}, not {value}")

    def _check(self, plan: Plan) -> None:
        if plan.runtime in _GPU_ONLY and self._context.device == "cpu":
            raise LoadError(
                f"runtime {plan.runtime} of model “{self._context.name}” needs a GPU; on a CPU take auto"
            )

    def _key(self, hardware: Hardware) -> str:
        return key_of(
            {
                "network": digest(self._network),
                "settings": dict(self._context.settings),
                "wanted": [self._context.runtime, self._context.dtype],
                "hardware": [hardware.device, hardware.name, hardware.bf16, hardware.fp16, hardware.cores],
                "threads": self._context.threads,
                "versions": {name: _version(name) for name in _VERSIONS},
            }
        )

    # -- building ----------------------------------------------------------------------------------------

    def _built(self, plan: Plan, *, own: bool = True) -> Program:
        """Raises LoadError."""
        self._check(plan)
        if plan.runtime in _GRAPHS:
            return self._graph.program(plan)
        return torch_program(self._network, plan, own=own)

    def _again(self, store: Store) -> tuple[Choice, Program] | None:
        """What an earlier start chose, if it can be built still."""
        choice = store.read()
        if choice is None:
            return None
        try:
            return choice, self._built(choice.plan)
        except Exception as error:
            log.warning("an earlier choice for %s no longer works: %s", self._context.name, error)
            return None

    # -- measuring ---------------------------------------------------------------------------------------

    def _measured(self, hardware: Hardware, store: Store) -> tuple[Choice, Program]:
        inputs = self._inputs()
        if not inputs:  # nothing can be proved
            return Choice(BASELINE), self._built(BASELINE)
        plans = candidates(hardware, exportable=self._network.picture is not None)
        needed = bytes_of(self._network.body) * len(plans)
        if needed > _MEMORY * free(self._context.device):
            log.warning("%s is not measured: all ways at once need %d bytes", self._context.name, needed)
            return Choice(BASELINE), self._built(BASELINE)
        programs: dict[Plan, Program] = {}
        verdicts: dict[Plan, str] = {}
        for plan in plans:
            try:
                programs[plan] = self._built(plan, own=False)
            except Exception as error:  # want of memory, too
                if plan == BASELINE:
                    raise
                verdicts[plan] = str(error) if isinstance(error, LoadError) else _told(error)
        times = self._timed(self._runs(programs, inputs, verdicts), SIZES)
        chosen = self._proven(programs, times, inputs, verdicts)
        verdicts[chosen] = "chosen"
        trials = tuple(
            Trial(plan.runtime, plan.dtype, tuple(times.get(plan, {}).items()), verdicts.get(plan, "slower"))
            for plan in plans
        )
        choice = Choice(chosen, trials)
        store.keep(choice)
        return choice, programs[chosen]

    def _inputs(self) -> Sequence[Input]:
        """Pictures, or sentences for a model that reads."""
        takes_text = all(task.value.endswith("_text") for task in self._detector.info.tasks)
        return [TextInput(one) for one in _SENTENCES] if takes_text else pictures()

    def _runs(
        self, programs: dict[Plan, Program], inputs: Sequence[Input], verdicts: dict[Plan, str]
    ) -> dict[Plan, Callable[[int], None]]:
        """How to run a batch of some size of one input in each way. Why one raises goes to `verdicts`."""
        ready = trying.prepared(self._detector, inputs[:1])

        @torch.inference_mode()
        def run(plan: Plan, size: int) -> None:
            try:
                programs[plan](trying.batch_of(self._detector, ready * size))
                if self._context.device != "cpu":
                    torch.cuda.synchronize(self._context.device)
            except Exception as error:
                verdicts[plan] = f"it cannot be run: {_told(error)}"
                raise

        return {plan: functools.partial(run, plan) for plan in programs}

    def _proven(
        self,
        programs: dict[Plan, Program],
        times: dict[Plan, dict[int, float]],
        inputs: Sequence[Input],
        verdicts: dict[Plan, str],
    ) -> Plan:
        """The fastest way that gives the same answers; why the others do not goes to `verdicts`."""
        quicker = faster(times)
        if not quicker:
            return BASELINE
        reference = self._answers(programs[BASELINE], inputs)
        least = self._detector.info.defaults.min_score
        for plan in quicker:
            try:
                why = difference(reference, self._answers(programs[plan], inputs), least)
            except Exception as error:
                why = _told(error)
            if not why:
                return plan
            verdicts[plan] = f"other answers: {why}"
        return BASELINE

    def _answers(self, program: Program, inputs: Sequence[Input]) -> list[Output]:
        self._detector.program = program
        return trying.answers(self._detector, inputs)

    # -- int8 --------------------------------------------------------------------------------------------

    def _quantized(self, plan: Plan, store: Store) -> tuple[Choice, Program]:
        runtime = quantize.runtime_for(self._context.runtime)
        name = f"int8-{runtime}{quantize.SUFFIX[runtime]}"
        plan = Plan(runtime, "int8")
        kept, path = store.read(), store.found(name)
        if kept is not None and kept.plan == plan and path is not None:
            try:
                return kept, self._int8_program(plan, path, store)
            except LoadError as error:
                log.warning("a graph of %s is made anew: %s", self._context.name, error)
        choice = Choice(plan, (Trial(runtime, "int8", (), self._proven_int8(plan, store, name)),))
        program = self._int8_program(plan, there(store, name), store)
        store.keep(choice)
        return choice, program

    def _proven_int8(self, plan: Plan, store: Store, name: str) -> str:
        """Write the least spared quantised network that agrees well enough; how well. Raises LoadError."""
        self._graph.program(Plan(plan.runtime))  # what is quantised can be read
        refusal = ""
        for spare in _SPARED:
            try:
                return self._int8(plan, store, name, spare)
            except _RefusedError as error:
                refusal = str(error)  # the error itself would hold the network by its traceback
        raise LoadError(refusal)

    def _int8(self, plan: Plan, store: Store, name: str, spare: float | None) -> str:
        """How well the quantised network agrees, which has its name only where that is enough.

        Raises _RefusedError.
        """
        with writing(store, name) as scratch:
            graph = there(store, GRAPH)
            quantize.quantize(plan.runtime, graph, scratch, self._calibration(), spare=spare)
            alike, compared = self._agreed(self._int8_program(plan, scratch, store))
            verdict = self._verdict(alike, compared)
        some = "" if spare is None else ", some layers left as they were"
        return f"chosen: {verdict}{some}"

    def _verdict(self, alike: int, compared: int) -> str:
        """Raises _RefusedError for what is not enough."""
        start = f"model “{self._context.name}” cannot be run in int8: "
        if not compared:
            raise _RefusedError(
                f"{start}in float32 it has no answer to any of the pictures that int8 is proved with; "
                "take dtype=auto"
            )
        share = f"{alike / compared:.1%} of {compared} views"
        if alike < LEAST_AGREEMENT * compared:
            raise _RefusedError(
                f"{start}its best label or vector is as in float32 on {share} of real pictures, and "
                f"{LEAST_AGREEMENT:.0%} are needed; take dtype=auto"
            )
        return f"best label or vector agrees on {share}"

    def _int8_program(self, plan: Plan, path: Path, store: Store) -> Program:
        bf16 = here(self._context.device).bf16
        return graphs.graph_program(path, plan, self._context, bf16=bf16, held=store.temporary)

    def _calibration(self) -> list[Any]:
        ready = trying.prepared(self._detector, views(checking=False))
        return [trying.batch_of(self._detector, [one]).numpy() for one in ready]

    def _agreed(self, program: Program) -> tuple[int, int]:
        """How many views are answered as in float32, and how many have an answer to compare."""
        looked = views(checking=True)
        if not self._reference:
            plain = torch_program(self._network, Plan("channels_last"), own=False)
            self._reference = self._answers(plain, looked)
        return agreement(self._reference, self._answers(program, looked))


class _RefusedError(Exception):
    """A quantised network does not answer as the whole one."""


def _told(error: Exception) -> str:
    """An error in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
