"""What a model's run time is, as a function of batch size, learnt from its own runs."""

__all__ = ["Profile"]


class Profile:
    """Run time by batch size."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def observe(self, batch: int, seconds: float) -> None:
        """One batch of `batch` items took `seconds` on the lane."""
        known = self._seconds.get(batch, seconds)
        self._seconds[batch] = 0.8 * known + 0.2 * seconds

    def seconds(self, batch: int) -> float:
        """Expected run time of a batch of this size; 0 when nothing is known."""
        return self._seconds.get(batch, 0.0)

    def table(self) -> dict[int, float]:
        """Everything learnt: batch size to seconds."""
        return dict(self._seconds)
