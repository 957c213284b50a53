"""Rules about single answers: that there are some, and that each is sound in itself."""

from contextlib import suppress
from dataclasses import replace

from opsin_detectors.api import ImageInput, InputError, Task, TextInput
from opsin_detectors.testing.answers import FAULTS, Fault
from opsin_detectors.testing.findings import Broken, Skipped, defined
from opsin_detectors.testing.running import item
from opsin_detectors.testing.samples import LONG_TEXT, TEXT_TASKS, awkward_inputs
from opsin_detectors.testing.subject import Subject

__all__ = [
    "awkward",
    "boxes",
    "finite",
    "labels",
    "length",
    "prepared",
    "runs",
    "scores",
    "source",
    "truncation",
    "vector",
]

_RIGHT = {
    "finite": "every number of an answer is finite; one that is not fails its input",
    "scores": "scores are in 0..1, so a softmax or a sigmoid is missing, or comes twice",
    "boxes": "boxes are fractions of the upright picture: 0 <= x_min < x_max <= 1, and y likewise",
    "labels": "labels are in info.classes, and class_id is the place there",
    "vector": "an embedding is float32 of shape (info.embedding_dimensions,), and not zero",
}


def runs(subject: Subject, task: Task) -> str:
    """Every sample gets through prepare, infer and finish, alone and together."""
    _first_look(subject, task, "runs")
    refused = len(subject.samples(task)) - len(subject.cases(task))
    return f"{len(subject.cases(task))} samples answered" + (f", {refused} refused" if refused else "")


def prepared(subject: Subject, task: Task) -> str:
    """What prepare gives is what the InputSpec states."""
    _first_look(subject, task, "prepared")
    spec = subject.info.input
    if spec is None:
        return "a list, as no InputSpec is stated"
    return f"uint8 of {(spec.height, spec.width, spec.channels)}, for infer in {spec.framework}"


def length(subject: Subject, task: Task) -> str:
    """As many answers as inputs."""
    _first_look(subject, task, "length")
    return "as many answers as inputs"


def source(subject: Subject, task: Task) -> str:
    """Preparing changes no pixel of the caller's picture: others look at it too."""
    if task in TEXT_TASKS:
        raise Skipped("a text cannot be changed")
    subject.cases(task)
    for name, one in subject.samples(task):  # made anew: those of the cases were prepared before
        if isinstance(one, ImageInput) and _writes(subject, name, one, task):
            raise Broken(
                "source",
                f"prepare wrote into the pixels of {name}",
                "they are read-only by agreement, as other models look at the same picture; copy first",
                defined(subject.detector.prepare),
            )
    return "prepare leaves the caller's pixels as they are"


def finite(subject: Subject, task: Task) -> str:
    """Every number is one."""
    _sound(subject, task, "finite")
    return "every number is finite"


def scores(subject: Subject, task: Task) -> str:
    """Scores are in 0..1."""
    _sound(subject, task, "scores")
    _need_some(subject, task)
    return "all in 0..1"


def boxes(subject: Subject, task: Task) -> str:
    """Boxes are fractions, the right way round."""
    if task not in (Task.DETECT, Task.ZERO_SHOT, Task.READ_TEXT):
        raise Skipped("looks for none")
    _sound(subject, task, "boxes")
    found = sum(len(case.output.detections) for case in subject.wide(task))
    if not found:
        raise Skipped("the samples gave no boxes; try --picture with one that does")
    return f"{found} inside the picture, the right way round"


def labels(subject: Subject, task: Task) -> str:
    """Labels are stated classes."""
    _sound(subject, task, "labels")
    _need_some(subject, task)
    if not (subject.info.classes or task is Task.ZERO_SHOT):
        return "any, as no classes are stated"
    return f"among the {len(subject.options(task).candidate_labels or subject.info.classes)} classes"


def vector(subject: Subject, task: Task) -> str:
    """Embeddings are as long as stated."""
    if task not in (Task.EMBED_IMAGE, Task.EMBED_TEXT):
        raise Skipped("not an embedding")
    _sound(subject, task, "vector")
    return f"float32, {subject.info.embedding_dimensions} numbers"


def awkward(subject: Subject, task: Task) -> str:
    """Inputs that callers do send and authors forget are answered soundly, or refused with InputError."""
    lane, answered, refused = subject.harness.lane(subject.detector), 0, 0
    options, faults = subject.options(task), _new_faults(subject, task)
    for name, one in awkward_inputs(task, subject.info):
        try:
            ready = subject.ready("awkward", name, one, task)
        except InputError:
            refused += 1
            continue
        (output,) = subject.answer("awkward", lane, [ready], [item(one, ready, task, options)], name)
        for kind, fault_of in faults.items():
            if fault := fault_of(output, task, subject.info, options):
                place = defined(subject.detector.finish)
                raise Broken("awkward", f"for {name} {fault}", _RIGHT[kind], place)
        answered += 1
    return f"{answered} awkward inputs answered, {refused} refused"


def truncation(subject: Subject, task: Task) -> str:
    """A text that is too long is cut when the caller asks for that."""
    if task not in TEXT_TASKS:
        raise Skipped("reads no text")
    subject.cases(task)
    name, cut = f"a text of {LONG_TEXT} characters", replace(subject.options(task), truncate_text=True)
    try:
        subject.ready("truncation", name, TextInput("word " * (LONG_TEXT // 5)), task, cut)
    except InputError as error:
        raise Broken(
            "truncation",
            f"{name} was refused although the caller set truncate_text: {error}",
            "with options.truncate_text prepare cuts what is too long",
            defined(subject.detector.prepare),
        ) from error
    return "cut when asked to"


def _writes(subject: Subject, name: str, one: ImageInput, task: Task) -> bool:
    before = one.pixels.copy()
    with suppress(InputError):
        subject.ready("source", name, one, task)
    return bool((before != one.pixels).any())


def _first_look(subject: Subject, task: Task, rule: str) -> None:
    outcome = subject.outcome(task)
    if isinstance(outcome, Broken) and outcome.finding.rule == rule:
        raise outcome
    subject.cases(task)


def _sound(subject: Subject, task: Task, rule: str) -> None:
    for case in subject.wide(task):
        if fault := FAULTS[rule](case.output, task, subject.info, case.item.options):
            raise Broken(rule, f"for {case.name} {fault}", _RIGHT[rule], defined(subject.detector.finish))


def _new_faults(subject: Subject, task: Task) -> dict[str, Fault]:
    """What to look for in awkward inputs: the faults that ordinary ones do not have already."""
    known = [case.output for case in subject.wide(task)]
    terms = (task, subject.info, subject.options(task))
    return {kind: fault for kind, fault in FAULTS.items() if not any(fault(one, *terms) for one in known)}


def _need_some(subject: Subject, task: Task) -> None:
    if not any(case.output.labels or case.output.detections for case in subject.wide(task)):
        raise Skipped("the samples gave no scores")
