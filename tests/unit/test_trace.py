"""The record of arrivals keeps no list of who came."""

import json
import threading
import tracemalloc
from pathlib import Path

import pytest

from opsin_server.scheduling.ticket import Ticket
from opsin_server.telemetry import trace
from opsin_server.telemetry.trace import TraceWriter


def record(path: Path, flows: list[str]) -> list[str]:
    """The names that a recording gives to these flows."""
    writer = TraceWriter(path)
    for number, flow in enumerate(flows):
        writer.arrived(Ticket(number, "m@1", flow, float(number)))
    writer.close()
    return [json.loads(line)["flow"] for line in path.read_text().splitlines()]


def test_a_flow_has_one_short_name_that_tells_nothing_of_it(tmp_path: Path) -> None:
    one, other, again = record(tmp_path / "t", ["ipv4:10.1.2.3:4444", "tenant", "ipv4:10.1.2.3:4444"])
    assert one == again != other
    assert len(one) == 12
    assert record(tmp_path / "u", ["tenant"]) != [other]  # nobody can look it up by trying


def test_callers_that_come_and_go_take_no_memory(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t")
    tracemalloc.start()
    try:
        for number in range(20_000):
            writer.arrived(Ticket(number, "m@1", f"ipv4:10.0.0.1:{number}", float(number)))
        writer.close()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 500_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_ends_the_recording_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "WAITING_LINES", 8)
    writer = TraceWriter(Path("/dev/full"))
    for number in range(20_000):
        writer.arrived(Ticket(number, "m@1", "tenant", float(number)))
    closing = threading.Thread(target=writer.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
