"""What the caller asked for, held against what the model can do.

`rpc/validate.py` has proved each option sound in itself (a number in its range); here they meet the model:
the task is chosen, defaults are filled in, and what the model cannot honour is refused by name, not ignored.
"""

import difflib
import struct
from collections.abc import Collection
from functools import lru_cache

from opsin_detectors.api import ModelInfo, Options, Task
from opsin_server.calls import DetectOptions, Source, Text
from opsin_server.errors import QUOTE_LIMIT, Failure, Reason, quote

__all__ = ["DEFAULT_MAX_DETECTIONS", "detect_task", "embed_task", "nearest", "resolve"]

DEFAULT_MAX_DETECTIONS = 100
FEW_CLASSES = 20
"""A model with at most so many classes answers all its labels unless told otherwise; others the best 5."""
MANY_CLASSES_LABELS = 5

_FLOAT = struct.Struct("<f")
_WHOLE_IMAGE = frozenset({Task.CLASSIFY_IMAGE, Task.CLASSIFY_TEXT, Task.ZERO_SHOT})
"""Tasks with labels for the whole input. A model with none of them gives none, so no score cuts them."""
_IMAGE_TASKS = (Task.DETECT, Task.CLASSIFY_IMAGE, Task.ZERO_SHOT, Task.READ_TEXT)


def nearest(name: str, known: Collection[str]) -> str:
    """The known name most like `name`, or "" when none is close.

    Nothing as long as an error may not even quote is looked for: a search for 30 MB of name takes seconds.
    """
    if len(name) > QUOTE_LIMIT:
        return ""
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)), "")


def detect_task(model: str, info: ModelInfo, source: Source) -> Task:
    """What a Detect call means for this model and input. Raises Failure TASK_UNSUPPORTED."""
    if isinstance(source, Text):
        return _need(model, info, (Task.CLASSIFY_TEXT,), "classify text")
    return _need(model, info, _IMAGE_TASKS, "detect or classify in images")


def embed_task(model: str, info: ModelInfo, source: Source) -> Task:
    """What an Embed call means for this model and input. Raises Failure TASK_UNSUPPORTED."""
    if isinstance(source, Text):
        return _need(model, info, (Task.EMBED_TEXT,), "embed text")
    return _need(model, info, (Task.EMBED_IMAGE,), "embed images")


def _need(model: str, info: ModelInfo, wanted: tuple[Task, ...], what: str) -> Task:
    for task in wanted:
        if task in info.tasks:
            return task
    can = ", ".join(sorted(t.name for t in info.tasks))
    raise Failure(
        Reason.TASK_UNSUPPORTED,
        f"model {quote(model)} cannot {what}; it can: {can}",
        field="model",
        metadata={"model": model, "tasks": can},
    )


def resolve(asked: DetectOptions, info: ModelInfo, task: Task) -> Options:
    """The options to run with: the caller's, else the model's.

    Raises Failure: OPTION_UNSUPPORTED, LABEL_UNKNOWN.
    """
    _refuse_unsupported(asked, info, task)
    defaults = info.defaults
    classes = asked.candidate_labels or info.classes
    _know_labels(asked.labels, classes)
    few = len(classes) <= FEW_CLASSES
    return Options(
        min_score=_single(defaults.min_score) if asked.min_score is None else asked.min_score,
        min_label_score=(asked.min_score or 0.0) if info.tasks & _WHOLE_IMAGE else 0.0,
        max_detections=asked.max_detections or defaults.max_detections or DEFAULT_MAX_DETECTIONS,
        max_labels=asked.max_labels or defaults.max_labels or (0 if few else MANY_CLASSES_LABELS),
        iou_threshold=_single(defaults.iou_threshold) if asked.iou_threshold is None else asked.iou_threshold,
        labels=frozenset(asked.labels),
        candidate_labels=asked.candidate_labels,
        truncate_text=asked.truncate_text,
    )


@lru_cache(maxsize=1024)
def _single(value: float) -> float:
    """A default as it would come over the wire: asking for it by name must mean the same as not asking."""
    return float(_FLOAT.unpack(_FLOAT.pack(value))[0])


def _refuse_unsupported(asked: DetectOptions, info: ModelInfo, task: Task) -> None:
    if Task.ZERO_SHOT in info.tasks and not asked.candidate_labels and not info.classes:
        raise Failure(
            Reason.OPTION_INVALID,
            "candidate_labels is empty, and this zero-shot model has no classes of its own to look for",
            field="options.candidate_labels",
            metadata={"option": "candidate_labels"},
        )
    if asked.candidate_labels and Task.ZERO_SHOT not in info.tasks:
        raise _unsupported("candidate_labels", "names classes to a zero-shot model; this model has its own")
    if task is Task.CLASSIFY_TEXT and asked.regions:
        raise _unsupported("regions", "is about images, and the input is a text")
    if asked.embed_detections and Task.DETECT not in info.tasks:
        raise _unsupported("embed_detections", "needs a model that finds boxes, and this one does not")
    if asked.embed_model and not asked.embed_detections:
        raise _unsupported("embed_model", "has a meaning only with embed_detections = true")


def _unsupported(option: str, why: str) -> Failure:
    return Failure(
        Reason.OPTION_UNSUPPORTED, f"{option} {why}", field=f"options.{option}", metadata={"option": option}
    )


def _know_labels(labels: Collection[str], classes: Collection[str]) -> None:
    if not classes:
        return
    for index, label in enumerate(labels):
        if label not in classes:
            near = nearest(label, classes)
            hint = f"; the nearest is {quote(near)}" if near else ""
            raise Failure(
                Reason.LABEL_UNKNOWN,
                f"the model has no class {quote(label)}{hint}",
                field=f"options.labels[{index}]",
                metadata={"label": label[:QUOTE_LIMIT], **({"nearest": near} if near else {})},
            )
