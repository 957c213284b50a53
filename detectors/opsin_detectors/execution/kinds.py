"""Whether a network computes in the lanes' threads or in processes of its own, as told or as measured.

Only networks that torch runs on a CPU can be given to processes, and only they gain by it: between two
operators Python runs, and no other lane can meanwhile. OpenVINO and onnxruntime are one call without the
lock; on a GPU lanes only issue work. What nobody told and cannot be done in processes is done in threads.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence

import torch

from opsin_detectors.api import LoadContext, LoadError, Trial
from opsin_detectors.device_memory import memory_of
from opsin_detectors.execution.apart import ApartProgram
from opsin_detectors.execution.contest import Race, race, verdicts
from opsin_detectors.execution.network import Network, Program
from opsin_detectors.execution.plan import Plan
from opsin_detectors.execution.store import Choice, Store

__all__ = ["KINDS", "Kinds"]

log = logging.getLogger(__name__)

KINDS = ("auto", "threads", "processes")
_TORCH = ("eager", "channels_last")
_SIZES = (4, 1)
"""Batch sizes that are measured: of a busy server first."""
_INTERPRETER = 400 << 20
"""Bytes that a process may take beside the weights: torch, what a checkpoint imports, work space."""
_MEMORY = 0.25
"""The part of the free memory that processes may take unless they are told to be used."""


class Kinds:
    """What the lanes of one model are."""

    def __init__(self, network: Network, context: LoadContext, *, timed: Race = race) -> None:
        self._network = network
        self._context = context
        self._timed = timed

    def open(self, plan: Plan) -> bool:
        """Whether there is something to choose when the network is run so."""
        return self._context.lane_kind == "auto" and self._context.lanes > 1 and not self._why_not(plan)

    def check(self, plan: Plan | None) -> None:
        """Raises LoadError for processes that were told and cannot be. plan: None where it is open yet."""
        why = self._why_not(plan)
        if why and self._context.lane_kind == "processes":
            raise LoadError(f"lane_kind processes of model “{self._context.name}” cannot be: {why}")

    def settled(self, choice: Choice, program: Program, store: Store | None) -> tuple[Choice, Program]:
        """The choice with the kind of lanes in it, and the program made so.

        store: where it is kept; None where nothing was to choose. Raises LoadError as `check` does.
        """
        self.check(choice.plan)
        if self._why_not(choice.plan):
            return choice, program
        if store is not None and self.open(choice.plan):
            if choice.lane_kind and choice.lanes == self._context.lanes:
                return self._again(choice, program)
            choice, program = self._measured(_without_lanes(choice), program)
            if choice.lanes:
                store.keep(choice)
            return choice, program
        if self._context.lane_kind == "processes":
            program = self._apart(program)
        kind = "processes" if isinstance(program, ApartProgram) else "threads"
        return dataclasses.replace(_without_lanes(choice), lane_kind=kind), program

    def _why_not(self, plan: Plan | None) -> str:
        """Why it cannot run in processes; empty when it can."""
        if self._context.device != "cpu":
            return f"on {self._context.device} lanes only issue work; they are threads"
        if self._network.picture is None:
            return "its inputs are not pictures of one size"
        if plan is not None and plan.runtime not in _TORCH:
            return f"runtime {plan.runtime} runs in threads; processes run {' and '.join(_TORCH)}"
        return "this system has none that can be forked" if os.name != "posix" else ""

    def _apart(self, program: Program) -> ApartProgram:
        try:
            return ApartProgram(program, max(1, self._context.lanes))
        except LoadError as error:
            raise LoadError(f"model “{self._context.name}”: {error}") from error

    def _again(self, choice: Choice, program: Program) -> tuple[Choice, Program]:
        """As an earlier start chose, if that can be done still."""
        if choice.lane_kind == "threads":
            return choice, program
        try:
            return choice, self._apart(program)
        except LoadError as error:
            log.warning("threads, not processes: %s", error)
            return dataclasses.replace(choice, lane_kind="threads"), program

    def _measured(self, choice: Choice, program: Program) -> tuple[Choice, Program]:
        """What came of it. `lanes` stays 0 where it may come out otherwise at the next start."""
        lanes = self._context.lanes
        choice = dataclasses.replace(choice, lane_kind="threads")
        if lanes * _INTERPRETER > _MEMORY * (memory_of("cpu").free or float("inf")):
            return _refused(choice, "there is not the memory for an interpreter a lane"), program
        measured = dataclasses.replace(choice, lanes=lanes)
        try:
            apart = self._apart(program)
        except LoadError as error:
            return _refused(measured, str(error)), program
        try:
            times = self._timed(program, apart, self._batches(), lanes, max(1, self._context.threads))
        except Exception as error:  # a worker that died, want of memory
            apart.close()
            why = f"it cannot be run: {type(error).__name__}: {error}"
            log.warning("threads, not processes, for %s: %s", self._context.name, why)
            return _refused(choice, why), program
        except BaseException:
            apart.close()
            raise
        choice = measured
        taken, trials = verdicts(choice.plan, *times)
        choice = dataclasses.replace(choice, trials=(*choice.trials, *trials))
        if taken:
            return dataclasses.replace(choice, lane_kind="processes"), apart
        apart.close()
        return choice, program

    def _batches(self) -> Sequence[torch.Tensor]:
        spec = self._network.picture
        assert spec is not None  # else there is nothing to choose
        grey = torch.full((max(_SIZES), spec.height, spec.width, spec.channels), 114, dtype=torch.uint8)
        return [grey[:size] for size in _SIZES]


def _refused(choice: Choice, why: str) -> Choice:
    refused = Trial(choice.plan.runtime, choice.plan.dtype, (), why, "processes")
    return dataclasses.replace(choice, trials=(*choice.trials, refused))


def _without_lanes(choice: Choice) -> Choice:
    """Without what was found for other lanes."""
    trials = tuple(trial for trial in choice.trials if not trial.lane_kind)
    return dataclasses.replace(choice, trials=trials, lane_kind="", lanes=0)
