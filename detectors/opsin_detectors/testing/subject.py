"""The detector under check, with what it answers to each sample alone: what the rules compare against.

Owns the first three rules (`runs`, `prepared`, `length`), because nothing else can be said of a task whose
samples do not get through.
"""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opsin_detectors.api import Detector, ImageInput, Input, InputError, Item, Options, Output, Prepared, Task
from opsin_detectors.testing.answers import differences
from opsin_detectors.testing.findings import Broken, Skipped, blaming, defined, roots_of, where
from opsin_detectors.testing.running import Harness, Lane, PlainHarness, by_shape, item
from opsin_detectors.testing.samples import TEXT_TASKS, describe, options_for, sample_inputs

__all__ = ["Case", "Subject", "tolerance_for"]

ANSWER = "prepare raises InputError for what it cannot use, and nothing else raises"


def tolerance_for(dtype: str) -> float:
    """How far two answers to one input may be apart: batches of another size sum in another order."""
    return 2e-2 if dtype in ("bfloat16", "float16") else 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A sample that got through, with the answer it got alone. name: for sentences."""

    source: Input
    name: str
    prepared: Prepared
    item: Item
    output: Output


class Subject:
    """A loaded detector and what was learnt of it so far.

    pictures: the author's own, checked beside the samples.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        tolerance: float | None = None,
        harness: Harness | None = None,
        pictures: Sequence[tuple[str, ImageInput]] = (),
    ) -> None:
        self.detector = detector
        self.info = detector.info
        self.roots: tuple[Path, ...] = roots_of(detector)
        self.tolerance = tolerance_for(self.info.dtype) if tolerance is None else tolerance
        self.harness: Harness = harness or PlainHarness()
        self._pictures = pictures
        self._known: dict[Task, list[Case] | Broken] = {}
        self._wide: dict[Task, list[Case]] = {}

    @property
    def tasks(self) -> list[Task]:
        """In a fixed order."""
        return sorted(self.info.tasks)

    def options(self, task: Task) -> Options:
        """What its callers ask for unless they say otherwise."""
        return options_for(self.info, task)

    def samples(self, task: Task) -> list[tuple[str, Input]]:
        """The detector's own example first, then the made-up ones, then the author's."""
        with blaming("runs", self.roots, "example", "it answers an input to warm the model up with"):
            example = self.detector.example(task)
        made = [(describe(one), one) for one in sample_inputs(task)]
        own = [] if task in TEXT_TASKS else list(self._pictures)
        return [("its own example", example), *made, *own]

    def outcome(self, task: Task) -> list[Case] | Broken:
        """The samples that got through, or the first thing that kept them from it."""
        if task not in self._known:
            try:
                self._known[task] = self._through(task)
            except Broken as broken:
                self._known[task] = broken
        return self._known[task]

    def cases(self, task: Task) -> list[Case]:
        """The samples that got through. Raises Skipped when they did not."""
        outcome = self.outcome(task)
        if isinstance(outcome, Broken):
            raise Skipped(f"not reached, as “{outcome.finding.rule}” failed")
        return outcome

    def wide(self, task: Task) -> list[Case]:
        """The same, asked for everything however unsure: made-up pictures hold nothing to be sure of."""
        options = replace(self.options(task), min_score=0.0, min_label_score=0.0)
        if options == self.options(task):
            return self.cases(task)
        if task not in self._wide:
            lane = self.harness.lane(self.detector)
            self._wide[task] = [self._asked(lane, case, options) for case in self.cases(task)]
        return self._wide[task]

    def groups(self, task: Task, least: int = 2, *, wide: bool = False) -> list[list[Case]]:
        """Cases that may share a batch, `least` or more of them. Raises Skipped when there are none."""
        cases = self.wide(task) if wide else self.cases(task)
        found = [
            group[: self.info.max_batch]
            for group in by_shape(cases, (case.prepared for case in cases))
            if len(group[: self.info.max_batch]) >= least
        ]
        if not found:
            raise Skipped(f"no two samples share a batch (max_batch is {self.info.max_batch})")
        return found

    def ready(
        self, rule: str, name: str, source: Input, task: Task, options: Options | None = None
    ) -> Prepared:
        """One input, prepared. Raises InputError as the detector does, and Broken for all else."""
        with blaming(rule, self.roots, f"prepare of {name}", ANSWER):
            try:
                prepared = self.detector.prepare(source, task, options or self.options(task))
            except InputError as error:
                refusal = error
            else:
                self._check_prepared(rule, name, prepared)
                return prepared
        raise refusal

    def answer(
        self, rule: str, lane: Lane, prepared: Sequence[Prepared], items: Sequence[Item], what: str
    ) -> list[Output]:
        """One batch, start to end. Raises Broken for whatever goes wrong."""
        return self.finish(rule, self.infer(rule, lane, prepared, what), items, what)

    def infer(self, rule: str, lane: Lane, prepared: Sequence[Prepared], what: str) -> Any:
        """One batch's outputs. Raises Broken."""
        with blaming(rule, self.roots, f"infer of {what}", ANSWER):
            return lane.infer(prepared)

    def finish(self, rule: str, outputs: Any, items: Sequence[Item], what: str) -> list[Output]:
        """One batch's answers. Raises Broken, of the rule `length` for a wrong number of them."""
        with blaming(rule, self.roots, f"finish of {what}", ANSWER):
            answers = list(self.detector.finish(outputs, items))
        place = defined(self.detector.finish)
        right = "finish answers exactly one Output per item, in the order of the items"
        if len(answers) != len(items):
            raise Broken("length", f"finish gave {len(answers)} answers to {what}", right, place)
        for one in answers:
            if not isinstance(one, Output):
                raise Broken("length", f"finish gave a {type(one).__name__} for an answer", right, place)
        return answers

    def differ(self, one: Output, two: Output) -> str:
        """How two answers differ by more than what is tolerated, in words."""
        return differences(one, two, self.tolerance)

    # -- the first look ----------------------------------------------------------------------------------

    def _through(self, task: Task) -> list[Case]:
        lane = self.harness.lane(self.detector)
        ready: list[tuple[str, Input, Prepared]] = []
        for name, source in self.samples(task):
            try:
                ready.append((name, source, self.ready("runs", name, source, task)))
            except InputError as error:
                if not ready:
                    place = where(error, self.roots)
                    right = "example(task) answers an input that can be used"
                    raise Broken("runs", f"its own example was refused: {error}", right, place) from error
        self._check_apart([(name, prepared) for name, _, prepared in ready])
        cases = [
            self._case(lane, (name, source), one, item(source, one, task, self.options(task)))
            for name, source, one in ready
        ]
        for group in by_shape(cases, (case.prepared for case in cases)):
            batch = group[: self.info.max_batch]
            what = f"a batch of {len(batch)}"
            self.answer("runs", lane, [c.prepared for c in batch], [c.item for c in batch], what)
        return cases

    def _asked(self, lane: Lane, case: Case, options: Options) -> Case:
        task = case.item.task
        ready = self.ready("runs", case.name, case.source, task, options)
        return self._case(lane, (case.name, case.source), ready, item(case.source, ready, task, options))

    def _case(self, lane: Lane, named: tuple[str, Input], prepared: Prepared, one: Item) -> Case:
        name, source = named
        (output,) = self.answer("runs", lane, [prepared], [one], f"{name} alone")
        return Case(source, name, prepared, one, output)

    def _check_prepared(self, rule: str, name: str, prepared: Prepared) -> None:
        fault = self._fault_of(prepared)
        if fault:
            right = "prepare answers Prepared(data), data as info.input states it"
            named = rule if rule == "awkward" else "prepared"
            raise Broken(named, f"for {name} {fault}", right, defined(self.detector.prepare))

    def _fault_of(self, prepared: Any) -> str:
        if not isinstance(prepared, Prepared):
            return f"prepare gave a {type(prepared).__name__}"
        if not isinstance(prepared.shape, Hashable):
            return f"Prepared.shape is a {type(prepared.shape).__name__}, which is not hashable"
        spec = self.info.input
        if spec is None:
            return ""
        data, stated = prepared.data, (spec.height, spec.width, spec.channels)
        if not isinstance(data, np.ndarray):
            return f"prepare gave a {type(data).__name__}, not a numpy array"
        if data.shape != stated:
            return f"prepare gave an array of {data.shape}, and info.input states {stated}"
        return "" if data.dtype == np.uint8 else f"prepare gave {data.dtype}, not uint8"

    def _check_apart(self, ready: Sequence[tuple[str, Prepared]]) -> None:
        """No two prepared inputs in the same memory: the second would overwrite the first."""
        arrays = [(name, one.data) for name, one in ready if isinstance(one.data, np.ndarray)]
        for (name, one), (other, two) in itertools.combinations(arrays, 2):
            if np.may_share_memory(one, two):
                seen = f"what prepare gave for {name} and for {other} lies in the same memory"
                right = "prepare answers a new array each time, not one that it keeps"
                raise Broken("prepared", seen, right, defined(self.detector.prepare))
