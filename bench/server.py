"""`opsin serve` in a process of its own: started, watched from outside, ended.

CPU time, memory and file descriptors are read from the operating system, everything else from /metrics and
from the client, as any operator would. Nothing is patched and no private switch is used.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

import opsin
from bench.tree import Tree

__all__ = ["ENVIRONMENT", "Counters", "Process", "Server", "environment", "free_port", "null_server"]

ENVIRONMENT = {
    # As in the images (the reasons are in Dockerfile.cpu), for the server and for every yardstick alike.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
}
PATIENCE = 10.0
_SUFFIXES = ("_total", "_sum", "_count", "_bucket")


def environment(more: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Of every process that is measured. more: variables to add, or with None to leave out."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    told = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path, **(more or {})}
    return {name: value for name, value in told.items() if value is not None}


class Process:
    """A process that says on standard output where it listens; ended on leaving the context."""

    def __init__(self, command: Sequence[str], more: Mapping[str, str | None] | None = None) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment(more)
        )
        self.target = ""
        self._seen = psutil.Process(self._process.pid)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"ready at (127\.0\.0\.1:\d+)", line):
                self.target = found[1]
                return self
        self._errors.seek(0)
        raise RuntimeError(f"the server did not start:\n{self._errors.read()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        # The second signal ends an Opsin server without draining.
        for sign, patience in ((signal.SIGTERM, 0.3), (signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
            if self._process.poll() is None:
                self._process.send_signal(sign)
                try:
                    self._process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def leave(self) -> None:
        """Tell it to drain and end; returns at once."""
        self._process.send_signal(signal.SIGTERM)

    def cpu_seconds(self) -> float:
        """Of it and of all that it started, in user and in kernel mode, so far."""
        return Tree(self.pid).cpu_seconds()

    def memory_bytes(self) -> int:
        """Resident, of it and of all that it started; what they share counts for each."""
        total = 0
        for one in Tree(self.pid).processes():
            with suppress(psutil.NoSuchProcess):
                total += int(one.memory_info().rss)
        return total

    def open_files(self) -> int:
        """File descriptors, sockets included."""
        return int(self._seen.num_fds())

    def threads(self) -> int:
        """Threads of the operating system."""
        return int(self._seen.num_threads())


class Counters:
    """What /metrics said at one moment."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self._names = {family.name for family in families}
        self._samples = [sample for family in families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of that name with these labels; `model` also without its version.

        Raises KeyError for a name that the server does not have: its sum would be a 0 that looks like a good
        one.
        """
        if not {name, *(name.removesuffix(end) for end in _SUFFIXES)} & self._names:
            raise KeyError(f"the server counts no {name}")
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name
            and all(_same(key, value, sample.labels.get(key, "")) for key, value in labels.items())
        )


def _same(key: str, wanted: str, found: str) -> bool:
    return found == wanted or (key == "model" and found.partition("@")[0] == wanted)


class Server(Process):
    """An Opsin server with these models, written as for `--model`.

    settings: OPSIN_* without the prefix. variables: of its environment, None to leave one out.
    """

    def __init__(
        self,
        *models: str,
        settings: Mapping[str, str] | None = None,
        variables: Mapping[str, str | None] | None = None,
    ) -> None:
        self._metrics_port = free_port()
        command = [str(Path(sys.executable).parent / "opsin"), "serve", "--host", "127.0.0.1", "--port", "0"]
        command += ["--metrics-port", str(self._metrics_port), "--drain-delay", "0", "--log-level", "warning"]
        command += [part for model in models for part in ("--model", model)]
        told = {f"OPSIN_{key}": value for key, value in (settings or {}).items()}
        super().__init__(command, {**told, **(variables or {})})

    def counters(self) -> Counters:
        """What it has counted so far."""
        address = f"http://127.0.0.1:{self._metrics_port}/metrics"
        with urllib.request.urlopen(address, timeout=PATIENCE) as page:
            return Counters(page.read().decode())

    def model(self, name: str) -> opsin.Model:
        """As GetModel tells it."""
        with opsin.Client(self.target) as client:
            return client.model(name)

    def lanes(self) -> int:
        """How many batches run side by side."""
        with opsin.Client(self.target) as client:
            return client.server_info().devices[0].lanes


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def null_server() -> Process:
    """The floor: a server whose handlers do nothing (`bench.null_server`)."""
    return Process([sys.executable, "-m", "bench.null_server"])
