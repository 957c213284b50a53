"""RapidOCR behind the detector API: a picture in, lines of text with their boxes out.

    prepare   the pixels as they are: text needs all of them
    infer     one picture after the other, on an engine of this lane's width
    finish    from quadrangles to boxes

Finding and reading lines are two networks with pictures of changing sizes between them, all of it rapidocr's
own; so a batch brings nothing, and it is kept small. Owns lending engines to lanes, and the threshold.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rapidocr
import torch

from opsin_detectors.api import (
    Box,
    Detection,
    Detector,
    Input,
    Item,
    LoadContext,
    LoadError,
    ModelInfo,
    Options,
    Output,
    Pixels,
    Prepared,
    Task,
)
from opsin_detectors.inputs import picture_of
from opsin_detectors.settings import Settings

__all__ = ["Ocr"]

CLASSES = ("text",)
LEAST_SIDE = 32
"""Pixels that a side has to keep: rapidocr rounds sides to multiples of it."""
MOST_PROPORTION = 4
"""Of the longer side to the shorter one; it bounds what a picture costs."""
MAX_BATCH = 4
"""Pictures of one batch run one after the other, and the first is answered only after the last."""


@dataclass(frozen=True, slots=True)
class Line:
    """What was read in one place. corners: (4, 2) x and y in pixels, clockwise from the top left."""

    corners: npt.NDArray[np.float32]
    text: str
    score: float


class Ocr(Detector):
    """Engines on the CPU. Settings: `angle` (turn lines that stand on their head), `max_side` in pixels.

    Defaults: min_score 0.5, 100 lines.
    """

    def __init__(self, context: LoadContext) -> None:
        settings = Settings(context)
        self._angle = settings.switch("angle", True)
        self._max_side = int(settings.number("max_side", 2000, least=64, most=16384))
        settings.done()
        if context.device != "cpu":
            raise LoadError(f"model “{context.name}”: ocr runs on the CPU; set device=cpu")
        if context.dtype not in ("auto", "float32"):
            raise LoadError(f"model “{context.name}”: ocr computes in float32, not in {context.dtype}")
        # OpenCV's own threads are the process's, as many as there are cores, whatever a lane may use.
        cv2.setNumThreads(1)
        self._engines = Engines(self._engine)
        self.info = ModelInfo(
            tasks=frozenset({Task.READ_TEXT}),
            classes=CLASSES,
            defaults=Options(min_score=0.5, max_detections=100),
            max_batch=MAX_BATCH,
            device="cpu",
            runtime="onnxruntime",
        )
        with self._engines.lent(1):
            pass  # what cannot be loaded is told now

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """The pixels, blue first, as rapidocr takes them."""
        pixels = picture_of("ocr", source).pixels
        return Prepared(_thick_enough(pixels[..., ::-1], self._max_side))

    def infer(self, batch: Sequence[Pixels]) -> list[list[Line]]:
        """The lines of each picture."""
        with self._engines.lent(max(1, torch.get_num_threads())) as engine:
            return [_read(engine, pixels) for pixels in batch]

    def finish(self, outputs: Sequence[Sequence[Line]], items: Sequence[Item]) -> list[Output]:
        """Lines as detections, in the order in which they are read."""
        return [
            Output(detections=_detections(lines, item)) for lines, item in zip(outputs, items, strict=True)
        ]

    def close(self) -> None:
        """Let the engines go."""
        self._engines.clear()

    def _engine(self, width: int) -> Any:
        return rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": self._angle,
                "Global.max_side_len": self._max_side,
                "Global.text_score": 0.0,  # the threshold is each caller's own
                "EngineConfig.onnxruntime.intra_op_num_threads": width,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )


class Engines:
    """Engines of rapidocr by width. Each is lent to one thread at a time: it keeps its work in its fields."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._idle: dict[int, list[Any]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lent(self, width: int) -> Iterator[Any]:
        """An engine of that many threads: an idle one, else a new one."""
        with self._lock:
            idle = self._idle.setdefault(width, [])
            engine = idle.pop() if idle else None
        engine = engine if engine is not None else self._make(width)
        try:
            yield engine
        finally:
            with self._lock:
                self._idle.setdefault(width, []).append(engine)

    def clear(self) -> None:
        """Forget those that are idle."""
        with self._lock:
            self._idle.clear()


def _thick_enough(pixels: Pixels, max_side: int) -> Pixels:
    """Grown below or to the right by its own edge, if one side is too short for the other.

    rapidocr reduces the longer side to `max_side`, which would leave nothing of the shorter one, and then
    enlarges the shorter side to 736, which would make a sliver of 4000 x 1 a picture of millions of pixels.
    """
    rows, columns = pixels.shape[:2]
    longer = max(rows, columns)
    least = math.ceil(max(LEAST_SIDE, LEAST_SIDE * longer / max_side, longer / MOST_PROPORTION))
    missing = (max(0, least - rows), max(0, least - columns))
    if not any(missing):
        return np.ascontiguousarray(pixels)
    return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def _read(engine: Any, pixels: Pixels) -> list[Line]:
    result = engine(pixels)
    boxes, texts, scores = (getattr(result, name, None) for name in ("boxes", "txts", "scores"))
    if boxes is None or texts is None or scores is None:
        return []
    return [
        Line(np.asarray(box, np.float32), text, float(score))
        for box, text, score in zip(boxes, texts, scores, strict=True)
    ]


def _detections(lines: Sequence[Line], item: Item) -> list[Detection]:
    found = []
    for line in lines:
        if not line.text.strip() or line.score < item.options.min_score:
            continue
        (x_min, y_min), (x_max, y_max) = line.corners.min(0), line.corners.max(0)
        edges = np.array([x_min / item.width, y_min / item.height, x_max / item.width, y_max / item.height])
        box = Box(*edges.clip(0.0, 1.0).tolist())
        score = min(line.score, 1.0) if math.isfinite(line.score) else math.nan
        found.append(Detection(box, CLASSES[0], score, text=line.text))
    return found
