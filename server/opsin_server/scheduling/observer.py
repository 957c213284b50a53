"""Who is told what the scheduler does: telemetry, traces. A seam, and nothing else."""

from typing import Literal, Protocol

from opsin_server.scheduling.ticket import Ticket

__all__ = ["EndOfTicket", "Nobody", "Observer"]

EndOfTicket = Literal["answered", "failed", "cancelled", "expired", "unmeetable", "lost"]


class Observer(Protocol):
    """Told what happens, on the owner's thread; must be quick and must not raise."""

    def ticket_arrived(self, ticket: Ticket) -> None:
        """An input was queued."""
        ...

    def batch_ran(self, model: str, size: int, seconds: float, *, again: bool, device: str) -> None:
        """A batch left its lane after `seconds`. again: it was a half of one that failed.

        device: where there are several, else empty.
        """
        ...

    def ticket_ended(self, model: str, end: EndOfTicket) -> None:
        """A ticket was answered, or given up."""
        ...


class Nobody:
    """Does not listen."""

    def ticket_arrived(self, ticket: Ticket) -> None: ...
    def batch_ran(self, model: str, size: int, seconds: float, *, again: bool, device: str) -> None: ...
    def ticket_ended(self, model: str, end: EndOfTicket) -> None: ...
