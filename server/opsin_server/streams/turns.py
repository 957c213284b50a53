"""Whose frame is prepared next, where more streams have one than the device will soon take.

A frame of LATEST that is prepared long before it runs is prepared in vain: by then a newer one has taken its
place. With many streams on few cores most decoding went that way, and the cores that it took were the
device's. So there are turns, only as many as keep the device and the processor's workers busy. A stream takes
one for each frame from its submission to its start; while none is free its newest frame waits undecoded,
which costs nothing, and when the turn comes the newest of that moment is decoded.

The turn goes to streams that hold none before those that would only renew a frame that is ready; among them
to the one whose last was longest ago. That is fair in frames: whoever pushes less than the others, but above
its share, waits no longer than they do. Knows no frames, no clock and no device.
"""

import heapq
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

from opsin_server.streams.window import Load

__all__ = ["AHEAD", "Turns", "room_for"]

AHEAD = 4.0
"""Batches for each lane that may be prepared or ready. A few streams are below it, and renew at will."""

Party = TypeVar("Party", bound=Hashable)


def room_for(load: Load, *, lanes: int, workers: int, held: int) -> float:
    """How many turns a model's streams have: infinite while nothing is known of its run time.

    workers: threads that prepare. held: turns that are taken. What others have waiting is added: a stream
    gets its share of a contended device only while it has a frame there.
    """
    if not load.size:
        return math.inf
    return workers + AHEAD * lanes * load.size + max(0, load.queued - held)


class _Account:
    """held: turns. last: number of the latest turn. asked: number of the request that is open, 0 for none."""

    __slots__ = ("asked", "held", "last")

    def __init__(self) -> None:
        self.held = self.last = self.asked = 0


class Turns(Generic[Party]):
    """The turns of one model. Not thread-safe; whoever is returned by a method has got a turn by it."""

    def __init__(self) -> None:
        self._room = math.inf
        self._held = 0
        self._accounts: dict[Party, _Account] = {}
        self._first: list[tuple[int, int, Party]] = []  # a heap; entries of those that left may stay a while
        self._again: dict[Party, None] = {}  # they hold one, and ask for another
        self._given = self._asked = 0

    def __len__(self) -> int:
        """How many parties are known."""
        return len(self._accounts)

    @property
    def held(self) -> int:
        """Turns that are taken."""
        return self._held

    def ask(self, party: Party) -> bool:
        """Take a turn, now (True) or when it is this party's; one request at a time."""
        account = self._accounts.setdefault(party, _Account())
        if self._held < self._room and not self._first and not self._again:
            self._give(account)
            return True
        self._wait(party, account)
        return False

    def done(self, party: Party) -> list[Party]:
        """A turn is not needed any more. Nothing happens when the party has left."""
        account = self._accounts.get(party)
        if account is None or not account.held:
            return []
        account.held -= 1
        self._held -= 1
        if not account.held and party in self._again:
            del self._again[party]
            self._wait(party, account)
        return self._next()

    def leave(self, party: Party) -> list[Party]:
        """The party asks no more, and gives back what it has."""
        account = self._accounts.pop(party, None)
        self._again.pop(party, None)
        if account is not None:
            self._held -= account.held
        return self._next()

    def resize(self, room: float) -> list[Party]:
        """So many turns there are from now on, at least one; those that are taken stay so."""
        self._room = max(1.0, room)
        return self._next()

    def _wait(self, party: Party, account: _Account) -> None:
        self._asked += 1
        account.asked = self._asked
        if account.held:
            self._again[party] = None
        else:
            heapq.heappush(self._first, (account.last, self._asked, party))

    def _give(self, account: _Account) -> None:
        self._given += 1
        account.last, account.asked = self._given, 0
        account.held += 1
        self._held += 1

    def _next(self) -> list[Party]:
        given: list[Party] = []
        while self._held < self._room and (self._first or self._again):
            party, asked = self._pop()
            account = self._accounts.get(party)
            if account is not None and (not asked or account.asked == asked):
                self._give(account)
                given.append(party)
        return given

    def _pop(self) -> tuple[Party, int]:
        if self._first:
            _, asked, party = heapq.heappop(self._first)
            return party, asked
        party = next(iter(self._again))
        del self._again[party]
        return party, 0
