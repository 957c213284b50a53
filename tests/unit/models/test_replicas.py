"""A model on every device, or on none."""

from typing import Any

import pytest

from opsin_detectors.api import Detector, LoadContext, ModelInfo, Stage, Task
from opsin_server.models import replicas

DEVICES = ("cpu/0", "cpu/1", "cpu/2")


class Part(Detector):
    """Tells whether it was closed."""

    def __init__(self, *stages: Stage, ill: bool = False) -> None:
        self.info = ModelInfo(tasks=frozenset({Task.DETECT}), stages=stages)
        self.closed = 0
        self.ill = ill

    def prepare(self, source: Any, task: Task, options: Any) -> Any:
        raise NotImplementedError

    def infer(self, batch: Any) -> Any:
        raise NotImplementedError

    def finish(self, outputs: Any, items: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1
        if self.ill:
            raise RuntimeError("cannot close")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """First stages with their second, as they were loaded; there is no room for a third."""
    made: list[Part] = []

    def load(found: Any, context: LoadContext) -> Detector:
        if len(made) == 4:
            raise MemoryError("no room")
        second = Part()
        first = Part(Stage("second", second), ill=not made)
        made.extend((first, second))
        return first

    monkeypatch.setattr(replicas, "load_detector", load)
    return made


CONTEXT = LoadContext("m", "builtin")


def test_what_cannot_be_on_every_device_is_closed_in_all_its_stages(made: list[Part]) -> None:
    with pytest.raises(RuntimeError, match="cannot close") as raised:
        replicas.load_on_each(None, CONTEXT, DEVICES)  # type: ignore[arg-type]
    assert isinstance(raised.value.__context__, MemoryError)
    assert [part.closed for part in made] == [1, 1, 1, 1]


def test_what_is_on_every_device_is_left_open(made: list[Part]) -> None:
    on = replicas.load_on_each(None, CONTEXT, DEVICES[:2])  # type: ignore[arg-type]
    assert list(on.values()) == made[::2]
    assert [part.closed for part in made] == [0, 0, 0, 0]
