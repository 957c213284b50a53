"""The breaker: when something outside fails often enough, nobody waits for it any more until it is well.

Pure: it is told what happened and when. Who tries whether it is well again, and how, is the owner's business.
"""

from collections import deque

__all__ = ["Breaker"]


class Breaker:
    """Opens after `in_a_row` failures, or when half of the last `window` calls failed.

    Open, it says for how long to leave the thing alone: `rest` seconds, doubled with each vain attempt up to
    `longest`.
    """

    def __init__(
        self, *, in_a_row: int = 3, window: int = 20, rest: float = 0.5, longest: float = 5.0
    ) -> None:
        self.open = False
        self._in_a_row = in_a_row
        self._failed: deque[bool] = deque(maxlen=window)
        self._row = 0
        self._first_rest = self._rest = rest
        self._longest = longest

    def succeeded(self) -> None:
        """A call went well."""
        self._row = 0
        self._failed.append(False)

    def failed(self) -> bool:
        """A call failed. True when that opens the breaker."""
        if self.open:
            return False
        self._row += 1
        self._failed.append(True)
        often = len(self._failed) == self._failed.maxlen and 2 * sum(self._failed) >= len(self._failed)
        self.open = self._row >= self._in_a_row or often
        return self.open

    def rest(self) -> float:
        """Seconds until the next attempt to see whether it is well; each is longer than the one before."""
        seconds, self._rest = self._rest, min(2 * self._rest, self._longest)
        return seconds

    def well(self) -> None:
        """An attempt went well: calls may go there again."""
        self.open = False
        self._row = 0
        self._failed.clear()
        self._rest = self._first_rest
