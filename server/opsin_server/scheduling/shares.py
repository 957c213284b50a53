"""Who has had how much of the device: start-time fair queueing, on virtual clocks.

A party (a model among models, a flow among a model's flows) has a virtual time: the device seconds it was
charged, divided by its weight. Whoever is furthest behind is served next, so parties with work advance
together and their device time is shared in proportion to their weights (max-min: what one does not use, the
others share).

A party that was idle must not cash in on its absence. The clock remembers the virtual time at which service
was last given, and a party that becomes active starts no earlier than that (Goyal, Vin and Cheng, "Start-time
fair queueing", 1996). One that was ahead stays ahead, so going away and coming back gains nothing either.

One whose last ticket left unserved (its caller hung up, its frame grew too old) was not idle but waiting: it
comes back as far behind as it left, at most by what `leaves` is told. Otherwise a camera whose frames die
before the next one comes would begin at the end of the queue each time, and never be seen.

What a batch will cost is charged when it starts, by estimate, so that several lanes asking at one moment do
not all pick the same party; the difference is settled when it ends.
"""

import math

__all__ = ["Clock", "Share"]


class Share:
    """One party's account.

    virtual: device seconds per weight. waiting, running: its tickets.
    since: when it last was served, or began to wait. lag: how far behind it left without being served.
    """

    __slots__ = ("lag", "running", "since", "virtual", "waiting")

    def __init__(self) -> None:
        self.virtual = 0.0
        self.waiting = 0
        self.running = 0
        self.since = math.inf
        self.lag = 0.0

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not (self.waiting or self.running)


class Clock:
    """The virtual time of a set of parties."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def joins(self, share: Share, at: float) -> None:
        """A ticket of this party begins to wait at `at`."""
        if not share.waiting:
            share.since = at
            if not share.running:
                share.virtual = max(share.virtual, self.now - share.lag)
        share.waiting += 1

    def leaves(self, share: Share, most: float) -> None:
        """A ticket of this party waits no more; unless it `runs`, what is owed is kept, up to `most`."""
        share.waiting -= 1
        if not share.idle:
            return
        share.lag = min(max(0.0, self.now - share.virtual), most)

    def runs(self, share: Share) -> None:
        """A ticket of this party, which left just now, is served."""
        share.running += 1
        share.lag = 0.0

    def serves(self, start: float) -> None:
        """Service is given to a party whose virtual time is `start`."""
        self.now = max(self.now, start)
