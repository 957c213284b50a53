"""What is done about lanes that are lost: those that make no progress for a time, and those that die.

A lost lane fails what it holds, since the input may be the cause, and is replaced; the new one counts as
making progress only when it has run a probe. A few may be lost this way; then no more threads are spent
(`fleet.py`), and the health stays down so that whoever watches restarts the process. Threads that finish
batches are watched too, but not replaced.
"""

import structlog

from opsin_server.scheduling.batch import Batch
from opsin_server.scheduling.bypass import Bypass
from opsin_server.scheduling.finishing import Finisher
from opsin_server.scheduling.fleet import Fleet
from opsin_server.scheduling.lanes import Lane
from opsin_server.scheduling.roster import Roster
from opsin_server.scheduling.settling import Settler

__all__ = ["LanesLostError", "Recovery"]

log = structlog.get_logger(__name__)


class LanesLostError(RuntimeError):
    """Nothing is left to run batches on, or to finish them."""


class Recovery:
    """For one fleet, on the owner's thread. timeout: seconds after which a batch's lane counts as lost."""

    def __init__(
        self,
        fleet: Fleet,
        finisher: Finisher,
        roster: Roster,
        bypass: Bypass,
        settler: Settler,
        *,
        timeout: float,
    ) -> None:
        self._fleet = fleet
        self._finisher = finisher
        self._roster = roster
        self._bypass = bypass
        self._settler = settler
        self._timeout = timeout

    def look(self, now: float) -> bool:
        """Replace the lanes that stall; whether there were any. Raises LanesLostError."""
        stalled = self._fleet.stalled(now, self._timeout)
        for lane in stalled:
            log.error("lane_stalled", lane=lane.index, seconds=round(now - lane.since, 3))
            batch = _batches(lane)[0]
            self._settler.charge(batch, now - lane.since)
            self._lose(lane, batch)
        late = self._finisher.give_up_late(now - self._timeout)
        for batch in late:
            log.error("finish_stalled", model=batch.model, size=len(batch.entries))
            self._settler.give_up(batch)
        if late and self._finisher.all_stuck:
            raise LanesLostError("every thread that finishes batches hangs")
        return bool(stalled)

    def died(self, lane: Lane, batch: Batch, error: BaseException | None) -> None:
        """A lane reported its own end with `batch`, which is charged already. Raises LanesLostError."""
        log.error("lane_died", lane=lane.index, error=repr(error))
        self._settler.give_up(batch)
        self._lose(lane, batch)

    def _lose(self, lane: Lane, accounted: Batch) -> None:
        """Fail what a lost lane held, and put a new one in its place, tried out with a probe.

        accounted: the batch that it was lost with; any other on it had not begun.
        """
        for batch in _batches(lane):
            if batch is not accounted:
                self._settler.waive(batch)
            self._settler.give_up(batch)
        self._fleet.replace(lane, self._probe(accounted.model))
        if not len(self._fleet):
            raise LanesLostError("every lane of the device was lost")

    def _probe(self, key: str) -> Batch | None:
        """A batch of one known input, to try a new lane with."""
        model = self._roster.get(key)
        if model is None or model.probe is None:
            return None
        return self._bypass.alone(key, model.runner, [model.probe])


def _batches(lane: Lane) -> list[Batch]:
    return [job for job in lane.jobs if isinstance(job, Batch)]
