"""CPU time of another process by thread, and what its threads are for.

The operating system knows a thread's CPU time, Python its name, and only py-spy both from outside. Threads
that Python did not start are gRPC's (it names them) or a computing library's.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from bench.tree import Tree

__all__ = ["ROLES", "cpu_by_thread", "names", "role", "shares", "spy"]

ROLES = ("event loop", "decode and prepare", "infer", "finish", "gRPC", "other")

WORKER = "lane-process"
"""What a thread is called here of a process that the server started: it runs batches."""
_PYTHON = (
    ("MainThread", "event loop"),
    ("opsin-cpu", "decode and prepare"),
    ("lane-", "infer"),
    ("finish", "finish"),
)
TRIES = 5
_GRPC = (
    "event_engine",
    "grpc",
    "timer_manager",
    "resolver-exec",
    "default-execut",
    "backup_poller",
    "lifeguard",
)


def cpu_by_thread(pid: int) -> dict[int, float]:
    """Seconds in user and in kernel mode so far, by the system's thread number.

    Of the process and of those that it started, which run its lanes where lanes are processes.
    """
    found: dict[int, float] = {}
    for process in Tree(pid).processes():
        with suppress(psutil.NoSuchProcess):
            found |= {one.id: one.user_time + one.system_time for one in process.threads()}
    return found


def names(pid: int) -> dict[int, str]:
    """What threads are called: by Python where it started them, else by the system.

    Raises RuntimeError where py-spy is missing or may not look into the process.
    """
    found = {thread: _system_name(pid, thread) for thread in cpu_by_thread(pid)}
    for process in Tree(pid).processes()[1:]:
        with suppress(psutil.NoSuchProcess):
            found |= {one.id: WORKER for one in process.threads()}
    for thread, name in _python_names(pid).items():
        found[thread] = name or found.get(thread, "")
    return found


def _python_names(pid: int) -> dict[int, str]:
    """What Python calls its threads; asked a few times, as py-spy looks without stopping the process."""
    said = ""
    for _ in range(TRIES):
        ran = subprocess.run(
            [spy(), "dump", "--json", "--nonblocking", "--pid", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode == 0:
            return {one["os_thread_id"]: one["thread_name"] or "" for one in json.loads(ran.stdout)}
        said = ran.stderr.strip()[-300:]
    raise RuntimeError(f"py-spy may not look into the server: {said}")


def spy() -> str:
    """Where py-spy is. Raises RuntimeError when it is nowhere."""
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise RuntimeError("py-spy is not installed: pip install py-spy")
    return found


def _system_name(pid: int, thread: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{thread}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def role(name: str) -> str:
    """What a thread of that name does, one of `ROLES`."""
    for start, what in _PYTHON:
        if name.startswith(start):
            return what
    # grpc.aio's own Python thread only waits for the core's events.
    return "gRPC" if name.startswith(_GRPC) or "poller" in name else "other"


def shares(
    before: Mapping[int, float], after: Mapping[int, float], called: Mapping[int, str]
) -> dict[str, float]:
    """Seconds by role between two moments; a thread that began in between counts from nothing."""
    grown = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
    return {what: sum(grown[thread] for thread in _those(what, grown, called)) for what in ROLES}


def _those(what: str, threads: Iterable[int], called: Mapping[int, str]) -> list[int]:
    return [thread for thread in threads if role(called.get(thread, "")) == what]
