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

import torch

from opsin_detectors.api import Input, LoadContext, LoadError, Options, Output, TextInput, Trial
from opsin_detectors.device_memory import memory_of
from opsin_detectors.execution import trying
from opsin_detectors.execution.contest import Race, race
from opsin_detectors.execution.exported import Exported
from opsin_detectors.execution.graphs import GraphProgram
from opsin_detectors.execution.guard import difference, proves
from opsin_detectors.execution.hardware import here
from opsin_detectors.execution.int8 import Int8
from opsin_detectors.execution.kinds import KINDS, Kinds
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
from opsin_detectors.execution.views import pictures
from opsin_detectors.tensors import bytes_of

__all__ = ["SIZES", "Measure", "decide"]

log = logging.getLogger(__name__)

SIZES = (1, 4)
"""Batch sizes that are measured: one caller's, and one at which CPU models have their best throughput."""
_FAINT = 0.05
"""The score that things are found from where nothing scores as high as the detector asks for by default."""
_MEMORY = 0.5
"""The part of the free memory that all ways together, each with weights of its own, may take."""
_GPU_ONLY = ("compile", "cuda_graphs")
_GRAPHS = ("openvino", "onnxruntime")
_VERSIONS = ("opsin", "torch", "transformers", "openvino", "onnxruntime", "onnxruntime-gpu", "nncf")
_SENTENCES = (
    "A man is eating food.",
    "The server answers every frame exactly once, and says so when it could not.",
    "What a lovely day!",
    "this was the worst film I have seen in years",
)

Measure = Callable[..., dict[Plan, dict[int, float]]]


def decide(
    detector: Runnable,
    network: Network,
    context: LoadContext,
    *,
    timed: Measure = measure,
    raced: Race = race,
) -> None:
    """Set `detector.program`, and say in its `info` what it is. Raises LoadError for what cannot be done.

    The detector is otherwise ready to be used, its `info` stating what holds whatever way is taken. Nobody
    else may hold on to the network's body.
    """
    _Decision(detector, network, context, timed, Kinds(network, context, timed=raced)).make()


class _Decision:
    def __init__(
        self, detector: Runnable, network: Network, context: LoadContext, timed: Measure, kinds: Kinds
    ) -> None:
        self._detector = detector
        self._network = network
        self._context = context
        self._timed = timed
        self._kinds = kinds
        self._rest = detector.info.memory_bytes
        """What the detector holds beside the network."""

    def make(self) -> None:
        self._known("dtype", self._context.dtype, ("auto", *DTYPES))
        self._known("runtime", self._context.runtime, ("auto", *RUNTIMES))
        self._known("lane_kind", self._context.lane_kind, KINDS)
        plan = told(self._context.runtime, self._context.dtype)
        if plan is not None:
            self._check(plan)
        self._kinds.check(plan)
        by_torch = plan is not None and plan.dtype != "int8" and plan.runtime not in _GRAPHS
        if plan is not None and by_torch and not self._kinds.open(plan):
            self._take(*self._kinds.settled(Choice(plan), torch_program(self._network, plan, own=True), None))
            return
        hardware = here(self._context.device)
        store = Store(self._context.cache, self._key(hardware), most=self._context.cache_bytes)
        self._graph = Exported(self._network, self._context, store)
        with width(self._context.threads), stream(self._context.device):
            self._decide(plan, hardware, store)
        store.tidy()

    def _decide(self, plan: Plan | None, hardware: Hardware, store: Store) -> None:
        if plan is None:
            choice, program = self._again(store) or self._measured(hardware, store)
        elif plan.dtype == "int8":
            choice, program = Int8(self._detector, self._network, self._context, self._graph, store).program()
        else:
            kept = store.read() if self._kinds.open(plan) else None
            choice, program = kept or Choice(plan), self._built(plan)
        self._take(*self._kinds.settled(choice, program, store))

    def _take(self, choice: Choice, program: Program) -> None:
        self._keep(program, choice.plan)
        self._detector.program = program
        self._detector.info = dataclasses.replace(
            self._detector.info,
            dtype=choice.plan.dtype,
            runtime=choice.plan.runtime,
            memory_bytes=self._rest + program.memory_bytes,
            trials=choice.trials,
            lane_kind=choice.lane_kind,
        )

    def _keep(self, program: Program, plan: Plan) -> None:
        """Take what an earlier start compiled of it, and keep what is compiled."""
        if isinstance(program, GraphProgram):
            self._graph.keep(program, plan)

    def _known(self, what: str, value: str, known: Sequence[str]) -> None:
        if value not in known:
            name = self._context.name
            raise LoadError(f"{what} of model “{name}” has to be one of {', '.join(known)}, not {value}")

    def _check(self, plan: Plan) -> None:
        if plan.runtime in _GPU_ONLY and self._context.device == "cpu":
            raise LoadError(
                f"runtime {plan.runtime} of model “{self._context.name}” needs a GPU; on a CPU take auto"
            )
        if (plan.runtime in _GRAPHS or plan.dtype == "int8") and self._context.device != "cpu":
            what = "dtype int8" if plan.dtype == "int8" else f"runtime {plan.runtime}"
            name, device = self._context.name, self._context.device
            raise LoadError(
                f"model “{name}”: {what} runs it on the CPU only, not on {device}; "
                "take runtime=auto there, with dtype=auto, or dtype=bfloat16 or float16, or set device=cpu"
            )

    def _key(self, hardware: Hardware) -> str:
        return key_of(
            {
                "network": digest(self._network),
                "settings": dict(self._context.settings),
                "wanted": [self._context.runtime, self._context.dtype],
                "hardware": [hardware.device, hardware.name, hardware.bf16, hardware.fp16, hardware.cores],
                "threads": self._context.threads,
                "processes": self._context.lane_kind == "processes",
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
        """What an earlier start chose, if it can be built and run still."""
        choice = store.read()
        if choice is None:
            return None
        try:
            program = self._built(choice.plan)
            self._keep(program, choice.plan)
            trying.once(self._detector, program)  # some ways find out only then, as compiling does
            return choice, program
        except Exception as error:
            log.warning("an earlier choice for %s no longer works: %s", self._context.name, error)
            return None

    # -- measuring ---------------------------------------------------------------------------------------

    def _measured(self, hardware: Hardware, store: Store) -> tuple[Choice, Program]:
        inputs = self._inputs()
        if not inputs:  # nothing can be proved
            return Choice(BASELINE), self._built(BASELINE)
        exportable = self._network.picture is not None and self._context.lane_kind != "processes"
        plans = candidates(hardware, exportable=exportable)
        needed = bytes_of(self._network.body) * len(plans)
        free = memory_of(self._context.device).free
        if free and needed > _MEMORY * free:
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
        reference, options = self._reference(programs[BASELINE], inputs)
        if not proves(reference, options.min_score):
            verdicts.update(dict.fromkeys(quicker, "there is no answer to any picture to prove it with"))
            return BASELINE
        for plan in quicker:
            try:
                answers = trying.answers_by(self._detector, programs[plan], inputs, options)
                why = difference(reference, answers, options.min_score)
            except Exception as error:
                why = _told(error)
            if not why:
                return plan
            verdicts[plan] = f"other answers: {why}"
        return BASELINE

    def _reference(self, baseline: Program, inputs: Sequence[Input]) -> tuple[list[Output], Options]:
        """What the baseline answers, asked for faint things too where there are no others."""
        options = self._detector.info.defaults
        found = trying.answers_by(self._detector, baseline, inputs, options)
        if proves(found, options.min_score):
            return found, options
        faint = dataclasses.replace(options, min_score=min(_FAINT, options.min_score))
        return trying.answers_by(self._detector, baseline, inputs, faint), faint


def _told(error: Exception) -> str:
    """An error in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
