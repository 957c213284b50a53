"""What a simulation showed: goodput, latency, shares, use of the device, work in vain.

Owns the counting; knows nothing of how it came about.
"""

from array import array
from dataclasses import dataclass, field

from opsin_server.scheduling.ticket import Ticket

__all__ = ["Recorder", "Result", "Tally"]


@dataclass(slots=True)
class Tally:
    """What became of the requests of one model or flow.

    good: answered in time. late: answered after the deadline. dropped: given up while waiting.
    refused: turned away on arrival. busy: lane seconds.
    latencies: seconds from request to answer, late ones included.
    """

    good: int = 0
    late: int = 0
    dropped: int = 0
    refused: int = 0
    busy: float = 0.0
    latencies: "array[float]" = field(default_factory=lambda: array("d"), repr=False)

    @property
    def asked(self) -> int:
        """All requests."""
        return self.good + self.late + self.dropped + self.refused

    def quantile(self, share: float) -> float:
        """Latency in seconds that this share of the answers did not exceed; 0 without answers."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """One simulation. seconds: virtual time from the start to the last event."""

    policy: str
    seconds: float
    lanes: int
    total: Tally
    models: dict[str, Tally]
    flows: dict[str, Tally]
    batches: int
    in_vain: float

    @property
    def goodput(self) -> float:
        """Answers in time, a second."""
        return self.total.good / self.seconds if self.seconds else 0.0

    @property
    def use(self) -> float:
        """Share of the lanes' time in which they ran batches."""
        return self.total.busy / (self.lanes * self.seconds) if self.seconds else 0.0

    @property
    def mean_batch(self) -> float:
        """Tickets in a batch."""
        return (self.total.good + self.total.late) / self.batches if self.batches else 0.0

    @property
    def vain_share(self) -> float:
        """Share of the lanes' busy time spent on answers that came too late."""
        return self.in_vain / self.total.busy if self.total.busy else 0.0

    def share(self, flow: str) -> float:
        """Share of the busy time that a flow had."""
        return self.flows[flow].busy / self.total.busy if self.total.busy else 0.0

    def model_share(self, model: str) -> float:
        """Share of the busy time that a model had."""
        return self.models[model].busy / self.total.busy if self.total.busy else 0.0

    def row(self) -> dict[str, object]:
        """The figures, ready for JSON. Times in milliseconds."""
        total = self.total
        return {
            "policy": self.policy,
            "goodput": round(self.goodput, 3),
            "good_share": round(total.good / total.asked, 4) if total.asked else 0.0,
            "late": total.late,
            "dropped": total.dropped,
            "refused": total.refused,
            "p50_ms": round(1e3 * total.quantile(0.5), 3),
            "p99_ms": round(1e3 * total.quantile(0.99), 3),
            "mean_batch": round(self.mean_batch, 2),
            "device_use": round(self.use, 4),
            "in_vain": round(self.vain_share, 4),
            "models": {m: round(self.model_share(m), 4) for m in sorted(self.models)},
            "flows": {f: round(self.share(f), 4) for f in sorted(self.flows)},
        }


class Recorder:
    """Counts while a simulation runs."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.total = Tally()
        self.models: dict[str, Tally] = {}
        self.flows: dict[str, Tally] = {}
        self.batches = 0
        self.in_vain = 0.0

    def _tallies(self, ticket: Ticket) -> tuple[Tally, Tally, Tally]:
        model = self.models.get(ticket.model) or self.models.setdefault(ticket.model, Tally())
        flow = self.flows.get(ticket.flow) or self.flows.setdefault(ticket.flow, Tally())
        return self.total, model, flow

    def refused(self, ticket: Ticket) -> None:
        """Turned away on arrival."""
        for tally in self._tallies(ticket):
            tally.refused += 1

    def dropped(self, ticket: Ticket) -> None:
        """Given up while waiting."""
        for tally in self._tallies(ticket):
            tally.dropped += 1

    def ran(self, tickets: tuple[Ticket, ...], now: float, seconds: float) -> None:
        """A batch ended at `now` after `seconds` on its lane."""
        self.batches += 1
        each = seconds / len(tickets)
        for ticket in tickets:
            good = now <= ticket.deadline
            latency = now - ticket.arrived
            if not good:
                self.in_vain += each
            for tally in self._tallies(ticket):
                tally.busy += each
                tally.latencies.append(latency)
                if good:
                    tally.good += 1
                else:
                    tally.late += 1

    def result(self, policy: str, seconds: float) -> Result:
        """Everything counted."""
        return Result(
            policy, seconds, self.lanes, self.total, self.models, self.flows, self.batches, self.in_vain
        )
