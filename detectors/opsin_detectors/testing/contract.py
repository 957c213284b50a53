"""The rules in their order, and a detector led through them.

`findings` looks at a detector that is loaded already; `examine` at one that was only found: it imports, loads
and closes it too. Findings come one by one, as soon as each is known.
"""

from collections.abc import Callable, Iterator, Sequence

from opsin_detectors.api import Detector, ImageInput, LoadContext, Task
from opsin_detectors.finder import Found
from opsin_detectors.testing.findings import Broken, Finding, Skipped, Status
from opsin_detectors.testing.rules import answering, batching, life, together
from opsin_detectors.testing.running import Harness
from opsin_detectors.testing.subject import Subject

__all__ = ["check", "examine", "findings", "rule_names"]

Rule = Callable[[Subject, Task], str]

_LIFE: tuple[Callable[..., str], ...] = (life.manifest, life.imports, life.loads)
_RULES: tuple[Rule, ...] = (
    answering.runs,
    answering.prepared,
    answering.length,
    answering.source,
    answering.finite,
    answering.scores,
    answering.boxes,
    answering.labels,
    answering.vector,
    batching.order,
    batching.batching,
    batching.kept,
    answering.awkward,
    answering.truncation,
    together.threads,
    together.lanes,
    together.light,
)
_END: tuple[Callable[..., str], ...] = (life.close, life.unload)


def rule_names() -> list[str]:
    """Every rule by name, in the order in which they are checked."""
    every: tuple[Callable[..., str], ...] = (*_LIFE, life.info, *_RULES, *_END)
    return [_name(rule) for rule in every]


def check(detector: Detector, *, tolerance: float | None = None) -> None:
    """Raise AssertionError, naming every rule that was broken, unless the detector keeps those of its tasks.

    The detector is not closed. tolerance: how far two answers to one input may be apart; None: 1e-3, and 2e-2
    for a model of half precision.
    """
    failed = [one for one in findings(detector, tolerance=tolerance) if one.status is Status.FAILED]
    assert not failed, "\n".join(f"{one.rule}: {one}" for one in failed)


def findings(
    detector: Detector,
    *,
    tolerance: float | None = None,
    harness: Harness | None = None,
    pictures: Sequence[tuple[str, ImageInput]] = (),
) -> Iterator[Finding]:
    """What the rules find about a loaded detector, which is not closed.

    harness: how batches are put together. pictures: the author's own, with their names, checked like samples.
    """
    stated = _outcome(life.info, detector)
    yield stated
    if stated.status is Status.FAILED:
        return
    subject = Subject(detector, tolerance=tolerance, harness=harness, pictures=pictures)
    for rule in _RULES:
        yield from _of_tasks(rule, subject)


def examine(
    found: Found,
    context: LoadContext,
    *,
    tolerance: float | None = None,
    harness: Harness | None = None,
    pictures: Callable[[Detector], Sequence[tuple[str, ImageInput]]] = lambda _: (),
) -> Iterator[Finding]:
    """What the rules find about a detector from its manifest to its end. Loads it several times.

    pictures: the author's own, decoded as the loaded detector wants them.
    """
    for early in (life.manifest, life.imports):
        outcome = _outcome(early, found)
        yield outcome
        if outcome.status is Status.FAILED:
            return
    made: list[Detector] = []
    loaded = _outcome(life.loads, found, context, made)
    yield loaded
    if not made:
        return
    (detector,) = made
    yield from findings(detector, tolerance=tolerance, harness=harness, pictures=pictures(detector))
    yield _outcome(life.close, detector)
    del detector
    made.clear()
    yield _outcome(life.unload, found, context, harness)


def _of_tasks(rule: Rule, subject: Subject) -> Iterator[Finding]:
    """A finding for each task that breaks the rule; else one for all of them."""
    outcomes = [_outcome(rule, subject, task) for task in subject.tasks]
    failed = [
        one.of_task(task)
        for one, task in zip(outcomes, subject.tasks, strict=True)
        if one.status is Status.FAILED
    ]
    if failed:
        yield from failed
        return
    passed = {
        t: one.seen for t, one in zip(subject.tasks, outcomes, strict=True) if one.status is Status.PASSED
    }
    seen = passed or {task: one.seen for task, one in zip(subject.tasks, outcomes, strict=True)}
    alike = len(set(seen.values())) == 1
    said = next(iter(seen.values())) if alike else "; ".join(f"{task}: {what}" for task, what in seen.items())
    yield Finding(_name(rule), Status.PASSED if passed else Status.SKIPPED, said)


def _outcome(rule: Callable[..., str], *arguments: object) -> Finding:
    try:
        seen = rule(*arguments)
    except Broken as broken:
        return broken.finding
    except Skipped as skipped:
        return Finding(_name(rule), Status.SKIPPED, str(skipped))
    return Finding(_name(rule), Status.PASSED, seen)


def _name(rule: Callable[..., str]) -> str:
    return rule.__name__
