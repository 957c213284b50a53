"""What a live server was asked can be replayed in the simulator."""

import asyncio
from pathlib import Path

from opsin.v1 import DetectRequest
from opsin_server.scheduling.simulator import Recorded
from opsin_server.scheduling.ticket import Priority
from serving import serving


async def test_a_recorded_trace_has_every_input_and_nothing_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with serving("echo", scheduler={"trace": path}) as server:
        calls = [server.inference.Detect(DetectRequest(model="echo", text=f"secret {i}")) for i in range(20)]
        await asyncio.gather(*calls)
        await server.inference.Detect(DetectRequest(model="echo", text="late", priority=2), timeout=9)
    requests = list(Recorded.read(path).arrivals())
    assert len(requests) == 21
    assert {r.model for r in requests} == {"echo@1"}
    assert requests[-1].priority is Priority.BULK
    assert 8 < requests[-1].within < 9.1
    assert "secret" not in path.read_text()
