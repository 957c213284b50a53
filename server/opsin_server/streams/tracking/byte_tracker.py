"""ByteTrack: what was found with little confidence does not begin a track, but keeps one alive.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022. Written anew
from the paper, with three differences: time is capture time and not a count of frames, so that dropped
frames do no harm; classes are kept apart; and a track is lost by time and by looks, so that a slow stream
is not forgetful.

For each frame that was looked at:

1. All tracks move to the frame's time.
2. Sure sightings (score >= `sure`) are paired with the confirmed tracks, lost ones too, by overlap and score.
3. Unsure sightings (score >= `unsure`) with tracks that step 2 left over and that were seen in the last
frame. 4. Sure sightings that are left with tracks that were seen once; these are now confirmed and get
   their number, or are dropped. In the first frame of a stream there is nobody to wait for, and all are
   confirmed.
5. What sure sightings are left begin new tracks.
6. Tracks that were not seen for `memory` seconds and `looks` frames are forgotten; and of two tracks that
   came to lie on each other the younger.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opsin_server.streams.tracking.api import Sightings
from opsin_server.streams.tracking.assignment import assign
from opsin_server.streams.tracking.motion import Motion, to_boxes, to_centres
from opsin_server.streams.tracking.snapshot import MOST_TRACKS, Tracks, pack, unpack

__all__ = ["ByteTracker", "TrackerOptions"]

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_SAME_PLACE = 0.85  # overlap from which two tracks are one


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """How sightings become tracks; scores and overlaps 0..1.

    sure: from here on a sighting can begin a track. unsure: from here on it can keep one alive. overlap:
    that a sure sighting needs, times its score. overlap_unsure, overlap_new: that an unsure one and one
    with a new track need. memory: seconds, and looks: frames, that a track outlives its last sighting.
    """

    sure: float = 0.5
    unsure: float = 0.1
    overlap: float = 0.2
    overlap_unsure: float = 0.5
    overlap_new: float = 0.3
    memory: float = 1.0
    looks: int = 3


class ByteTracker:
    """Follows things through one stream; a `Tracker`."""

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self._options = options or TrackerOptions()
        self._tracks = Tracks.none()
        self._now = 0.0  # grows by the time between frames, whatever their clock does
        self._last: float | None = None  # the last frame's time, by its clock
        self._next = 1

    def update(self, seen: Sightings, time: float) -> list[int]:
        """The number of each thing seen, 0 where it has none; see `Tracker`."""
        first, tracks = self._last is None, self._tracks
        passed = 0.0 if self._last is None else max(0.0, time - self._last)
        self._last, self._now = time, self._now + passed
        tracks.motion.velocity[tracks.missed > 0, 2:] = 0.0  # what cannot be seen is not thought to grow
        tracks.motion.predict(passed)
        row_of = self._pair(seen)
        found = np.flatnonzero(row_of >= 0)
        self._confirm(row_of[found])
        tracks.see(row_of[found], to_centres(seen.boxes[found]), self._now)
        numbers = np.zeros(len(row_of), np.int64)
        numbers[found] = tracks.number[row_of[found]]
        fresh = np.flatnonzero((row_of < 0) & (seen.scores >= self._options.sure))
        numbers[fresh] = self._begin(seen, fresh, confirmed=first)
        self._forget()
        return [int(n) for n in numbers]

    def snapshot(self) -> bytes:
        """All that is known; at most `MOST_TRACKS` tracks, those seen last."""
        return pack(self._tracks, self._now, self._last, self._next)

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot. Raises ValueError when it is none."""
        self._tracks, self._last, self._next = unpack(snapshot)
        self._now = 0.0

    # -- pairing -----------------------------------------------------------------------------------------

    def _pair(self, seen: Sightings) -> Rows:
        """For each sighting the row of its track, or -1."""
        options, tracks = self._options, self._tracks
        row_of = np.full(len(seen.scores), -1, np.int64)
        if not len(tracks) or not len(row_of):
            return row_of
        overlaps = _overlaps(to_boxes(tracks.motion.mean), seen.boxes)
        overlaps *= tracks.kind[:, None] == seen.classes[None, :]
        sure = seen.scores >= options.sure
        known = tracks.number > 0
        self._match(row_of, overlaps * seen.scores, known, sure, options.overlap)
        recent = known & (tracks.missed == 0)
        unsure = ~sure & (seen.scores >= options.unsure)
        self._match(row_of, overlaps, recent, unsure, options.overlap_unsure)
        self._match(row_of, overlaps * seen.scores, ~known, sure, options.overlap_new)
        return row_of

    @staticmethod
    def _match(
        row_of: Rows,
        likeness: Floats,
        tracks: npt.NDArray[np.bool_],
        sightings: npt.NDArray[np.bool_],
        least: float,
    ) -> None:
        """Pair those of both that are still free, where they are alike enough."""
        free = tracks.copy()
        free[row_of[row_of >= 0]] = False
        rows = np.flatnonzero(free)
        columns = np.flatnonzero(sightings & (row_of < 0))
        if len(rows) and len(columns):
            for row, column in assign(likeness[np.ix_(rows, columns)] - least):
                row_of[columns[column]] = rows[row]

    # -- the life of a track -----------------------------------------------------------------------------

    def _confirm(self, rows: Rows) -> None:
        """Tracks that are seen again get their number; those of one sighting that are not, go."""
        tracks = self._tracks
        for row in rows:
            if not tracks.number[row]:
                tracks.number[row] = self._take_number()
        seen = np.zeros(len(tracks), bool)
        seen[rows] = True
        tracks.doomed = (tracks.number == 0) & ~seen

    def _begin(self, seen: Sightings, columns: Rows, *, confirmed: bool) -> list[int]:
        numbers = [self._take_number() if confirmed else 0 for _ in columns]
        motion = Motion.begin(to_centres(seen.boxes[columns]))
        self._tracks.join(motion, seen.classes[columns], np.array(numbers, np.int64), self._now)
        return numbers

    def _take_number(self) -> int:
        number = self._next
        self._next = number + 1 if number < 0xFFFFFFFF else 1
        return number

    def _forget(self) -> None:
        """Drop what was lost for too long, and the younger of two that are one."""
        tracks, options = self._tracks, self._options
        lost = (self._now - tracks.seen > options.memory) & (tracks.missed >= options.looks)
        keep = ~(lost | tracks.doomed)
        keep &= ~_doubles(tracks)
        if not keep.all() or len(tracks) > MOST_TRACKS:
            tracks.keep(np.flatnonzero(keep))


def _doubles(tracks: Tracks) -> npt.NDArray[np.bool_]:
    """The younger of each two tracks of a class that lie on each other, one of them lost."""
    double = np.zeros(len(tracks), bool)
    lost = np.flatnonzero(tracks.missed > 0)
    if not len(lost) or len(lost) == len(tracks):
        return double
    there = np.flatnonzero(tracks.missed == 0)
    boxes = to_boxes(tracks.motion.mean)
    same = _overlaps(boxes[lost], boxes[there]) * (tracks.kind[lost][:, None] == tracks.kind[there][None, :])
    for i, j in np.argwhere(same > _SAME_PLACE):
        a, b = lost[i], there[j]
        double[a if tracks.begun[a] >= tracks.begun[b] else b] = True
    return double


def _overlaps(a: Floats, b: Floats) -> Floats:
    """Intersection over union of each box of `a` with each of `b`: (len(a), len(b)), 0..1."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0.0), 2)
    area_a, area_b = (np.prod(np.maximum(x[:, 2:] - x[:, :2], 0.0), 1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - both
    overlaps: Floats = both / np.maximum(union, 1e-12)
    return overlaps
