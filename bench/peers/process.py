"""A peer and its callers as processes: started, asked whether they are ready, ended."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from bench.peers.calling import Heard, Job
from bench.server import environment
from bench.tree import Tree

__all__ = ["ENVIRONMENTS", "ROOT", "Caller", "peer_environment", "python_of", "started"]

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
PATIENCE = 90.0


def python_of(name: str) -> Path:
    """The interpreter of one of the environments that `make bench-peers` makes."""
    return ENVIRONMENTS / name / "bin" / "python"


class Caller:
    """A process of callers: `http_caller` or `grpc_caller`. Use as a context."""

    def __init__(self, module: str, python: Path = Path(sys.executable)) -> None:
        self._process = subprocess.Popen(
            [str(python), "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment() if python == Path(sys.executable) else peer_environment({}),
        )

    def __enter__(self) -> Self:
        self._hear()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def do(self, job: Job) -> Heard:
        """Blocks until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(job.to_line() + "\n")
        self._process.stdin.flush()
        return Heard.from_line(self._hear())

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the callers ended by themselves; the reason is above")
        return line


def peer_environment(more: Mapping[str, str], *, tuned: bool = True) -> dict[str, str]:
    """Of a process that runs in an environment of its own.

    tuned: with the settings of malloc and OpenMP that Opsin's images have, which no peer's page tells of.
    """
    mine = environment() if tuned else dict(os.environ)
    return {**mine, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'detectors'}", "HF_HUB_OFFLINE": "1", **more}


@contextmanager
def started(command: Sequence[str], env: Mapping[str, str], ready: Job, caller: Caller) -> Iterator[Tree]:
    """A server that answers the job `ready`, for as long as the block runs. RuntimeError when it ends."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=errors, stderr=subprocess.STDOUT, env=env, cwd=ROOT, start_new_session=True
        )
        tree = Tree(process.pid)
        try:
            _wait(process, ready, caller)
            yield tree
        except Exception as error:
            errors.seek(0)
            error.add_note(f"what {command[0]} said last:\n{errors.read()[-3000:]}")
            raise
        finally:
            tree.end()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", ready: Job, caller: Caller) -> None:
    end, heard = time.monotonic() + PATIENCE, Heard()
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended by itself with {process.returncode}")
        heard = caller.do(ready)
        if heard.milliseconds:
            return
        time.sleep(0.5)
    raise TimeoutError(f"no answer in {PATIENCE:.0f} s but {heard.errors}")
