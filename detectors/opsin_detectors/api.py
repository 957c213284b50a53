"""What a detector is, seen from the server, and what the server promises a detector.

A detector is code that knows one family of models. It is a folder holding a `detector.toml` (see
`opsin_detectors.finder`) which names a class that follows `Detector` below. The server loads it with
weights, under a name and a version, and calls that a model.

The path of one input through a detector:

    prepare(input, task, options)   CPU pool, one call per input, many at once  -> Prepared
    infer(batch)                    the lane, one call per batch, one at a time -> outputs
    finish(outputs, items)          CPU pool, one call per batch                -> one Output per item

The rules:

1. `finish` answers exactly one `Output` per item, in the order of the items. The server checks it. A batch
   that raises or answers the wrong number is split in halves and run again, so that only the input that
   causes it fails.
2. An input's answer does not depend on its neighbours in the batch.
3. A detector that states an `InputSpec` returns from `prepare` a uint8 array of exactly that shape as
   `Prepared.data`; the server stacks, stages and moves the batch, and `infer` gets one tensor of shape
   (batch, height, width, channels), uint8, already on the device. Pixels stay uint8 until then: normalise
   in `infer`, once per batch. A detector without an `InputSpec` gets the list of `Prepared.data`. The
   memory of a batch is used again for later ones, so what `infer` gives shares none with it.
4. `prepare` raises `InputError` for an input it cannot use; the caller sees that sentence. Any other
   exception, anywhere, is the detector's fault and reaches the caller only as an error id.
5. Scores are in 0..1. Boxes are fractions of the upright image, 0..1, min below max. A non-finite number
   fails its item.
6. `prepare` and `finish` may run in several threads at once. `infer` runs in as many threads as the model
   has lanes; write it without shared mutable state.

`opsin check-detector` holds a detector against all of them.

This module needs the standard library and numpy, nothing else, and knows neither gRPC nor the server.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "Attribute",
    "Box",
    "Detection",
    "Detector",
    "FlagRule",
    "ImageInput",
    "Input",
    "InputError",
    "InputSpec",
    "Item",
    "Label",
    "LoadContext",
    "LoadError",
    "ModelInfo",
    "Options",
    "Output",
    "Pixels",
    "Prepared",
    "Stage",
    "Task",
    "TextInput",
    "TextTooLongError",
    "Trial",
    "Vector",
]

Pixels = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]


class InputError(ValueError):
    """The caller's input cannot be used; the message says why and what would be right.

    option: the field of `Options` that is to blame, as in `candidate_labels[2]`; empty: the input itself.
    """

    def __init__(self, message: str, *, option: str = "") -> None:
        super().__init__(message)
        self.option = option


class TextTooLongError(InputError):
    """A text, or one among the options, is longer than the model reads."""


class LoadError(RuntimeError):
    """The model cannot be loaded; the message says why and what would be right."""


class Task(StrEnum):
    """What a model can be asked to do."""

    DETECT = "detect"
    CLASSIFY_IMAGE = "classify_image"
    CLASSIFY_TEXT = "classify_text"
    EMBED_IMAGE = "embed_image"
    EMBED_TEXT = "embed_text"
    ZERO_SHOT = "zero_shot"
    READ_TEXT = "read_text"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in fractions of the upright image, 0..1, x to the right and y down."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True, slots=True)
class Label:
    """A class with its score (0..1); `class_id` indexes `ModelInfo.classes`."""

    name: str
    score: float
    class_id: int = 0


@dataclass(frozen=True, slots=True)
class Attribute:
    """A named set of labels about a detection, such as `emotion`; highest score first."""

    name: str
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Detection:
    """One thing found: where, what, how sure (0..1). `text` is what was read there, if the model reads."""

    box: Box
    label: str
    score: float
    class_id: int = 0
    attributes: tuple[Attribute, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked for, with the model's defaults already filled in.

    A detector uses what saves it work (thresholds before NMS, say). The server applies `min_score`,
    `labels`, `max_detections` and `max_labels` to every answer once more, so a detector may ignore them.
    """

    min_score: float = 0.0
    """Detections below it are not wanted. 0..1."""
    min_label_score: float = 0.0
    """Whole-image labels below it are not wanted; 0 unless the caller set a minimum score."""
    max_detections: int = 100
    max_labels: int = 0
    """0 means all."""
    iou_threshold: float = 0.5
    """Boxes of one class that overlap more than this are one thing. 0..1."""
    labels: frozenset[str] = frozenset()
    """Only these classes; empty means all."""
    candidate_labels: tuple[str, ...] = ()
    """The classes to look for, for zero-shot models."""
    truncate_text: bool = False
    """Cut text that is too long, instead of refusing it."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageInput:
    """A decoded picture.

    pixels: uint8, RGB, shape (rows, columns, 3), C-contiguous, upright, read-only by agreement. May have
        been decoded at a reduced size when the model needs no more, never below `ModelInfo.decode_size`.
        For a detector that says `ModelInfo.takes_tensors` it may be a torch tensor of the same shape and type
        on the model's device, where a GPU decoded it.
    width, height: of the upright original, in pixels.
    """

    pixels: Pixels
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class TextInput:
    """A text, at least one character."""

    text: str


Input = ImageInput | TextInput


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One input made ready for `infer`.

    data: what is stacked or listed for `infer`. Its `nbytes`, where it has such, are held against the
        server's bound on decoded pixels until the answer.
    state: whatever `finish` needs to know about this input (scale, offset), handed back in `Item.state`.
    shape: only inputs of equal shape share a batch (text length bucket, number of patches); `()` fits all.
    """

    data: Any
    state: Any = None
    shape: Hashable = ()


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One input of a batch as `finish` sees it. width, height: as `prepare` was given it; 0 for text."""

    task: Task
    options: Options
    state: Any
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """The answer to one input.

    detections and labels need no order. vector: float32, shape (dimensions,), not yet normalised, for the
    embedding tasks.
    """

    detections: Sequence[Detection] = ()
    labels: Sequence[Label] = ()
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The fixed shape of a prepared input, so that the server can stack, stage and move batches itself.

    framework: what `infer` gets: a torch tensor on the model's device, or a numpy array.
    """

    height: int
    width: int
    channels: int = 3
    framework: Literal["torch", "numpy"] = "torch"


@dataclass(frozen=True, slots=True)
class FlagRule:
    """An answer is flagged when the scores of these classes add up to at least the threshold (0..1)."""

    classes: tuple[str, ...]
    threshold: float


@dataclass(frozen=True, slots=True)
class Stage:
    """A second model that looks at each thing the first one found: a cascade, such as face -> emotion.

    The server crops each box, at the picture's full resolution, and gives the crops to `detector` as it would
    give it pictures: with `prepare`, batches and `finish` of its own. What that answers is merged into the
    detection, by its task: labels (CLASSIFY_IMAGE) become an `Attribute` called `name`; what was read
    (READ_TEXT) becomes `text`; a vector (EMBED_IMAGE) becomes the embedding.

    name: of the stage, `[a-z0-9][a-z0-9._-]*`, its own among the stages of one model.
    detector: the second model, loaded. The first one loads it and states it; from then on it is the server's
        to warm up, to run and to close.
    margin: the crop is the box grown on each side by this share of its width and height.
    classes: only detections of these are looked at; empty means all.
    """

    name: str
    detector: "Detector"
    task: Task = Task.CLASSIFY_IMAGE
    margin: float = 0.0
    classes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to run a model that was tried while it was loaded, and what came of it.

    seconds: of a batch, by batch size: the median. verdict: `chosen`, or why it was not: `slower`, an answer
    that was no longer the same, what kept it from being built.
    lane_kind: what lanes were, where these are times of as many batches side by side as there are lanes:
    `threads`, `processes`. Empty: one batch ran alone.
    """

    runtime: str
    dtype: str
    seconds: tuple[tuple[int, float], ...] = ()
    verdict: str = ""
    lane_kind: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and can do; fixed after loading."""

    tasks: frozenset[Task]
    classes: tuple[str, ...] = ()
    """Names by class id. Empty when the classes are not known beforehand."""
    defaults: Options = field(default_factory=Options)
    input: InputSpec | None = None
    embedding_dimensions: int = 0
    flag: FlagRule | None = None
    max_batch: int = 32
    """Largest batch that `infer` accepts."""
    decode_size: tuple[int, int] = (0, 0)
    """(width, height) in pixels below which a picture must not be reduced while decoding; (0, 0): never
    reduce."""
    light: bool = False
    """`prepare`, `infer` and `finish` take a few microseconds each, whatever the input: less than the hop to
    another thread would. They run on the event loop then, so this is a promise never to wait."""
    device: str = "cpu"
    dtype: str = "float32"
    runtime: str = ""
    """What executes the model: "eager", "onnxruntime", ...; empty when there is no such thing."""
    trials: tuple[Trial, ...] = ()
    """How else it could be run, measured here or in an earlier start; empty where nothing was chosen."""
    lane_kind: str = ""
    """Where its network computes: "threads" of this process, or "processes" of its own; empty where there is
    no such choice."""
    memory_bytes: int = 0
    """Weights and buffers held while loaded, those of its stages included."""
    takes_tensors: bool = False
    """`prepare` also takes pixels that are a torch tensor on `device` (uint8, as an array would be) and gives
    `Prepared.data` as such a tensor, on that device, equal to what the array gives within two levels. The
    functions of `opsin_detectors.imaging` do. Only with an `InputSpec` for torch; without this no detector is
    ever given a tensor."""
    stages: tuple[Stage, ...] = ()
    """What looks at the boxes it finds."""


@dataclass(frozen=True, slots=True)
class LoadContext:
    """Everything a detector is given when it is loaded.

    source: a folder, a file or a hub id; empty when the detector needs none.
    folder: where the detector's own `detector.toml` lies (its packaged weights are beside it), or None for a
        detector found by entry point.
    settings: the user's `key=value` pairs for this model that are not the server's own.
    device: "cpu", "cuda", "cuda:1"...
    dtype: "auto", "float32", "bfloat16", "float16" or "int8".
    runtime: how a network is run: "eager" (as it is written), "channels_last", "compile", "cuda_graphs",
        "openvino", "onnxruntime", or "auto": the fastest of them here that keeps the answers. See
        `opsin_detectors.execution`. With dtype "auto" and a runtime told, it is float32.
    threads: torch threads of the lanes that will run it, for what is measured while loading.
    lanes: how many of them will run it side by side.
    lane_kind: where its network computes: "threads" of this process, "processes" of its own, one for each
        lane, or "auto": these where they are measured to be quicker.
    cache: a folder where what was found out while loading may be kept for the next start; None: nowhere.
    cache_bytes: what all that is kept there may take, at most; 0: there is no bound.
    """

    name: str
    source: str = ""
    folder: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str = "auto"
    runtime: str = "channels_last"
    threads: int = 1
    lanes: int = 1
    lane_kind: str = "threads"
    cache: Path | None = None
    cache_bytes: int = 0


class Detector(Protocol):
    """A family of models, loaded. The class is called with a `LoadContext`, off the event loop.

    Inherit from it to get the defaults of `example`, `examples` and `close`.
    """

    info: ModelInfo

    def __init__(self, context: LoadContext) -> None:
        """Load the weights. Raises `LoadError` with a sentence for the user."""

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Make one input ready for `infer`. Raises `InputError` for an input that cannot be used."""
        ...

    def infer(self, batch: Any) -> Any:
        """Run the model on a batch: a stacked uint8 tensor (`InputSpec`), or a list of `Prepared.data`."""
        ...

    def finish(self, outputs: Any, items: Sequence[Item]) -> Sequence[Output]:
        """Turn what `infer` gave into one `Output` per item, in order."""
        ...

    def example(self, task: Task) -> Input:
        """An input to warm up with: a grey picture or a short text unless overridden."""
        if task in (Task.CLASSIFY_TEXT, Task.EMBED_TEXT):
            return TextInput("a photograph of an astronaut")
        width, height = self.info.decode_size
        pixels = np.full((height or 480, width or 640, 3), 114, np.uint8)
        return ImageInput(pixels, pixels.shape[1], pixels.shape[0])

    def examples(self, task: Task) -> Sequence[Input]:
        """Inputs of every shape (`Prepared.shape`) that is worth a run before a caller comes with it.

        The first is `example`, which batch sizes are measured with.
        """
        return (self.example(task),)

    def close(self) -> None:
        """Let go of what is held outside Python's memory, after the last batch; twice is as once."""
        return  # without it type checkers take the method for abstract
