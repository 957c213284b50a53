"""How many torch threads a batch gets: all cores when it is alone, its lane's share when it is not. Pure.

One caller wants every core on the one input; many callers want one thread for each lane, because the second
thread of a batch brings less than a batch of its own would. There are two widths and none between: each has
been run while warming up, so that neither is met first by a call. Whether a model is quicker when wide is
measured then, too; small ones are not.
"""

__all__ = ["pays", "threads_for"]

_GAIN = 0.9
"""A wide run must take less than this share of a narrow one: it takes cores from decoding and the wire."""


def threads_for(*, wide: int, others: int, waiting: int) -> int:
    """Threads for a batch that is given to a lane now; 0: as many as the lane has by itself.

    wide: the cores, or 0 where width never changes. others: batches that run on other lanes. waiting: inputs
    that stay behind in the queues.
    """
    return 0 if others or waiting else wide


def pays(narrow: float, wide: float) -> bool:
    """Whether a model that takes so many seconds for one input at each width should be run wide."""
    return wide < _GAIN * narrow
