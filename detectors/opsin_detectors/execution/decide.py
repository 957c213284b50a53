"""Choosing how a detector's network is run, in order: settings, an earlier choice, measuring, proof.

What was told is obeyed and nothing is measured. Else an earlier start's choice on this kind of machine holds.
Else every way that the hardware offers is built and timed in turn with the baseline, and the fastest that
gives the same answers on the shipped pictures is taken: the baseline itself when there is none.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch

from opsin_detectors.api import Input, LoadContext, LoadError, Output, TextInput, Trial
from opsin_detectors.execution import graphs, quantize, trying
from opsin_detectors.execution.guard import agreement, difference
from opsin_detectors.execution.hardware import here
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

__all__ = ["LEAST_AGREEMENT", "SIZES", "Measure", "decide"]

log = logging.getLogger(__name__)

SIZES = (1, 4)
"""Batch sizes that are measured: one caller's, and one at which CPU models have their best throughput."""
_SLOW = 0.25
"""Seconds; a network that takes longer for one input is measured at one input only."""
_SPARED = (None, 0.0, 0.4)
"""What int8 leaves as it is, tried in this order: nothing, delicate layers, these and the first of all."""
LEAST_AGREEMENT = 0.98
"""int8 is refused below this share of views with the best label that they had."""
_GRAPH = "network.onnx"
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
        self._refusal = ""

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
        try:
            with _width(self._context.threads):
                self._decide(plan, hardware, store)
        finally:
            store.close()

    def _decide(self, plan: Plan | None, hardware: Hardware, store: Store) -> None:
        if plan is None:
            choice, program = self._again(store) or self._measured(hardware, store)
        elif plan.dtype == "int8":
            choice, program = self._quantized(plan, store)
        else:
            choice, program = Choice(plan), self._built(plan, store)
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
                "network": digest(self._network.body),
                "settings": dict(self._context.settings),
                "wanted": [self._context.runtime, self._context.dtype],
                "hardware": [hardware.device, hardware.name, hardware.bf16, hardware.fp16, hardware.cores],
                "threads": self._context.threads,
                "versions": {name: _version(name) for name in _VERSIONS},
            }
        )

    # -- building ----------------------------------------------------------------------------------------

    def _built(self, plan: Plan, store: Store, *, own: bool = True) -> Program:
        """Raises LoadError."""
        self._check(plan)
        if plan.runtime in _GRAPHS:
            return graphs.graph_program(self._exported(store), plan, self._context)
        return torch_program(self._network, plan, own=own)

    def _exported(self, store: Store) -> Any:
        path = store.path(_GRAPH)
        if not path.exists():
            with store.writing(_GRAPH) as scratch:
                graphs.export(self._network, scratch)
        return path

    def _again(self, store: Store) -> tuple[Choice, Program] | None:
        """What an earlier start chose, if it can be built still."""
        choice = store.read()
        if choice is None:
            return None
        try:
            return choice, self._built(choice.plan, store)
        except LoadError as error:
            log.warning("an earlier choice for %s no longer works: %s", self._context.name, error)
            return None

    # -- measuring ---------------------------------------------------------------------------------------

    def _measured(self, hardware: Hardware, store: Store) -> tuple[Choice, Program]:
        inputs = self._inputs()
        if not inputs:  # nothing can be proved
            return Choice(BASELINE), self._built(BASELINE, store)
        plans = candidates(hardware, exportable=self._network.picture is not None)
        programs: dict[Plan, Program] = {}
        verdicts: dict[Plan, str] = {}
        for plan in plans:
            try:
                programs[plan] = self._built(plan, store, own=False)
            except LoadError as error:
                verdicts[plan] = str(error)
        times = self._timed(self._runs(programs, inputs), SIZES)
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
        self, programs: dict[Plan, Program], inputs: Sequence[Input]
    ) -> dict[Plan, Callable[[int], None]]:
        """How to run a batch of some size of one input in each way."""
        ready = trying.prepared(self._detector, inputs[:1])

        def runner(program: Program) -> Callable[[int], None]:
            @torch.inference_mode()
            def run(size: int) -> None:
                program(trying.batch_of(self._detector, ready * size))
                if self._context.device != "cpu":
                    torch.cuda.synchronize(self._context.device)

            return run

        return {plan: runner(program) for plan, program in programs.items()}

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
                why = f"{type(error).__name__}: {error}"
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
        kept = store.read()
        if kept is not None and kept.plan == plan and store.has(name):
            return kept, self._int8_program(plan, store, name)
        for spare in _SPARED:
            verdict, program = self._int8(plan, store, name, spare)
            if verdict:
                break
        else:
            raise LoadError(self._refusal)
        choice = Choice(plan, (Trial(runtime, "int8", (), verdict),))
        store.keep(choice)
        return choice, program

    def _int8(self, plan: Plan, store: Store, name: str, spare: float | None) -> tuple[str, Program]:
        """The quantised network, and how well it agrees; an empty verdict where that is not enough."""
        with store.writing(name) as scratch:
            quantize.quantize(plan.runtime, self._exported(store), scratch, self._calibration(), spare=spare)
        program = self._int8_program(plan, store, name)
        share, count = self._agreed(program)
        self._refusal = (
            f"model “{self._context.name}” cannot be run in int8: its best label is as in float32 on "
            f"{share:.1%} of {count} views of real pictures, and {LEAST_AGREEMENT:.0%} are needed; "
            "take dtype=auto"
        )
        some = "" if spare is None else ", some layers left as they were"
        good = count and share >= LEAST_AGREEMENT
        return f"chosen: best label agrees on {share:.1%} of {count} views{some}" if good else "", program

    def _int8_program(self, plan: Plan, store: Store, name: str) -> Program:
        bf16 = here(self._context.device).bf16
        return graphs.graph_program(store.path(name), plan, self._context, bf16=bf16)

    def _calibration(self) -> list[Any]:
        ready = trying.prepared(self._detector, views(checking=False))
        return [trying.batch_of(self._detector, [one]).numpy() for one in ready]

    def _agreed(self, program: Program) -> tuple[float, int]:
        """The share of views whose best label is that of float32, and how many were looked at."""
        looked = views(checking=True)
        if not self._reference:
            plain = torch_program(self._network, Plan("channels_last"), own=False)
            self._reference = self._answers(plain, looked)
        return agreement(self._reference, self._answers(program, looked)), len(looked)


@contextmanager
def _width(threads: int) -> Iterator[None]:
    """As many torch threads as a lane has, which is what is to be measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
