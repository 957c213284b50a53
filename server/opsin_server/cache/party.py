"""Those who wait for one answer, as one caller: the rooms that do the work need not know that it is shared.

Owns the terms that shared work is done on, and tells them to what was begun on older terms. Who waits, and
what becomes of an answer, is `joining.py`'s business.
"""

from typing import Protocol

from opsin_server.calls import Caller

__all__ = ["Begun", "Party"]


class Begun(Protocol):
    """Work under way for a party."""

    def amend(self, caller: Caller) -> bool:
        """Go on on these terms; False when it is too late for that: nothing of it waits any more."""
        ...


class Party(Caller):
    """A caller whose terms change as others join and leave; who reads them gets those of the moment.

    The most urgent of those who wait lends it the flow and the priority (of equals the one that came first),
    and so pays for the device time. The deadline is the latest of all.
    """

    __slots__ = ("_begun", "_tried")

    _begun: list[Begun]
    _tried: float | None

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller.flow, caller.priority, caller.deadline, caller.request_id, caller.routing_key)
        self.restart()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def tried(self) -> float:
        """The latest deadline that the work was done for, in clock seconds.

        Later than any that waits when a failure says that the work could not be in time for it.
        """
        return self.deadline if self._tried is None else self._tried

    def restart(self) -> None:
        """The work begins anew."""
        self._put("_begun", [])
        self._put("_tried", None)

    def begun(self, work: Begun) -> None:
        """Part of the work waits for its turn, on the present terms."""
        self._begun.append(work)
        self._put("_tried", self.deadline)

    def become(self, payer: Caller, deadline: float) -> None:
        """From now on `payer` pays, and the answer is wanted until `deadline`."""
        if (payer.flow, payer.priority, deadline) == (self.flow, self.priority, self.deadline):
            return
        for name in ("flow", "priority", "request_id", "routing_key"):
            self._put(name, getattr(payer, name))
        self._put("deadline", deadline)
        took = [work.amend(self) for work in self._begun]
        if any(took):
            self._put("_tried", deadline)

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # callers are frozen, to everyone else
