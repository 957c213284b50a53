"""Many inputs as few calls: cut to the contract's limits, sent again where the server asks for patience.

Pure: a `Batcher` says what to send next and takes the outcomes; the clients send. Inputs are loaded as
their turn comes, so that a folder of a million pictures is never in memory at once.

The rules. A call has at most 256 items and fits the message limit. An input that cannot be loaded never
travels; its error takes its place. An item that the server refuses with a time to wait goes again with the
next call, not before that time, and at most five times altogether. A call that fails as a whole gives its
error to each of its
items: results of other calls are never lost.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from opsin import _calls, _requests
from opsin._calls import Call, too_large
from opsin._errors import OpsinError, Overloaded
from opsin._inputs import load
from opsin._options import DetectAsk, EmbedAsk
from opsin._results import DetectResult, EmbedResult

__all__ = ["MAX_ATTEMPTS", "MAX_ITEMS", "Batcher", "detect", "embed"]

R = TypeVar("R")

MAX_ITEMS = 256
MAX_ATTEMPTS = 5
_ITEM_OVERHEAD = 6  # of a repeated field: its tag, and up to five bytes of length
_CALL_OVERHEAD = 1024
_ITEMS_PER_TIMEOUT = 32

MakeCall = Callable[[Sequence[Any], Sequence[Any], float], Call[list[R | OpsinError]]]


@dataclass(slots=True)
class _Item:
    at: int
    source: Any
    request: Any
    attempts: int = 0

    @property
    def size(self) -> int:
        size: int = self.request.ByteSize()
        return size + _ITEM_OVERHEAD


class Batcher(Generic[R]):
    """The calls that many inputs take, and what became of each input.

    build: an input's message; may raise OpsinError. call: the call of some messages and their inputs.
    timeout: seconds for a call of up to 32 items, and as much again for each 32 more.
    """

    def __init__(
        self,
        inputs: Iterable[Any],
        build: Callable[[Any], Any],
        call: MakeCall[R],
        *,
        limit: int,
        timeout: float,
    ) -> None:
        self._inputs = enumerate(inputs)
        self._build = build
        self._make_call = call
        self._budget = limit - _CALL_OVERHEAD
        self._limit = limit
        self._timeout = timeout
        self._outcomes: dict[int, R | OpsinError] = {}
        self._again: list[_Item] = []
        self._spare: _Item | None = None
        self._sent: list[_Item] = []
        self.delay = 0.0
        """Seconds to wait before the next call, as the server asked."""

    def next_call(self) -> Call[list[R | OpsinError]] | None:
        """The next call; None when all inputs have their outcome. Reads files."""
        self._sent = self._fill()
        if not self._sent:
            return None
        for item in self._sent:
            item.attempts += 1
        timeout = self._timeout * (1 + (len(self._sent) - 1) // _ITEMS_PER_TIMEOUT)
        return self._make_call([i.request for i in self._sent], [i.source for i in self._sent], timeout)

    def take(self, outcomes: Sequence[R | OpsinError] | OpsinError) -> None:
        """What became of the last call."""
        self.delay = 0.0
        if isinstance(outcomes, OpsinError):
            outcomes = [outcomes] * len(self._sent)
        for item, outcome in zip(self._sent, outcomes, strict=True):
            if self._worth_repeating(item, outcome):
                self._again.append(item)
            else:
                self._outcomes[item.at] = outcome

    @property
    def results(self) -> list[R | OpsinError]:
        """The outcomes, in the order of the inputs."""
        return [self._outcomes[at] for at in sorted(self._outcomes)]

    def _worth_repeating(self, item: _Item, outcome: R | OpsinError) -> bool:
        if not isinstance(outcome, Overloaded) or outcome.never_retry or outcome.retry_after is None:
            return False
        self.delay = max(self.delay, outcome.retry_after)
        return item.attempts < MAX_ATTEMPTS

    def _fill(self) -> list[_Item]:
        chosen: list[_Item] = []
        size = 0
        while len(chosen) < MAX_ITEMS and (item := self._next_item()):
            if chosen and size + item.size > self._budget:
                self._spare = item
                break
            chosen.append(item)
            size += item.size
        return chosen

    def _next_item(self) -> _Item | None:
        if (item := self._spare) is not None:
            self._spare = None
            return item
        if self._again:
            return self._again.pop(0)
        return self._load()

    def _load(self) -> _Item | None:
        """The next input that can travel; those that cannot get their error."""
        for at, source in self._inputs:
            try:
                item = _Item(at, source, self._build(source))
                if item.size > self._budget:
                    raise too_large(item.size, self._limit)
            except OpsinError as error:
                self._outcomes[at] = error
            else:
                return item
        return None


def detect(inputs: Iterable[Any], ask: DetectAsk, limit: int, timeout: float) -> Batcher[DetectResult]:
    """Look at many inputs."""

    def build(source: Any) -> Any:
        return _requests.detect_request(load(source, limit=limit), ask)

    return Batcher(inputs, build, _calls.batch_detect, limit=limit, timeout=timeout)


def embed(inputs: Iterable[Any], ask: EmbedAsk, limit: int, timeout: float) -> Batcher[EmbedResult]:
    """Embed many inputs."""

    def build(source: Any) -> Any:
        return _requests.embed_request(load(source, limit=limit), ask)

    return Batcher(inputs, build, _calls.batch_embed, limit=limit, timeout=timeout)
