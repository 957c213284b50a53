"""For tests of whole servers: a device that can be held."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from opsin_detectors.echo.detector import Echo


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The device, which runs nothing to its end while this is clear; set to begin with, for warming up."""
    opened, infer = threading.Event(), Echo.infer
    opened.set()

    def gated(self: Echo, batch: Any) -> Any:
        opened.wait(60)
        return infer(self, batch)

    monkeypatch.setattr(Echo, "infer", gated)
    yield opened
    opened.set()
