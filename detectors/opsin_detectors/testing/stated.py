"""Judging a `ModelInfo`: whether what a detector states of itself holds together. Runs nothing."""

from collections.abc import Callable

from opsin_detectors.api import ModelInfo, Task

__all__ = ["faults_of"]

Fault = tuple[str, str]


def faults_of(info: ModelInfo) -> Fault | None:
    """The first thing that is wrong: what was seen, and what would be right."""
    for look in _LOOKS:
        if fault := look(info):
            return fault
    return None


def _tasks(info: ModelInfo) -> Fault | None:
    if not info.tasks or not all(isinstance(task, Task) for task in info.tasks):
        return f"info.tasks is {set(info.tasks) or 'empty'}", "a detector states at least one Task"
    if info.embedding_dimensions < 1 and info.tasks & {Task.EMBED_IMAGE, Task.EMBED_TEXT}:
        return "it embeds, and embedding_dimensions is 0", "embedding_dimensions is the length of its vectors"
    return None


def _batches(info: ModelInfo) -> Fault | None:
    return (
        None if info.max_batch >= 1 else (f"max_batch is {info.max_batch}", "a batch holds one input or more")
    )


def _input(info: ModelInfo) -> Fault | None:
    spec = info.input
    if spec is None:
        return None
    if min(spec.height, spec.width, spec.channels) < 1:
        return f"input is {spec}", "height, width and channels are 1 or more"
    known = ("torch", "numpy")
    return (
        None if spec.framework in known else (f"input.framework is {spec.framework!r}", "“torch” or “numpy”")
    )


def _classes(info: ModelInfo) -> Fault | None:
    if isinstance(info.classes, str) or not all(isinstance(one, str) and one for one in info.classes):
        return f"classes is {info.classes!r}", "classes is a tuple of names, by class id"
    if twice := sorted({one for one in info.classes if info.classes.count(one) > 1}):
        return f"the class “{twice[0]}” is there twice", "each class has a name of its own"
    return None


def _flag(info: ModelInfo) -> Fault | None:
    if info.flag is None:
        return None
    if unknown := [one for one in info.flag.classes if one not in info.classes]:
        return f"flag names “{unknown[0]}”, which is no class", "flag.classes are among info.classes"
    return _share("flag.threshold", info.flag.threshold)


def _defaults(info: ModelInfo) -> Fault | None:
    given = info.defaults
    for name in ("min_score", "min_label_score", "iou_threshold"):
        if fault := _share(f"defaults.{name}", getattr(given, name)):
            return fault
    return None


def _sizes(info: ModelInfo) -> Fault | None:
    if min(info.decode_size) < 0:
        return f"decode_size is {info.decode_size}", "(width, height) in pixels, (0, 0) for never reduced"
    return None if info.memory_bytes >= 0 else (f"memory_bytes is {info.memory_bytes}", "bytes, 0 or more")


def _share(name: str, value: float) -> Fault | None:
    return None if 0 <= value <= 1 else (f"{name} is {value}", f"{name} is in 0..1")


_LOOKS: tuple[Callable[[ModelInfo], Fault | None], ...] = (
    _tasks,
    _batches,
    _input,
    _classes,
    _flag,
    _defaults,
    _sizes,
)
