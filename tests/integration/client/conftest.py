"""A scripted server, and both clients behind one face."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import opsin
from integration.client.fake import Fake, Threaded


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.stop()


@pytest.fixture(params=[opsin.Client, Threaded], ids=["Client", "AsyncClient"])
def connect(request: Any) -> Iterator[Callable[..., Any]]:
    """Makes a client of either kind; closed with the test."""
    with ExitStack() as stack:
        yield lambda *args, **settings: stack.enter_context(request.param(*args, **settings))
