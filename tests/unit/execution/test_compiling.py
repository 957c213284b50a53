"""`runtime=compile` compiles every batch size of every model; torch's compiler is a stand-in that counts."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from opsin_detectors.api import InputSpec
from opsin_detectors.execution.network import Network
from opsin_detectors.execution.plan import Plan
from opsin_detectors.execution.programs import torch_program

from .tiny import Body, planes

SIZES = (1, 2, 4, 8, 16, 32, 3, 6, 12, 24)
"""What warming up tries for a model whose largest batch is 32."""


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The batch sizes that were compiled, in order."""
    sizes: list[int] = []
    real: Callable[..., Any] = torch.compile

    def counting(graph: Any, examples: list[Any]) -> Any:
        sizes.append(next(one.shape[0] for one in reversed(examples) if one.ndim == 4))
        return graph.forward

    def compile_counting(body: Any, *, mode: str, dynamic: bool) -> Any:
        return real(body, backend=counting, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", compile_counting)
    yield sizes
    torch._dynamo.reset()


def run_all(program: Any) -> None:
    with torch.inference_mode():
        for size in SIZES:
            program(torch.zeros((size, 8, 8, 3), dtype=torch.uint8))


def test_each_batch_size_is_compiled_however_many_there_are_and_on_every_lane(compiled: list[int]) -> None:
    program = torch_program(Network(Body().eval(), planes, InputSpec(8, 8)), Plan("compile"))
    lane = threading.Thread(target=run_all, args=(program,))
    lane.start()
    lane.join()
    assert compiled == list(SIZES)
    run_all(program)
    assert compiled == list(SIZES), "what is compiled serves all lanes"
