"""Rules about batches: an answer is its input's own, whoever is beside it and whatever runs after it."""

import random
import time
from collections.abc import Sequence

from opsin_detectors.api import Output, Task
from opsin_detectors.testing.findings import Broken, Skipped, defined
from opsin_detectors.testing.running import Lane
from opsin_detectors.testing.subject import Case, Subject

__all__ = ["batching", "kept", "order"]

SHUFFLES = 3
PATIENCE = 10.0
"""Seconds after which no larger batch of a task is tried."""


def order(subject: Subject, task: Task) -> str:
    """Answers stand where their inputs stood."""
    shuffled = random.Random(5)  # noqa: S311  an arrangement, the same one each time
    lane, distinct = subject.harness.lane(subject.detector), 0
    for group in subject.groups(task, wide=True):
        distinct += _distinct(subject, group)
        for arranged in (group[::-1], *(shuffled.sample(group, len(group)) for _ in range(SHUFFLES))):
            for place, (case, output) in enumerate(
                zip(arranged, _answers(subject, "order", lane, arranged), strict=True)
            ):
                if other := _whose(subject, case, output, arranged):
                    raise Broken(
                        "order",
                        f"place {place + 1} of a batch of {len(arranged)} was for {case.name}, "
                        f"and holds the answer to {other.name}",
                        "answers are in the order of the items",
                        defined(subject.detector.finish),
                    )
    if not distinct:
        raise Skipped("the samples all got the same answer; try --picture with ones that differ")
    return "answers stay with their inputs, reversed and shuffled"


def batching(subject: Subject, task: Task) -> str:
    """The same answer alone and in a batch of every size that the model is run at."""
    lane, largest, begun = subject.harness.lane(subject.detector), 1, time.monotonic()
    groups = subject.groups(task, least=1)
    for size in subject.harness.sizes(subject.info.max_batch):
        if time.monotonic() - begun > PATIENCE:
            break
        for group in groups:
            # Turned by the size, so that an input has other neighbours, and another place, each time.
            batch = [group[(size + place) % len(group)] for place in range(size)]
            _same_as_alone(subject, batch, _answers(subject, "batching", lane, batch))
        largest = size
    short = "" if largest == subject.info.max_batch else f" of {subject.info.max_batch} (for want of time)"
    return f"the same answers alone and in batches up to {largest}{short}, to within {subject.tolerance:g}"


def kept(subject: Subject, task: Task) -> str:
    """A batch's outputs stay as they are while the lane runs on: `finish` comes later, on another thread."""
    lane = subject.harness.lane(subject.detector)
    for group in subject.groups(task):
        expected = _answers(subject, "kept", lane, group)
        outputs = subject.infer("kept", lane, [case.prepared for case in group], "a batch")
        for turn in (1, 2, 3):
            others = group[turn % len(group) :] + group[: turn % len(group)]
            subject.infer("kept", lane, [case.prepared for case in others], "a batch")
        late = subject.finish("kept", outputs, [case.item for case in group], "a batch")
        for case, before, after in zip(group, expected, late, strict=True):
            if found := subject.differ(before, after):
                raise Broken(
                    "kept",
                    f"what infer gave for {case.name} changed while later batches ran ({found})",
                    "infer gives memory of its own, no view of the batch and no buffer that it uses again",
                    defined(subject.detector.infer),
                )
    return "outputs stay as they are while later batches run"


def _answers(subject: Subject, rule: str, lane: Lane, batch: Sequence[Case]) -> list[Output]:
    items = [case.item for case in batch]
    what = f"a batch of {len(batch)}"
    return subject.answer(rule, lane, [case.prepared for case in batch], items, what)


def _same_as_alone(subject: Subject, batch: Sequence[Case], outputs: Sequence[Output]) -> None:
    for case, output in zip(batch, outputs, strict=True):
        found = subject.differ(case.output, output)
        if found and not _whose(subject, case, output, batch):
            raise Broken(
                "batching",
                f"the answer to {case.name} in a batch of {len(batch)} is another than alone ({found})",
                f"an answer does not depend on its neighbours, to within {subject.tolerance:g}: "
                "no statistics over the batch, and eval()",
                defined(subject.detector.infer),
            )


def _whose(subject: Subject, case: Case, output: Output, batch: Sequence[Case]) -> Case | None:
    """Another input of the batch, whose answer this one is; None when it is its own, or nobody's."""
    if not subject.differ(case.output, output):
        return None
    return next((other for other in batch if not subject.differ(other.output, output)), None)


def _distinct(subject: Subject, group: Sequence[Case]) -> int:
    return sum(bool(subject.differ(group[0].output, case.output)) for case in group)
