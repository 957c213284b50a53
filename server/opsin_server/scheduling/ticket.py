"""A ticket: one input waiting for one model, as plain data that the policy can read.

What the input is, and who waits for the answer, is the scheduler's business, found by `Ticket.id`.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Priority", "Ticket"]


class Priority(IntEnum):
    """Classes of work, most urgent first."""

    INTERACTIVE = 0
    STREAM = 1
    BULK = 2


@dataclass(slots=True, eq=False)
class Ticket:
    """One input waiting for one model. Never changed; not frozen, as that makes it take longer to make.

    id: unique in this process, increasing.
    model: key of the loaded model, `name@version`.
    flow: the stream, or the caller, that fairness counts it under.
    arrived, deadline: seconds on the scheduler's monotonic clock; no deadline is `math.inf`.
    size: decoded bytes held while it waits.
    shape: only tickets of one model with equal shape share a batch.
    """

    id: int
    model: str
    flow: str
    arrived: float
    priority: Priority = Priority.INTERACTIVE
    deadline: float = math.inf
    size: int = 0
    shape: Hashable = ()
