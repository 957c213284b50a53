"""Rules about a detector's life: found, imported, loaded, and gone without a trace when it is closed."""

import gc
import itertools
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from opsin_detectors.api import Detector, InputError, LoadContext, LoadError, ModelInfo
from opsin_detectors.finder import MANIFEST, Found, load
from opsin_detectors.testing.findings import Broken, blaming, defined, roots_of, where
from opsin_detectors.testing.memory import held, megabytes
from opsin_detectors.testing.probe import probe
from opsin_detectors.testing.running import Harness, PlainHarness
from opsin_detectors.testing.stated import faults_of
from opsin_detectors.testing.subject import Subject

__all__ = ["close", "imports", "info", "loads", "manifest", "unload"]

_LACKING = {"torch": ("",), "transformers": ("", "torch")}
"""By what is imported: the extras that do not bring it."""
LIVES = 4
"""Times that a detector is loaded and closed to see what stays; twice when loading takes longer than SLOW."""
SLOW = 3.0
LEAK = 4 << 20
"""Bytes that stay after each of these lives; less is what the allocator keeps."""
ENDING = 2.0
"""Seconds that a detector's threads may take to end after `close`."""


def manifest(found: Found) -> str:
    """What `detector.toml` names is there. (That it can be read was seen when it was found.)"""
    if found.source and not Path(found.source).exists():
        right = f"“source” in {MANIFEST} is a path inside the detector's folder"
        raise Broken("manifest", f"its source {found.source} does not exist", right, found.place)
    preset = f", a preset of {found.preset_of}" if found.preset_of else ""
    return f"“{found.name}” is {found.target}{preset}"


def imports(found: Found) -> str:
    """The code is imported when a model asks for it, not before, and importing it does nothing else."""
    seen = probe(found)
    place = str(found.code or found.place)
    if seen.error:
        raise Broken("imports", seen.error, "the code has to be importable by itself", place)
    if seen.early:
        right = "finding a detector imports nothing of it"
        raise Broken("imports", f"{', '.join(seen.early)} imported when it was only looked for", right, place)
    if seen.threads or seen.cuda:
        did = f"started the threads {', '.join(seen.threads)}" if seen.threads else "took the GPU"
        right = "whatever the model needs begins in __init__, and ends in close"
        raise Broken("imports", f"importing the module {did}", right, place)
    need = seen.extras[-1] if seen.extras else ""
    # Any other extra may bring torch along; what "torch" and no extra bring is known.
    if found.folder is not None and need and found.extra in _LACKING[need]:
        raise Broken(
            "imports",
            f"the code imports {need}, and {MANIFEST} states {found.extra or 'no extra'}",
            f'extra = "{need}" tells who lacks it what to install',
            str(found.folder / MANIFEST),
        )
    return f"in {seen.seconds:.1f} s, when asked for and not before"


def loads(found: Found, context: LoadContext, made: list[Detector]) -> str:
    """It loads; puts the detector into `made`."""
    before, begun = held(context.device), time.perf_counter()
    roots = (found.code,) if found.code is not None else ()
    right = "__init__ raises LoadError with a sentence for what the user can set right, and nothing else"
    try:
        detector = load(found, context)
    except LoadError as error:
        raise Broken(
            "loads", str(error), "it has to load with these settings", where(error, roots)
        ) from error
    except Exception as error:
        raise Broken(
            "loads", f"__init__ raised {type(error).__name__}: {error}", right, where(error, roots)
        ) from error
    if not isinstance(getattr(detector, "info", None), ModelInfo):
        raise Broken(
            "loads", "it has no info", "__init__ sets self.info, a ModelInfo", defined(type(detector))
        )
    made.append(detector)
    took = time.perf_counter() - begun
    return (
        f"in {took:.1f} s; memory grew by {megabytes(held(context.device) - before)}, "
        f"info.memory_bytes is {megabytes(detector.info.memory_bytes)}"
    )


def info(detector: Detector) -> str:
    """What it states of itself holds together."""
    stated = detector.info
    if fault := faults_of(stated):
        raise Broken("info", *fault, defined(type(detector).__init__))
    tasks = ", ".join(sorted(stated.tasks))
    where_and_how = f"{stated.device}, {stated.dtype}"
    return f"{tasks}; {len(stated.classes)} classes; batches up to {stated.max_batch}; {where_and_how}"


def close(detector: Detector) -> str:
    """close returns, and does so again: a model that failed while warming up may be closed twice."""
    for one in _whole(detector):
        for doing in ("close", "close, the second time,"):
            with blaming(
                "close", roots_of(one), doing, "close may be called at any time, and more than once"
            ):
                one.close()
    return "may be called twice"


def unload(found: Found, context: LoadContext, harness: Harness | None) -> str:
    """After close nothing is left: not the object, no thread, no memory."""
    begun = time.monotonic()
    _live(found, context, harness)
    lives = LIVES if time.monotonic() - begun < SLOW else 2
    after, known = [held(context.device)], {thread.ident for thread in threading.enumerate()}
    for _ in range(lives - 1):
        _live(found, context, harness)
        after.append(held(context.device))
    place = str(found.code or found.place)
    if left := _threads_beside(known):
        right = "close ends the threads that the detector started, and waits for them"
        raise Broken("unload", f"the threads {', '.join(left)} live on after close", right, place)
    least = min(later - before for before, later in itertools.pairwise(after))
    if least > LEAK:
        right = "whatever a detector holds is in self: no globals, no caches by module or class"
        raise Broken("unload", f"each life of the model leaves {megabytes(least)} behind", right, place)
    return f"nothing is left after {lives} times loading, answering and closing"


def _live(found: Found, context: LoadContext, harness: Harness | None) -> None:
    """One life: load, answer an example of each task, close, forget."""
    detector = load(found, context)
    place = defined(type(detector))
    _answer_once(detector, harness)
    for one in _whole(detector):
        one.close()
    gone = _reference(detector)
    del detector, one
    gc.collect()
    if gone is not None and gone() is not None:
        holders = ", ".join(sorted({_holder(one) for one in gc.get_referrers(gone())}))
        right = "nothing outside holds it: no global, no thread, no functools.cache on a method"
        raise Broken("unload", f"the detector lives on after close, held by {holders}", right, place)


def _answer_once(detector: Detector, harness: Harness | None) -> None:
    subject = Subject(detector, harness=harness)
    lane = (harness or PlainHarness()).lane(detector)
    for task in subject.tasks:
        # What goes wrong here was told by the rules before; this is about what stays.
        with suppress(Broken, InputError):
            one = subject.ready("unload", "its own example", detector.example(task), task)
            subject.infer("unload", lane, [one], "its own example")


def _whole(detector: Detector) -> list[Detector]:
    """The detector and those of its second stage, which the server closes with it."""
    return [detector, *(stage.detector for stage in detector.info.stages)]


def _reference(detector: Detector) -> "weakref.ref[Detector] | None":
    try:
        return weakref.ref(detector)
    except TypeError:  # a class with slots
        return None


def _holder(one: Any) -> str:
    match one:
        case dict() if "__name__" in one:
            return f"module {one['__name__']}"
        case _:
            return f"a {type(one).__name__}"


def _threads_beside(known: set[int | None]) -> list[str]:
    """Names of threads that were not there before, once they had the time to end."""
    ends = time.monotonic() + ENDING
    while True:
        left = [one for one in threading.enumerate() if one.ident not in known]
        if not left or time.monotonic() > ends:
            return sorted(one.name for one in left)
        time.sleep(0.02)
