"""A network in int8: quantised, proved on pictures that it was not calibrated with, and kept; or refused.

As few layers as possible are left as they were: none first, then ever more, until the answers hold. Owns that
order and the proof; `quantize.py` makes the graph.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opsin_detectors.api import LoadContext, LoadError, Output, Trial
from opsin_detectors.execution import graphs, quantize, trying
from opsin_detectors.execution.exported import GRAPH, Exported, there, writing
from opsin_detectors.execution.guard import Agreement, agreements
from opsin_detectors.execution.hardware import here
from opsin_detectors.execution.network import Network, Program, Runnable
from opsin_detectors.execution.plan import Plan
from opsin_detectors.execution.programs import torch_program
from opsin_detectors.execution.store import Choice, Store
from opsin_detectors.execution.views import views

__all__ = ["LEAST_AGREEMENT", "Int8"]

log = logging.getLogger(__name__)

LEAST_AGREEMENT = 0.98
"""int8 is refused below this share of best labels, of finds or of vectors that are as they were."""
_SPARED = (0.0, 0.05, 0.15, 0.4)
"""Shares of the layers that are left as they are, tried in this order."""


class Int8:
    """int8 for one detector."""

    def __init__(
        self, detector: Runnable, network: Network, context: LoadContext, graph: Exported, store: Store
    ) -> None:
        self._detector = detector
        self._network = network
        self._context = context
        self._graph = graph
        self._store = store
        self._reference: list[Output] = []
        """What float32 answers to the views that int8 is checked with."""

    def program(self) -> tuple[Choice, Program]:
        """The kept graph, or a new one. Raises LoadError."""
        runtime = quantize.runtime_for(self._context.runtime)
        name = f"int8-{runtime}{quantize.SUFFIX[runtime]}"
        plan = Plan(runtime, "int8")
        kept, path = self._store.read(), self._store.found(name)
        if kept is not None and kept.plan == plan and path is not None:
            try:
                return kept, self._opened(plan, path)
            except LoadError as error:
                log.warning("a graph of %s is made anew: %s", self._context.name, error)
        choice = Choice(plan, (Trial(runtime, "int8", (), self._proven(plan, name)),))
        program = self._opened(plan, there(self._store, name))
        self._store.keep(choice)
        return choice, program

    def _proven(self, plan: Plan, name: str) -> str:
        """Write the least spared quantised network that agrees well enough; how well. Raises LoadError."""
        self._graph.program(Plan(plan.runtime))  # what is quantised can be read
        maker = quantize.quantizer(plan.runtime, there(self._store, GRAPH), self._calibration())
        refusal = ""
        for spare in _SPARED:
            try:
                return self._tried(plan, name, maker, spare)
            except _RefusedError as error:
                refusal = str(error)  # the error itself would hold the network by its traceback
        raise LoadError(refusal)

    def _tried(self, plan: Plan, name: str, maker: quantize.Quantizer, spare: float) -> str:
        """How well the quantised network agrees, which has its name only where that is enough.

        Raises _RefusedError.
        """
        with writing(self._store, name) as scratch:
            quantize.quantize(maker, scratch, spare)
            verdict = self._verdict(self._agreed(self._opened(plan, scratch)))
        some = f", some layers left as they were ({spare:.0%})" if spare else ""
        return f"chosen: {verdict}{some}"

    def _verdict(self, found: Sequence[Agreement]) -> str:
        """Raises _RefusedError for what is not enough."""
        start = f"model “{self._context.name}” cannot be run in int8: "
        if not found:
            raise _RefusedError(
                f"{start}in float32 it has no answer to any of the pictures that int8 is proved with; "
                "take dtype=auto"
            )
        shares = ", ".join(map(str, found))
        if any(one.share < LEAST_AGREEMENT for one in found):
            raise _RefusedError(
                f"{start}on pictures that it was not calibrated with too few answers are as in float32 "
                f"({shares}), {LEAST_AGREEMENT:.0%} of each are needed; take dtype=auto"
            )
        return f"as in float32: {shares}"

    def _opened(self, plan: Plan, path: Path) -> Program:
        bf16 = here(self._context.device).bf16
        return graphs.graph_program(
            path, plan, self._context, bf16=bf16, held=self._store, used=self._store.use
        )

    def _calibration(self) -> list[Any]:
        ready = trying.prepared(self._detector, views(checking=False))
        return [trying.batch_of(self._detector, [one]).numpy() for one in ready]

    def _agreed(self, program: Program) -> list[Agreement]:
        """How many answers to pictures that calibration never saw are as in float32."""
        looked = views(checking=True)
        if not self._reference:
            plain = torch_program(self._network, Plan("channels_last"), own=False)
            self._reference = trying.answers_by(self._detector, plain, looked)
        answers = trying.answers_by(self._detector, program, looked)
        return agreements(self._reference, answers, self._detector.info.defaults.min_score)


class _RefusedError(Exception):
    """A quantised network does not answer as the whole one."""
