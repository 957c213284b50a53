"""The waiting tickets, and what the policy must know of each model."""

from collections.abc import Iterator
from dataclasses import dataclass

from opsin_server.scheduling.ticket import Ticket

__all__ = ["ModelTerms", "Queues"]


@dataclass(frozen=True, slots=True)
class ModelTerms:
    """How a model may be run. buckets: warmed batch sizes, ascending. weight: its fair share of the device."""

    buckets: tuple[int, ...]
    weight: float = 1.0


class Queues:
    """Every ticket that waits, in order of arrival."""

    def __init__(self) -> None:
        self.terms: dict[str, ModelTerms] = {}
        self._tickets: dict[int, Ticket] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets.values())

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket.id in self._tickets

    def add(self, ticket: Ticket) -> None:
        """Append a ticket of a known model."""
        self._tickets[ticket.id] = ticket
        self.size += ticket.size

    def remove(self, ticket: Ticket) -> None:
        """Take a waiting ticket out."""
        del self._tickets[ticket.id]
        self.size -= ticket.size

    def started(self, model: str, tickets: tuple[Ticket, ...], now: float) -> None:
        """The tickets were removed and run as one batch from `now`."""

    def finished(self, model: str, tickets: tuple[Ticket, ...], now: float, seconds: float) -> None:
        """The batch ended and held its lane for `seconds`: charge it."""
