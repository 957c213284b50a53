"""What a ticket that is not here yet would have to expect: the estimate that admission decides by. Pure.

Owns the arithmetic; who is refused, and with which words, is admission's business. It never says no to a
ticket on a guess: where nothing is known, everything seems feasible.

The wait is that of the fair queues, not of one long line. In front of a newcomer stand: what runs now; the
work of its own model that is as urgent or more, of which each flow counts only for as many tickets as the
newcomer's own flow has (max-min: a greedy flow's hundred waiting tickets do not delay a polite one); and of
the other models what their weight lets them do in that time, if they have it to do.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

from opsin_server.scheduling.policy import LaneView
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelQueue, Queues
from opsin_server.scheduling.sizing import after
from opsin_server.scheduling.ticket import Priority

__all__ = ["Estimate", "backlog_seconds", "drain_seconds", "estimate"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a new ticket has to expect, in seconds from now.

    wait: until its batch starts. run: from there to the answer, in a batch of the usual size for the backlog.
    least: to the answer on an idle server. feasible: its deadline can be met behind the present backlog.
    feasible_idle: it could be met if nothing else were here; when not, trying again cannot help.
    retry_after: when trying again makes sense; None when it does not.
    """

    wait: float
    run: float
    least: float
    feasible: bool
    feasible_idle: bool
    retry_after: float | None

    @property
    def total(self) -> float:
        """Seconds to the answer."""
        return self.wait + self.run


def estimate(
    queues: Queues,
    now: float,
    profiles: Mapping[str, Profile],
    lane: LaneView,
    *,
    model: str,
    flow: str,
    priority: Priority = Priority.INTERACTIVE,
    deadline: float = math.inf,
) -> Estimate:
    """The estimate for a ticket that would come now. Reads, never changes. Raises KeyError without terms."""
    terms, profile = queues.terms[model], profiles[model]
    queue = queues.models.get(model)
    smallest = terms.buckets[0] if terms.pads else 1
    late = after(terms, profile)
    least = profile.seconds(smallest) + late
    line = () if queue is None else tuple(_ahead(queue, flow, priority))
    ahead = sum(tickets for _, tickets in line)
    own = sum(tickets / profile.of(shape).best_rate(terms.buckets) for shape, tickets in line)
    wait = 0.0
    if len(queues) or lane.idle < 1:
        wait = _until_free(queues, now, profiles, lane) + (own + _others(queues, profiles, model, own)) / max(
            1, lane.lanes
        )
    size = next((b for b in terms.buckets if b > ahead), terms.buckets[-1])
    run = profile.seconds(size if terms.pads or size <= ahead + 1 else smallest) + late
    left = deadline - now
    surely = profile.lower(smallest)
    feasible_idle = left >= surely
    # Lower bounds on purpose: whoever might still make it is let in, the policy drops in time who does not.
    feasible = feasible_idle and left >= wait + surely
    retry: float | None = None
    if feasible_idle:
        retry = 0.0 if feasible else max(wait + run - left, profile.seconds(terms.buckets[0]))
    return Estimate(wait, run, least, feasible, feasible_idle, retry)


def backlog_seconds(queues: Queues, profiles: Mapping[str, Profile], lanes: int) -> float:
    """Seconds of work that wait, over all models, at the best batch sizes."""
    return sum(_work(queues, profiles, key) for key in queues.models) / max(1, lanes)


def drain_seconds(
    queues: Queues, profiles: Mapping[str, Profile], lanes: int, *, model: str, tickets: int = 1
) -> float:
    """Seconds until about `tickets` places are free, for refusals of a full queue.

    All models together free them, at the pace of the present mix; never less than one run of the model.
    """
    waiting = len(queues)
    total = backlog_seconds(queues, profiles, lanes)
    each = total / waiting if waiting else 0.0
    return max(tickets * each, profiles[model].seconds(queues.terms[model].buckets[0]))


def _work(queues: Queues, profiles: Mapping[str, Profile], key: str) -> float:
    queue, terms, profile = queues.models[key], queues.terms.get(key), profiles.get(key)
    if terms is None or profile is None:
        return 0.0
    return sum(
        len(group) / profile.of(shape).best_rate(terms.buckets) for shape, group in queue.groups.items()
    )


def _ahead(queue: ModelQueue, flow: str, priority: Priority) -> Iterator[tuple[Hashable, int]]:
    """Tickets of the model that will be served before one that joins `flow` now, by their shape."""
    for shape, group in queue.groups.items():
        ahead = 0
        for rank, waiting in enumerate(group.classes):
            if rank < priority:
                ahead += len(waiting.due)
            elif rank == priority and waiting.due:
                mine = waiting.lines.get(flow)
                place = 1 + (len(mine.due) if mine else 0)
                # Each other flow is served at most `place` times; a sum over flows would be exact, and slow.
                others = len(waiting.due) - (place - 1)
                ahead += place - 1 + min(others, (len(waiting.lines) - (mine is not None)) * place)
        yield shape, ahead


def _others(queues: Queues, profiles: Mapping[str, Profile], model: str, own: float) -> float:
    """Device seconds that other models will have while `own` seconds of this one are worked off."""
    weight = queues.terms[model].weight
    total = 0.0
    for key in queues.models:
        terms = queues.terms.get(key)
        if key != model and terms is not None:
            one_batch = profiles[key].seconds(terms.buckets[-1]) if queues.models[key].share.waiting else 0.0
            total += min(_work(queues, profiles, key), own * terms.weight / weight + one_batch)
    return total


def _until_free(queues: Queues, now: float, profiles: Mapping[str, Profile], lane: LaneView) -> float:
    """Seconds until a lane is free: the running batches, in the middle of whose runs one comes on average."""
    if lane.idle > 0:
        return 0.0
    left = [
        max(0.0, began + profile.of(shape).seconds(size) - now)
        for key, queue in queues.models.items()
        if (profile := profiles.get(key)) is not None
        for (began, shape), size in Counter(queue.running_since()).items()
    ]
    return min(left, default=0.0)
