"""A program in worker processes: the same numbers as here, and nobody left behind whatever happens."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from opsin_detectors.api import InputSpec, LoadError
from opsin_detectors.execution import apart
from opsin_detectors.execution.apart import ApartProgram, WorkerDiedError
from opsin_detectors.execution.network import Argument, Network
from opsin_detectors.execution.plan import Plan
from opsin_detectors.execution.programs import torch_program
from opsin_detectors.tensors import Normalizer
from opsin_server.scheduling.batch import out_of_memory
from programs import Halves, Hungry, Width

CPU = torch.device("cpu")
NORMALIZE = Normalizer((100.0, 110.0, 120.0), (50.0, 60.0, 70.0), CPU, torch.float32)


def program(body: nn.Module, runtime: str = "eager", dtype: str = "float32") -> Any:
    network = Network(body, Argument("input", NORMALIZE), InputSpec(16, 16))
    return torch_program(network, Plan(runtime, dtype))


def convolutions() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(576, 5))


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randint(0, 255, (count, 16, 16, 3), dtype=torch.uint8)


@pytest.fixture(name="workers", scope="module")
def _workers() -> Iterator[ApartProgram]:
    """For tests after which it is as it was: a process takes seconds to import torch."""
    held = ApartProgram(program(convolutions()), 2)
    yield held
    held.close()


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    "way", [("eager", "float32"), ("channels_last", "float32"), ("channels_last", "bfloat16")]
)
def test_answers_are_those_of_threads_to_the_last_bit(way: tuple[str, str]) -> None:
    here = program(convolutions(), *way)
    there = ApartProgram(here, 2)
    try:
        with torch.inference_mode():
            for count in (1, 3, 7, 2):
                assert torch.equal(here(pictures(count)), there(pictures(count)))
    finally:
        there.close()


def test_two_lanes_are_answered_at_once_each_with_its_own(workers: ApartProgram) -> None:
    here = program(convolutions())
    drawn = [[pictures(2, lane * 100 + turn) for turn in range(20)] for lane in range(2)]
    with ThreadPoolExecutor(2) as lanes:
        answers = list(lanes.map(lambda batches: [workers(one) for one in batches], drawn))
    for batches, answered in zip(drawn, answers, strict=True):
        assert all(torch.equal(here(one), answer) for one, answer in zip(batches, answered, strict=True))
    assert len(workers.processes) == 2


def test_a_batch_that_is_larger_than_any_before_fits(workers: ApartProgram) -> None:
    large = pictures(4000)  # 3 MB in
    assert torch.equal(workers(large), program(convolutions())(large))


def test_what_a_network_gives_beside_one_tensor_comes_home() -> None:
    there = ApartProgram(Halves(), 1)
    try:
        first, second, third = there(pictures(5))
        assert torch.equal(first, pictures(5)[:2].float())
        assert torch.equal(second, pictures(5)[2:])
        assert third is None
    finally:
        there.close()


def test_an_error_of_a_worker_is_raised_here_and_the_worker_lives_on(workers: ApartProgram) -> None:
    before = workers.processes
    with pytest.raises(RuntimeError, match="size of tensor"):
        workers(torch.zeros((1, 16, 16, 5), dtype=torch.uint8))
    assert workers(pictures(1)).shape == (1, 5)
    assert sorted(workers.processes) == sorted(before)


def test_want_of_memory_in_a_worker_is_want_of_memory_here() -> None:
    there = ApartProgram(Hungry(), 1)
    try:
        with pytest.raises(RuntimeError) as raised:
            there(pictures(1))
        assert out_of_memory(raised.value)
    finally:
        there.close()


def test_a_worker_that_dies_fails_the_batch_that_it_ran_and_is_replaced(workers: ApartProgram) -> None:
    workers(pictures(1))
    victim = workers.processes[-1]  # the next to be taken
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        workers(pictures(1))
    assert torch.equal(workers(pictures(1)), program(convolutions())(pictures(1)))
    assert victim not in workers.processes
    assert len(workers.processes) == 2


def test_workers_are_replaced_also_when_what_forks_them_was_killed() -> None:
    before = children()
    there = ApartProgram(program(convolutions()), 2)
    try:
        ours = [one for one in children() if one not in before]
        for one in ours:
            one.kill()
        psutil.wait_procs(ours, timeout=20)
        with pytest.raises(WorkerDiedError, match="so did the process that started it"):
            there(pictures(1))  # of a shape that is new: it runs on both
        assert torch.equal(there(pictures(1)), program(convolutions())(pictures(1)))
        assert not {one.pid for one in ours} & set(there.processes)
    finally:
        there.close()
    assert children() == before


def test_a_worker_computes_with_the_calling_lanes_threads() -> None:
    there = ApartProgram(Width(), 1)
    told: list[int] = []

    def lane(threads: int) -> None:
        torch.set_num_threads(threads)
        told.append(int(there(pictures(1))))

    try:
        for threads in (1, 3, 2):
            caller = threading.Thread(target=lane, args=(threads,))
            caller.start()
            caller.join()
    finally:
        there.close()
    assert told == [1, 3, 2]


def test_a_lane_that_finds_no_worker_idle_gets_another(workers: ApartProgram) -> None:
    with ThreadPoolExecutor(5) as lanes:
        answers = list(lanes.map(workers, [pictures(2)] * 40))
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert len(workers.processes) == 2


def test_closing_leaves_no_process_and_no_descriptor() -> None:
    ApartProgram(program(convolutions()), 1).close()  # what is imported once is open now
    files, before = psutil.Process().num_fds(), children()
    held = ApartProgram(program(convolutions()), 2)
    held(pictures(3))
    held.close()
    held.close()
    assert children() == before
    del held
    assert psutil.Process().num_fds() == files


def test_a_program_that_nobody_holds_leaves_no_process() -> None:
    before = children()
    ApartProgram(program(convolutions()), 2)(pictures(1))
    assert children() == before


def test_signals_to_the_whole_group_end_no_worker(workers: ApartProgram) -> None:
    for one in children():
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            one.send_signal(sign)
    before = sorted(workers.processes)
    assert workers(pictures(1)).shape == (1, 5)
    assert sorted(workers.processes) == before


def test_a_server_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import json, sys, torch
        from opsin_detectors.execution.apart import ApartProgram
        from programs import Width
        held = ApartProgram(Width(), 2)
        held(torch.zeros((1, 4, 4, 3), dtype=torch.uint8))
        import psutil
        print(json.dumps([one.pid for one in psutil.Process().children(recursive=True)]), flush=True)
        sys.stdin.read()
    """)
    script = tmp_path / "killed.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as server:
        assert server.stdout is not None
        left = [psutil.Process(pid) for pid in json.loads(server.stdout.readline())]
        assert len(left) == 3
        server.kill()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_a_network_that_cannot_be_written_is_refused_by_name_and_nothing_is_left() -> None:
    before = children()
    network = Network(convolutions(), lambda batch: {"input": batch}, InputSpec(16, 16))
    with pytest.raises(LoadError, match="cannot be given to another process"):
        ApartProgram(torch_program(network, Plan("eager")), 2)
    assert children() == before


class Unknown(nn.Module):
    """Of a module that no other process can import."""


def test_a_network_that_cannot_be_read_is_refused_by_name_and_nothing_is_left(monkeypatch: Any) -> None:
    before = children()
    monkeypatch.setattr(sys, "path", [one for one in sys.path if "tests" not in one])
    with pytest.raises(LoadError, match="cannot be given to another process"):
        ApartProgram(program(Unknown()), 2)
    assert children() == before


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no such figures here")
def test_the_memory_of_the_processes_counts_as_long_as_they_are_there() -> None:
    before = apart.held()
    there = ApartProgram(program(convolutions()), 1)
    assert there.memory_bytes > 10 << 20  # an interpreter with torch
    assert apart.held() > before + (10 << 20)
    there.close()
    assert apart.held() == before
