"""Rules about time and threads: many at once give the same answers, and a light model is quick."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from opsin_detectors.api import InputError, Output, Task
from opsin_detectors.testing.findings import Broken, Skipped, defined
from opsin_detectors.testing.running import Lane, item
from opsin_detectors.testing.samples import largest_input
from opsin_detectors.testing.subject import Case, Subject

__all__ = ["lanes", "light", "threads"]

THREADS = 4
LANES = 2
ROUNDS = 40
SECONDS = 1.0
"""A task is run by several threads for so many rounds, or so long."""
SWITCH = 1e-5
"""Seconds between changes of thread meanwhile, 500 times as often as usual: what can go wrong, then does."""
LIGHT = 1e-3
"""Seconds that a step may take on the event loop: ten hops to another thread, but no call notices."""


def threads(subject: Subject, task: Task) -> str:
    """prepare and finish in several threads at once give the answers that they give alone."""
    infer = threading.Lock()  # infer has a rule of its own

    def once(cases: Sequence[Case], lane: Lane) -> list[Output]:
        ready = [subject.ready("threads", case.name, case.source, task) for case in cases]
        items = [
            item(case.source, one, task, case.item.options) for case, one in zip(cases, ready, strict=True)
        ]
        with infer:
            outputs = subject.infer("threads", lane, ready, "a batch")
        return subject.finish("threads", outputs, items, "a batch")

    _race(subject, task, "threads", THREADS, once)
    return f"prepare and finish give the same answers in {THREADS} threads at once"


def lanes(subject: Subject, task: Task) -> str:
    """infer in several lanes at once gives the answers that it gives alone."""

    finish = threading.Lock()  # finish has a rule of its own

    def once(cases: Sequence[Case], lane: Lane) -> list[Output]:
        ready = [case.prepared for case in cases]
        outputs = subject.infer("lanes", lane, ready, "a batch")
        with finish:
            return subject.finish("lanes", outputs, [case.item for case in cases], "a batch")

    _race(subject, task, "lanes", LANES, once)
    return f"infer gives the same answers in {LANES} lanes at once"


def light(subject: Subject, task: Task) -> str:
    """What promises to be light is: prepare, infer and finish run on the event loop then."""
    if not subject.info.light:
        raise Skipped("info.light is not promised")
    subject.cases(task)
    lane, longest = subject.harness.lane(subject.detector), 0.0
    for name, one in [*subject.samples(task), ("the largest sample", largest_input(task))]:
        try:
            ready = subject.ready("light", name, one, task)
        except InputError:
            continue
        items = [item(one, ready, task, subject.options(task))]
        outputs = subject.infer("light", lane, [ready], name)
        steps = {
            "prepare": partial(subject.detector.prepare, one, task, subject.options(task)),
            "infer": partial(lane.infer, [ready]),
            "finish": partial(subject.detector.finish, outputs, items),
        }
        for step, call in steps.items():
            longest = max(longest, seconds := _least(call))
            if seconds > LIGHT:
                raise Broken(
                    "light",
                    f"{step} of {name} took {seconds * 1e3:.2g} ms",
                    f"info.light promises less than {LIGHT * 1e3:g} ms for every step and input",
                    defined(getattr(subject.detector, step)),
                )
    return f"no step took more than {longest * 1e6:.0f} microseconds"


def _least(call: Callable[[], object]) -> float:
    """The quickest of some calls: what it takes by itself, without what else the machine does.

    Five calls, and up to fifty or half a second where a busy machine makes all of them look slow.
    """
    spans: list[float] = []
    while len(spans) < 5 or (min(spans) > LIGHT and len(spans) < 50 and sum(spans) < 0.5):
        begun = time.perf_counter()
        call()
        spans.append(time.perf_counter() - begun)
    return min(spans)


def _race(
    subject: Subject,
    task: Task,
    rule: str,
    workers: int,
    once: Callable[[Sequence[Case], Lane], list[Output]],
) -> None:
    """Run `once` in several threads, each with the samples in an order of its own, and compare."""
    group = max(subject.groups(task, least=1), key=len)
    turned = [group[turn % len(group) :] + group[: turn % len(group)] for turn in range(workers)]
    expected = [once(cases, subject.harness.lane(subject.detector)) for cases in turned]
    broken: list[BaseException] = []
    start, ends = threading.Barrier(workers), time.monotonic() + SECONDS

    def work(number: int) -> None:
        lane = subject.harness.lane(subject.detector)
        start.wait()
        for _ in range(ROUNDS):
            if broken or time.monotonic() > ends:
                return
            for case, before, now in zip(
                turned[number], expected[number], once(turned[number], lane), strict=True
            ):
                if found := subject.differ(before, now):
                    raise _not_safe(subject, rule, case, found)

    def main(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            broken.append(error)

    with _switching_often():
        running = [threading.Thread(target=main, args=(n,), daemon=True) for n in range(workers)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    if broken:
        raise broken[0]


def _not_safe(subject: Subject, rule: str, case: Case, found: str) -> Broken:
    steps = {
        "threads": ("prepare and finish", subject.detector.prepare),
        "lanes": ("infer", subject.detector.infer),
    }
    step, method = steps[rule]
    return Broken(
        rule,
        f"in several threads at once {case.name} got another answer ({found})",
        f"{step} may run in several threads at once: keep nothing of a call in self",
        defined(method),
    )


@contextmanager
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
