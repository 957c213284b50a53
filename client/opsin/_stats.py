"""Counting what happens to a stream's frames."""

from collections import Counter, deque

from opsin._replies import DropReason, FrameDropped, FrameFailed, FrameReply, FrameResult, StreamStats

__all__ = ["Tally"]

_AGES = 1000  # enough for a p99


class Tally:
    """Figures of one stream. started: monotonic seconds."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._sent = 0
        self._bytes = 0
        self._answered = 0
        self._failed = 0
        self._dropped: Counter[DropReason] = Counter()
        self._ages: deque[float] = deque(maxlen=_AGES)
        self.reconnects = 0
        self.stopped: float | None = None

    def sent(self, size: int, *, again: bool) -> None:
        """A frame was handed to the network; `again`: not for the first time."""
        self._sent += not again
        self._bytes += size

    def given(self, reply: FrameReply) -> None:
        """A reply was given to the caller."""
        match reply:
            case FrameResult(age=age):
                self._answered += 1
                if age is not None:
                    self._ages.append(age)
            case FrameDropped(reason=reason):
                self._dropped[reason] += 1
            case FrameFailed():
                self._failed += 1

    def stats(self, now: float, *, in_flight: int, window: int, waiting: int) -> StreamStats:
        """All figures as they stand."""
        ages = sorted(self._ages)
        seconds = (now if self.stopped is None else self.stopped) - self._started
        return StreamStats(
            sent=self._sent,
            answered=self._answered,
            dropped=dict(self._dropped),
            failed=self._failed,
            in_flight=in_flight,
            window=window,
            waiting=waiting,
            bytes_sent=self._bytes,
            reconnects=self.reconnects,
            age_p50=_quantile(ages, 0.50),
            age_p99=_quantile(ages, 0.99),
            age_max=ages[-1] if ages else None,
            seconds=seconds,
            fps=self._answered / seconds if seconds > 0 else 0.0,
        )


def _quantile(ascending: list[float], share: float) -> float | None:
    """Nearest rank: the smallest value that `share` of all do not exceed."""
    if not ascending:
        return None
    return ascending[max(-(-round(share * 100) * len(ascending) // 100), 1) - 1]
