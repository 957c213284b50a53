"""A graph behind the detector API: a classifier or a detector, by its description.

    prepare   resize as described, uint8 RGB; remember where on the canvas the picture lies
    infer     normalise per batch, lay out, run; a fixed batch is filled up
    finish    scores, or boxes: threshold, back to the picture, suppress

Owns the order of the steps. Running is `runtimes.py`, meaning `heads.py`, the file's form `description.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from opsin_detectors import imaging, tensors
from opsin_detectors.api import (
    Box,
    Detection,
    Detector,
    ImageInput,
    Input,
    InputError,
    InputSpec,
    Item,
    Label,
    LoadContext,
    LoadError,
    ModelInfo,
    Options,
    Output,
    Pixels,
    Prepared,
    Task,
)
from opsin_detectors.flags import parse_flag
from opsin_detectors.onnx import heads
from opsin_detectors.onnx.description import Description, PictureForm, read
from opsin_detectors.onnx.runtimes import RUNTIMES, Runtime, bytes_of, open_graph
from opsin_detectors.settings import Settings
from opsin_detectors.suppression import keep

__all__ = ["OnnxModel"]

Array = npt.NDArray[Any]

_MOST_CANDIDATES = 1000
"""Highest-scoring boxes of a picture that go into suppression: the work grows with the square."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the picture lies on the canvas, in fractions of the canvas: box on it = offset + size * box."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0


class OnnxModel(Detector):
    """A graph in a runtime. Settings: `runtime`, `description`, `flag` (classifiers)."""

    def __init__(self, context: LoadContext) -> None:
        settings = Settings(context)
        runtime = settings.text("runtime", context.runtime if context.runtime in RUNTIMES else "auto")
        beside = settings.text("description")
        flag = settings.text("flag")
        settings.done()
        graph = _file(context)
        self._about = about = read(_beside(graph, beside))
        self._runtime = open_graph(graph, runtime, context)
        self._batch, self._size = _agreed(self._runtime, about)
        self._levels = _takes_levels(self._runtime.input.dtype, about)
        form = about.picture
        self._normalize = tensors.Normalizer(
            [one * form.divide for one in form.mean],
            [one * form.divide for one in form.std],
            torch.device("cpu"),
            torch.float32,
        )
        self.info = ModelInfo(
            tasks=frozenset({Task.CLASSIFY_IMAGE if about.head == "classifier" else Task.DETECT}),
            classes=about.labels,
            defaults=_defaults(about),
            input=InputSpec(self._size[1], self._size[0], framework="numpy"),
            flag=parse_flag(flag, about.labels),
            max_batch=self._batch or about.max_batch,
            decode_size=_decode_size(form, self._size),
            device=context.device,
            dtype="float32" if context.dtype == "auto" else context.dtype,
            runtime=self._runtime.name,
            memory_bytes=bytes_of(graph),
        )
        self._try_out()

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Resize as the description says."""
        match source:
            case ImageInput():
                canvas, placed = _on_canvas(source.pixels, self._about.picture, self._size)
                return Prepared(canvas, placed)
            case _:
                raise InputError("this model looks at pictures; it was given a text")

    def infer(self, batch: Pixels) -> list[Array]:
        """(B, height, width, 3) uint8 RGB -> the graph's outputs, (B, ...) each."""
        count = len(batch)
        if self._batch > count:
            batch = np.concatenate([batch, np.repeat(batch[-1:], self._batch - count, 0)])
        outputs = self._runtime.run(self._laid_out(batch))
        return [output[:count] if output.ndim else output for output in outputs]

    def finish(self, outputs: Sequence[Array], items: Sequence[Item]) -> list[Output]:
        """Labels, or boxes of each item by its own options."""
        named = heads.pick_outputs(outputs, [port.name for port in self._runtime.outputs], self._about)
        if self._about.head == "classifier":
            return [self._labelled(row) for row in heads.scores(named, self._about).tolist()]
        found = heads.boxes(named, self._about, self._size)
        return [self._detected(found, index, item) for index, item in enumerate(items)]

    def _laid_out(self, batch: Pixels) -> Array:
        """Normalised, and in the graph's order and type."""
        form, port = self._about.picture, self._runtime.input
        if form.colors == "BGR":
            batch = batch[..., ::-1]
        if self._levels:
            planes = batch if form.layout == "NHWC" else batch.transpose(0, 3, 1, 2)
            return np.ascontiguousarray(planes, port.dtype)
        normal = self._normalize(torch.from_numpy(np.ascontiguousarray(batch)))
        if form.layout == "NHWC":
            normal = normal.permute(0, 2, 3, 1)
        laid: Array = normal.contiguous().numpy()
        return laid if port.dtype == np.float32 else laid.astype(port.dtype)

    def _labelled(self, row: Sequence[float]) -> Output:
        pairs = enumerate(zip(self._about.labels, row, strict=True))
        return Output(labels=[Label(name, score, index) for index, (name, score) in pairs])

    def _detected(self, found: heads.Found, index: int, item: Item) -> Output:
        corners, score, label = found.corners[index], found.score[index], found.label[index]
        options = item.options
        if not np.isfinite(score.sum() + corners.sum()):
            return Output(detections=(Detection(Box(0.0, 0.0, 1.0, 1.0), self._about.labels[0], math.nan),))
        best = _best(score, label, options, self._about.labels)
        box = _on_picture(corners[best], item.state)
        inside = (box[:, 2:] > box[:, :2]).all(1)
        best, box = best[inside], box[inside]
        kept = np.arange(len(best))
        if self._about.boxes.suppress:
            kept = keep(label[best], box, options.iou_threshold)
        return Output(
            detections=[
                self._detection(box[one], label[best[one]], score[best[one]])
                for one in kept[: options.max_detections]
            ]
        )

    def _detection(self, box: Array, label: Any, score: Any) -> Detection:
        # A score may come out of a graph's arithmetic a rounding error above 1.
        return Detection(Box(*box.tolist()), self._about.labels[label], min(float(score), 1.0), int(label))

    def _try_out(self) -> None:
        """Run one grey picture, so that outputs that do not fit the description are told while loading."""
        pixels = np.full((1, self._size[1], self._size[0], 3), 114, np.uint8)
        try:
            outputs = self._runtime.run(self._laid_out(np.repeat(pixels, self._batch or 1, 0)), trial=True)
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise LoadError(
                f"{self._about.place}: the graph cannot be run with this input (layout "
                f"{self._about.picture.layout}, size {self._size[0]} x {self._size[1]}): {why}"
            ) from error
        self.finish(
            [one[:1] if one.ndim else one for one in outputs],
            [Item(Task.DETECT, self.info.defaults, Placed(), *self._size)],
        )


def _file(context: LoadContext) -> Path:
    if not context.source:
        raise LoadError(f"model “{context.name}” needs a file: {context.name}=path/to/model.onnx")
    path = Path(context.source)
    if not path.is_file():
        raise LoadError(f"model “{context.name}”: {path} is not a file")
    return path


def _beside(graph: Path, named: str) -> Path:
    """The description: the one that the setting names, else the graph's namesake."""
    path = Path(named).expanduser() if named else graph.with_suffix(".toml")
    if not path.is_file():
        raise LoadError(
            f"{path} is missing: it has to say what {graph.name} takes and gives (head, labels, [input]); "
            "another file: description=PATH"
        )
    return path


def _agreed(runtime: Runtime, about: Description) -> tuple[int, tuple[int, int]]:
    """The graph's fixed batch (0 where it is open) and the input's (width, height).

    Raises LoadError where graph and description contradict each other, or neither tells.
    """
    form, shape = about.picture, runtime.input.shape or (None,) * 4
    if len(shape) != 4:
        raise LoadError(f"{about.place}: the graph's input has shape {shape}; a batch of pictures has 4 axes")
    channels, height, width = shape[1:] if form.layout == "NCHW" else (shape[3], *shape[1:3])
    if channels not in (None, 3):
        other = "NHWC" if form.layout == "NCHW" else "NCHW"
        hint = f"; “input.layout” may be {other}" if 3 in shape else ""
        raise LoadError(
            f"{about.place}: in layout {form.layout} the graph's input {shape} has {channels} channels, not 3"
            + hint
        )
    size = _side("width", width, form.size[0], about), _side("height", height, form.size[1], about)
    return shape[0] or 0, size


def _takes_levels(dtype: np.dtype[Any], about: Description) -> bool:
    """Whether the input is whole numbers, which are given levels as they are.

    Raises LoadError for those that do not hold what the description asks for: normalised levels would be cut
    to a few whole numbers. uint8 is given levels whatever it says.
    """
    if dtype.kind not in "iub":
        return False
    if dtype.kind == "b" or np.iinfo(dtype).max < 255:
        raise LoadError(
            f"{about.place}: the graph's input takes {dtype}, which does not hold levels of 0 to 255"
        )
    form = about.picture
    asked = form.divide not in (1.0, 255.0) or any(form.mean) or set(form.std) != {1.0}
    if asked and dtype != np.uint8:
        raise LoadError(
            f"{about.place}: the graph's input takes {dtype}, which holds no normalised levels; leave out "
            "“input.divide”, “mean” and “std”, or export it with an input of floats"
        )
    return True


def _side(name: str, graph: int | None, said: int, about: Description) -> int:
    if not graph and not said:
        raise LoadError(f"{about.place}: “input.size” is needed: the graph leaves its {name} open")
    if graph and said and graph != said:
        raise LoadError(f"{about.place}: “input.size” says {name} {said}, and the graph takes {graph}")
    return graph or said


def _defaults(about: Description) -> Options:
    if about.head == "classifier":
        return Options()
    return Options(min_score=about.min_score, iou_threshold=about.iou_threshold)


def _decode_size(form: PictureForm, size: tuple[int, int]) -> tuple[int, int]:
    least = max(form.short_side, *size) if form.resize == "crop" else 0
    return (max(least, size[0]), max(least, size[1]))


def _on_canvas(pixels: Pixels, form: PictureForm, size: tuple[int, int]) -> tuple[Pixels, Placed]:
    how, (width, height) = imaging.Filter(form.filter), size
    rows, columns = pixels.shape[:2]
    match form.resize:
        case "stretch":
            return imaging.resize(pixels, width, height, how), Placed()
        case "crop":
            short = form.short_side or math.ceil(min(rows, columns) * max(width / columns, height / rows))
            seen = imaging.middle(pixels, short, width, height)
            scaled = imaging.resize_short_side(seen, short, how)
            high, wide = scaled.shape[:2]
            # The odd pixel is where `center_crop` leaves it, cutting and padding.
            left, top = (width - wide + 1) // 2, (height - high + 1) // 2
            # In all, with what is too far out to be seen.
            wider, higher = wide * columns / seen.shape[1], high * rows / seen.shape[0]
            placed = Placed(
                (left - (wider - wide) / 2) / width,
                (top - (higher - high) / 2) / height,
                wider / width,
                higher / height,
            )
            return imaging.center_crop(scaled, width, height), placed
        case _:
            centered = form.resize == "letterbox-center"
            canvas, scale, (left, top) = imaging.letterbox(
                pixels, width, height, fill=form.fill, centered=centered, how=how
            )
            return canvas, Placed(left / width, top / height, scale * columns / width, scale * rows / height)


def _on_picture(corners: Array, placed: Placed) -> Array:
    """(N, 4) corners in fractions of the canvas, as fractions of the picture, cut at its edges."""
    offset = np.array([placed.left, placed.top] * 2, np.float32)
    size = np.array([placed.width, placed.height] * 2, np.float32)
    box: Array = ((corners - offset) / size).clip(0.0, 1.0)
    return box


def _best(score: Array, label: Array, options: Options, classes: Sequence[str]) -> Array:
    """Indices of the boxes that are wanted, highest score first, as many as suppression can bear."""
    wanted = (score >= options.min_score) & (label >= 0)
    if options.labels:
        wanted &= np.isin(label, [index for index, name in enumerate(classes) if name in options.labels])
    best: Array = wanted.nonzero()[0]
    return best[np.argsort(-score[best], kind="stable")][:_MOST_CANDIDATES]
