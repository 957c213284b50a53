"""The tracks of a stream as one table, and as few bytes as go into a resume token.

A row of the table is a track. Packed, a row takes 85 bytes: single precision is far finer than any
detector, and times are kept relative to the last frame.
"""

import math
import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from opsin_server.streams.tracking.motion import Floats, Motion

__all__ = ["MOST_TRACKS", "Tracks", "pack", "unpack"]

MOST_TRACKS = 128
"""Tracks that are kept at once; a snapshot stays under 16 KiB."""

_VERSION = 1
_HEAD = struct.Struct("<BdIH")  # version, time of the last frame (NaN: none), next number, rows
_ROW = np.dtype(
    [
        ("mean", "<f4", 4),
        ("velocity", "<f4", 4),
        ("spread", "<f4", (4, 3)),
        ("number", "<u4"),
        ("kind", "<i4"),
        ("missed", "u1"),
        ("seen", "<f4"),
        ("begun", "<f4"),
    ]
)

Rows = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Tracks:
    """n tracks.

    number: 0 until a track is confirmed. kind: its class. missed: looked-at frames since it was seen.
    seen, begun: times of its last and its first sighting. doomed: to be dropped with the next tidying up.
    """

    motion: Motion
    number: Rows
    kind: Rows
    missed: Rows
    seen: Floats
    begun: Floats
    doomed: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @staticmethod
    def none() -> "Tracks":
        """No tracks."""
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        motion = Motion(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4, 3)))
        return Tracks(motion, whole, whole, whole, real, real)

    def __len__(self) -> int:
        return len(self.number)

    def see(self, rows: Rows, centres: Floats, time: float) -> None:
        """Tracks `rows` were seen at `centres`, the others were not."""
        self.missed = np.minimum(self.missed + 1, 255)
        self.missed[rows] = 0
        self.seen[rows] = time
        self.motion.correct(rows, centres)

    def join(self, motion: Motion, kind: Rows, number: Rows, time: float) -> None:
        """New tracks."""
        count = len(number)
        self.motion = self.motion.join(motion)
        self.number = np.concatenate([self.number, number])
        self.kind = np.concatenate([self.kind, kind])
        self.missed = np.concatenate([self.missed, np.zeros(count, np.int64)])
        self.seen = np.concatenate([self.seen, np.full(count, time)])
        self.begun = np.concatenate([self.begun, np.full(count, time)])
        self.doomed = np.concatenate([self.doomed, np.zeros(count, bool)])

    def keep(self, rows: Rows) -> None:
        """Drop all but these, and of these the ones seen longest ago when there are too many."""
        if len(rows) > MOST_TRACKS:
            latest = np.argsort(-self.seen[rows], kind="stable")[:MOST_TRACKS]
            rows = rows[np.sort(latest)]
        self.motion = self.motion.keep(rows)
        for name in ("number", "kind", "missed", "seen", "begun", "doomed"):
            setattr(self, name, getattr(self, name)[rows])


def pack(tracks: Tracks, now: float, last: float | None, following: int) -> bytes:
    """A tracker's state as bytes. now: on the clock of the table. last: the last frame's time, by its own."""
    rows = np.zeros(len(tracks), _ROW)
    rows["mean"], rows["velocity"] = tracks.motion.mean, tracks.motion.velocity
    rows["spread"] = tracks.motion.spread
    rows["number"], rows["kind"], rows["missed"] = tracks.number, tracks.kind, tracks.missed
    rows["seen"], rows["begun"] = tracks.seen - now, tracks.begun - now
    head = _HEAD.pack(_VERSION, math.nan if last is None else last, following, len(rows))
    return head + rows.tobytes()


def unpack(data: bytes) -> tuple[Tracks, float | None, int]:
    """The way back: tracks whose clock stands at 0, the last frame's time, the next number.

    Raises ValueError.
    """
    if len(data) < _HEAD.size:
        raise ValueError("the snapshot ends too soon")
    version, last, following, count = _HEAD.unpack_from(data)
    if version != _VERSION or len(data) != _HEAD.size + count * _ROW.itemsize or count > MOST_TRACKS:
        raise ValueError("the snapshot is not of this tracker")
    rows = np.frombuffer(data, _ROW, offset=_HEAD.size)
    real, whole = np.float64, np.int64
    tracks = Tracks(
        Motion(rows["mean"].astype(real), rows["velocity"].astype(real), rows["spread"].astype(real)),
        number=rows["number"].astype(whole),
        kind=rows["kind"].astype(whole),
        missed=rows["missed"].astype(whole),
        seen=rows["seen"].astype(real),
        begun=rows["begun"].astype(real),
        doomed=np.zeros(count, bool),
    )
    return tracks, None if math.isnan(last) else last, following
