"""The frames that a session accepted and has not replied to: where each is, and in what order they leave.

Bookkeeping for `session.py`, which decides. Counts are kept rather than counted, as they are asked for with
each event.
"""

import math
from collections import deque
from collections.abc import Iterator
from enum import IntEnum

from opsin_server.streams.events import FrameArrived, Outcome
from opsin_server.streams.freshness import Freshness, FreshnessMode, Sampler

__all__ = ["Frame", "Frames", "Rule", "Stage"]


class Stage(IntEnum):
    """Where a frame is, in the order in which it passes through; frames may skip stages."""

    CHAINED = 0  # waits for the stream's decoder, or is in it
    WAITING = 1  # could be submitted
    PREPARING = 2  # submitted; being decoded and prepared
    QUEUED = 3  # submitted; waits for the device
    RUNNING = 4  # on the device
    SETTLED = 5  # what becomes of it is known


class Rule:
    """A freshness in force, with what it remembers of the frames so far."""

    __slots__ = ("drops", "latest", "max_age", "sampler")

    def __init__(self, freshness: Freshness) -> None:
        mode = freshness.mode
        self.drops = mode is not FreshnessMode.EVERY_FRAME
        self.latest = mode is FreshnessMode.LATEST
        self.max_age = freshness.max_age if mode is FreshnessMode.MAX_AGE else math.inf
        self.sampler = Sampler(freshness.target_fps) if mode is FreshnessMode.TARGET_FPS else None


class Frame:
    """One accepted frame.

    rule: in force when it arrived, and its own from then on. late: seconds that it travelled longer than the
    quickest. start_by: when it is too old to run. not_before: when to try again after a refusal. undecoded:
    it is still due to go through the decoder. settled: when its outcome was known.
    """

    __slots__ = (
        "arrival",
        "captured",
        "late",
        "not_before",
        "outcome",
        "rule",
        "sequence",
        "settled",
        "size",
        "stage",
        "start_by",
        "undecoded",
    )

    def __init__(self, event: FrameArrived, arrival: float, late: float, rule: Rule) -> None:
        self.sequence = event.sequence
        self.captured = event.captured
        self.size = event.size
        self.undecoded = event.chained
        self.arrival = arrival
        self.late = late
        self.rule = rule
        self.start_by = arrival + rule.max_age - late
        self.not_before = -math.inf
        self.stage = Stage.CHAINED if event.chained else Stage.WAITING
        self.outcome: Outcome | None = None
        self.settled = math.inf


class Frames:
    """Every accepted frame until its reply is on its way.

    line: all of them, in sequence order. live: those without an outcome. chain: those whose packet must
    still be decoded, settled or not. waiting: those that could be submitted. bytes: what they hold.
    """

    __slots__ = ("_counts", "bytes", "chain", "line", "live", "waiting")

    def __init__(self) -> None:
        self.line: deque[Frame] = deque()
        self.live: dict[int, Frame] = {}
        self.chain: deque[Frame] = deque()
        self.waiting: deque[Frame] = deque()
        self.bytes = 0
        self._counts = [0] * len(Stage)

    def accept(self, frame: Frame) -> None:
        """Append a frame."""
        self.line.append(frame)
        self.live[frame.sequence] = frame
        self.bytes += frame.size
        self._counts[frame.stage] += 1
        if frame.undecoded:
            self.chain.append(frame)

    def move(self, frame: Frame, stage: Stage) -> None:
        """A live frame is somewhere else now; `SETTLED` is for `settle`."""
        self._counts[frame.stage] -= 1
        self._counts[stage] += 1
        frame.stage = stage

    def wait_again(self, frame: Frame) -> None:
        """A frame comes back from the pipeline, to its place among those that wait."""
        self.move(frame, Stage.WAITING)
        behind = sum(f.sequence < frame.sequence for f in self.waiting)
        self.waiting.insert(behind, frame)

    def settle(self, frame: Frame, outcome: Outcome, now: float) -> None:
        """What becomes of a live frame is known."""
        self.move(frame, Stage.SETTLED)
        frame.outcome = outcome
        frame.settled = now
        del self.live[frame.sequence]
        if not frame.undecoded:
            self._release(frame)

    def decoded(self) -> Frame:
        """The first of the chain went through the decoder."""
        frame = self.chain.popleft()
        frame.undecoded = False
        self._release(frame)
        return frame

    def _release(self, frame: Frame) -> None:
        self.bytes -= frame.size
        frame.size = 0

    def leave(self) -> Frame:
        """Take out the first in line, whose turn has come."""
        return self.line.popleft()

    @property
    def submitted(self) -> int:
        """Live frames that are in the pipeline."""
        counts = self._counts
        return counts[Stage.PREPARING] + counts[Stage.QUEUED] + counts[Stage.RUNNING]

    @property
    def running(self) -> int:
        """Live frames on the device."""
        return self._counts[Stage.RUNNING]

    def at(self, stage: Stage) -> Iterator[Frame]:
        """Live frames of a stage, oldest first."""
        return (f for f in self.live.values() if f.stage is stage)

    def count(self, stage: Stage) -> int:
        """How many live frames of a stage there are."""
        return self._counts[stage]
