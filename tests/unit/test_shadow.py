"""When the answers of two versions say the same."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from opsin_detectors.api import Box, Detection, Label
from opsin_server.calls import (
    Answer,
    DetectAnswer,
    DetectCall,
    EmbedAnswer,
    EmbeddedDetection,
    ModelRef,
    Text,
    Watcher,
)
from opsin_server.config import ModelSettings
from opsin_server.errors import Failure, Reason
from opsin_server.models.directory import Version
from opsin_server.scheduling.ticket import Priority
from opsin_server.shadow import Shadow, agree

MOST = 3
REF = ModelRef("m", 1, "cpu")


def found(*things: tuple[str, float], flagged: bool | None = None, first: str = "") -> DetectAnswer:
    """Boxes a tenth wide, by label and left edge."""
    boxes = [EmbeddedDetection(Detection(Box(x, 0.0, x + 0.1, 0.5), label, 0.9)) for label, x in things]
    return DetectAnswer(REF, boxes, [Label(first, 0.8)] if first else [], flagged)


def vector(*numbers: float) -> EmbedAnswer:
    return EmbedAnswer(REF, np.array(numbers, np.float32))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (found(), found(), True),
        (found(("cat", 0.1), ("dog", 0.5)), found(("dog", 0.5), ("cat", 0.1)), True),
        (found(("cat", 0.1)), found(("cat", 0.12)), True),  # hardly moved
        (found(("cat", 0.1)), found(("cat", 0.3)), False),
        (found(("cat", 0.1)), found(("dog", 0.1)), False),
        (found(("cat", 0.1)), found(("cat", 0.1), ("cat", 0.1)), False),
        (found(("cat", 0.1), ("cat", 0.12)), found(("cat", 0.11), ("cat", 0.6)), False),
        (found(flagged=True), found(flagged=False), False),
        (found(first="porn"), found(first="drawing"), False),
        (vector(1, 0), vector(2, 0.01), True),
        (vector(1, 0), vector(0, 1), False),
        (vector(1, 0), vector(1, 0, 0), False),
        (vector(0, 0), vector(0, 0), True),
        (vector(1, 0), found(), False),
    ],
)
def test_answers_agree_as_a_user_would_say(one: Answer, other: Answer, same: bool) -> None:
    assert agree(one, other) is same


class Trial:
    """A shadow whose version answers as the test says, and what was counted."""

    def __init__(self, answer: Callable[[], Awaitable[DetectAnswer]], *, idle: bool = True) -> None:
        self.answer = answer
        self.asked: list[DetectCall] = []
        self.counted: list[str] = []
        self.shadow = Shadow(self, lambda: idle, lambda key, outcome: self.counted.append(outcome), MOST)
        self.version = Version(ModelSettings(name="m", version=2))

    async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
        self.asked.append(call)
        return await self.answer()

    async def embed(self, call: object) -> EmbedAnswer:
        raise AssertionError

    async def mirror(self, times: int = 1) -> None:
        for _ in range(times):
            self.shadow.mirror(self.version, DetectCall("m@1", Text("x")), found())
        for _ in range(10):
            await asyncio.sleep(0)


def answering(outcome: DetectAnswer | Exception) -> Callable[[], Awaitable[DetectAnswer]]:
    async def answer() -> DetectAnswer:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return answer


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [
        (found(), "same"),
        (found(("cat", 0.1)), "different"),
        (Failure(Reason.LABEL_UNKNOWN, "no such class"), "failed"),
        (RuntimeError("broken"), "failed"),
        (Failure(Reason.QUEUE_FULL, "full"), "dropped"),
        (Failure(Reason.DEADLINE_UNMEETABLE, "late"), "dropped"),
    ],
)
async def test_every_end_of_a_copy_is_counted(outcome: DetectAnswer | Exception, counted: str) -> None:
    trial = Trial(answering(outcome))
    await trial.mirror()
    assert trial.counted == [counted]
    assert trial.version.users == 0


async def test_a_copy_asks_as_bulk_for_itself_and_past_the_cache() -> None:
    trial = Trial(answering(found()))
    await trial.mirror()
    (call,) = trial.asked
    assert call.model == "m@2"
    assert call.caller.priority is Priority.BULK
    assert call.caller.flow == "shadow/m"
    assert call.caller.deadline < float("inf")
    assert call.options.skip_cache


async def test_a_busy_server_drops_copies() -> None:
    trial = Trial(answering(found()), idle=False)
    await trial.mirror(3)
    assert trial.counted == ["dropped"] * 3
    assert trial.asked == []


async def test_copies_that_hang_are_bounded_and_given_up_at_the_end() -> None:
    gate = asyncio.Event()

    async def never() -> DetectAnswer:
        await gate.wait()
        return found()

    trial = Trial(never)
    await trial.mirror(MOST + 5)
    assert len(trial.asked) == trial.version.users == MOST
    assert trial.counted == ["dropped"] * 5
    await trial.shadow.close()
    assert trial.version.users == 0
