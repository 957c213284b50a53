"""Ctrl-C ends a command cleanly: a sum of what was done, exit 130, no traceback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.cli.fake_server import FakeServer
from integration.deploy.processes import opsin_server


@contextmanager
def started(server: FakeServer, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPSIN_TARGET": server.target}
    process = subprocess.Popen(
        [sys.executable, "-m", "opsin.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_stream_tells_its_sum(server: FakeServer, pictures: Path) -> None:
    with started(server, "stream", str(pictures), "--rate", "0.01", "--json") as process:
        assert process.stdout
        assert '"sequence": 1' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "1 answered" in errors
    assert "Traceback" not in errors


def test_pictures_that_do_not_come_are_waited_for_no_longer(server: FakeServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg"
        with started(server, "detect", url) as process:
            asked, _ = silent.accept()
            with asked:
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=25)  # less than a fetch may take
    assert (process.returncode, errors) == (130, "opsin: interrupted\n")


def test_a_bench_ends_with_its_processes_and_shows_what_it_has_measured(server: FakeServer) -> None:
    with started(server, "bench", "-z", "60s", "-c", "1", "--size", "1kB", "--warmup", "0") as process:
        _wait_for_calls(server, 20)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "calls/s" in output
    assert "interrupted" in errors
    assert "Traceback" not in errors


def test_a_watched_health_ends(server: FakeServer) -> None:
    with started(server, "health", "--watch", "--service", "forever") as process:
        assert process.stdout
        assert process.stdout.readline() == "NOT_SERVING\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("number", "hint"), [(signal.SIGINT, True), (signal.SIGTERM, False)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_idle_server_leaves_ctrl_c_at_once_and_sigterm_after_its_drain_delay(
    tmp_path: Path, number: int, hint: bool
) -> None:
    log = tmp_path / "server.log"
    with opsin_server(
        log, "--model", "echo", "--drain-delay", "1" if number == signal.SIGTERM else "60"
    ) as server:
        begun = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        took = time.monotonic() - begun
    assert ("press Ctrl-C again to stop now" in log.read_text()) == hint
    assert took >= 1 if number == signal.SIGTERM else took < 30


def _wait_for_calls(server: FakeServer, number: int) -> None:
    if not server.inference.enough(number).wait(30):
        pytest.fail(f"fewer than {number} calls arrived")
