"""How many bytes of decoded pixels the server holds at once: asked before a decode, given back later.

Counts promises, not memory. For the event loop's thread alone, so it needs no lock.
"""

from types import TracebackType
from typing import Self

from opsin_server.errors import Failure, Reason

__all__ = ["Held", "PixelBudget", "Reservation"]


class PixelBudget:
    """`capacity` bytes, lent out in reservations.

    retry_after: seconds that a refused caller is told to wait; about the time in which a decoded picture
        moves through the server.
    """

    def __init__(self, capacity: int, retry_after: float = 0.25) -> None:
        self.capacity = capacity
        self.used = 0
        self.held = 0
        """Bytes of `used` that streams' decoders put out, and that nobody could refuse."""
        self._retry_after = retry_after

    def reserve(self, size: int) -> "Reservation":
        """Take `size` bytes, to be released (it is a context manager, too).

        Raises `Failure` MEMORY_LIMIT: with `retry_after` when they are taken by others, never to be retried
        when they are more than there will ever be. Nothing at all is never refused: a text needs no pixels,
        however many more than there are to have the streams may `hold`.
        """
        if size and self.used + size > self.capacity:
            raise self._refusal(size)
        self.used += size
        return Reservation(self, size)

    @property
    def crowded(self) -> bool:
        """Whether streams hold half of it: no more packets may be decoded, or nothing could become RGB."""
        return 2 * self.held >= self.capacity

    def hold(self, size: int) -> "Reservation":
        """Take `size` bytes that exist already, as a picture that came out of a decoder does; never refused.

        So whoever makes them asks `crowded` before.
        """
        self.used += size
        self.held += size
        return Held(self, size)

    def _refusal(self, size: int) -> Failure:
        hopeless = size > self.capacity
        rest = "in all" if hopeless else f"and {self.used} are in use"
        return Failure(
            Reason.MEMORY_LIMIT,
            f"The decoded picture takes {size} bytes; the server has {self.capacity} for pixels {rest}.",
            metadata={"needed": str(size), "used": str(self.used), "limit": str(self.capacity)},
            retry_after=None if hopeless else self._retry_after,
            never_retry=hopeless,
        )


class Reservation:
    """Bytes lent by a `PixelBudget` until `release`, which may be called more than once."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: PixelBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes: what is left once a picture was reduced or cropped."""
        kept = min(size, self.size)
        self._budget.used -= self.size - kept
        self.size = kept

    def grow(self, size: int) -> None:
        """Take `size` bytes more. Raises `Failure` as `PixelBudget.reserve` does."""
        self.size += self._budget.reserve(size).size

    def release(self) -> None:
        """Give everything back."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Held(Reservation):
    """Bytes of pictures that a stream's decoder put out."""

    __slots__ = ()

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes."""
        before = self.size
        super().shrink(size)
        self._budget.held -= before - self.size
