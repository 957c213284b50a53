"""Who takes part, with which settings, and where each server's own documentation advises them.

Every contestant may use all cores. Batches are of 8 at the most and wait 10 ms at the most: past 4 these
models gain nothing on CPUs, and 10 ms is what mosec and Ray have by default.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.peers.answers import EXACT, RESAMPLED, ROUNDED, Tolerance
from bench.peers.calling import Job
from bench.peers.process import Caller, peer_environment, python_of, started
from bench.peers.subjects import Subject, Table
from bench.server import Server, free_port
from bench.tree import Tree

__all__ = ["CONTESTANTS", "OURS", "Callers", "Opsin", "Peer", "Running"]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that answers. job: what to ask; its `callers` and `seconds` are set by the contest."""

    tree: Tree
    caller: Caller
    job: Job


@dataclass(frozen=True, slots=True)
class Callers:
    """The two kinds of callers, each in a process of its own."""

    http: Caller
    grpc: Caller


@dataclass(frozen=True, slots=True)
class Opsin:
    """`opsin serve`. settings: more of a model's settings, as in `--model NAME=SOURCE,settings`.

    held: to what the peers do, so that the servers are compared and not the number types. optional: left out
    where it cannot be started.
    """

    name: str
    about: str
    settings: str = ""
    tolerance: Tolerance = ROUNDED
    held: bool = False
    optional: bool = False
    page: str = "docs/performance.md"

    def serves(self, subject: Subject) -> bool:
        """Everything."""
        return True

    @contextmanager
    def running(self, table: Table, callers: Callers, *, tuned: bool) -> Iterator[Running]:
        """On a port of its own."""
        spec = table.subject.spec
        if self.settings:
            spec = f"{spec if '=' in spec else f'{spec}={spec}'},{self.settings}"
        with Server(spec) as server:
            yield Running(Tree(server.pid), callers.grpc, Job(server.target, table.subject.name, table.timed))


@dataclass(frozen=True, slots=True)
class Peer:
    """A server in an environment of its own.

    command: behind that environment's `bin/`; `{port}` is put in. settings: the PEER_* variables of its app.
    """

    name: str
    about: str
    page: str
    environment: str
    command: tuple[str, ...]
    settings: Mapping[str, str]
    variables: Mapping[str, str] = field(default_factory=dict)
    path: str = "/"
    form: bool = False
    classifies_only: bool = False
    tolerance: Tolerance = EXACT
    optional: bool = False

    def serves(self, subject: Subject) -> bool:
        """Whether there is an app for this kind of model."""
        return subject.kind == "classifier" or not self.classifies_only

    @contextmanager
    def running(self, table: Table, callers: Callers, *, tuned: bool) -> Iterator[Running]:
        """On a port of its own."""
        port = free_port()
        folder = python_of(self.environment).parent
        first, *rest = (part.format(port=port) for part in self.command)
        more = {f"PEER_{name}": value for name, value in self.settings.items()}
        more |= {
            "PEER_KIND": table.subject.kind,
            "PEER_SOURCE": table.subject.source,
            "PEER_PORT": str(port),
            "OMP_NUM_THREADS": self.settings["THREADS"],
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            **self.variables,
        }
        job = Job(f"http://127.0.0.1:{port}{self.path}", table.subject.name, table.timed, form=self.form)
        ready = Job(job.target, job.model, table.timed[:1], seconds=0.05, form=self.form)
        env = peer_environment(more, tuned=tuned)
        with started([str(folder / first), *rest], env, ready, callers.http) as tree:
            yield Running(tree, callers.http, job)


def _settings(workers: int, threads: int, **more: str) -> dict[str, str]:
    return {"WORKERS": str(workers), "THREADS": str(threads), "BATCH": "8", "WAIT_MS": "10", **more}


_MOSEC = (
    "python",
    "-m",
    "bench.peers.mosec.app",
    "--address",
    "127.0.0.1",
    "--port",
    "{port}",
    "--timeout",
    "60000",
    "--log-level",
    "warning",
)
_MOSEC_PAGE = "https://github.com/mosecorg/mosec#performance-tuning"

OURS = (
    Opsin("opsin", "as `opsin serve` starts without settings"),
    Opsin(
        "opsin-fp32",
        "runtime=eager, dtype=float32",
        settings="runtime=eager,dtype=float32",
        tolerance=EXACT,
        held=True,
    ),
    Opsin("opsin-int8", "dtype=int8", settings="dtype=int8", optional=True),
)

CONTESTANTS: tuple[Opsin | Peer, ...] = (
    *OURS,
    Peer(
        "mosec",
        f"{CORES} workers of 1 thread, max_batch_size 8, max_wait_time 10 ms, one stage",
        _MOSEC_PAGE,
        "mosec",
        _MOSEC,
        _settings(CORES, 1),
        path="/inference",
    ),
    Peer(
        "mosec-wide",
        f"1 worker of {CORES} threads, max_batch_size 8, max_wait_time 10 ms, one stage",
        _MOSEC_PAGE,
        "mosec",
        _MOSEC,
        _settings(1, CORES),
        path="/inference",
    ),
    Peer(
        "litserve",
        f"workers_per_device {CORES} of 1 thread, max_batch_size 8, batch_timeout 10 ms",
        "https://lightning.ai/docs/litserve/features/batching",
        "litserve",
        ("python", "-m", "bench.peers.litserve.app"),
        _settings(CORES, 1, FAST_QUEUE="0"),
        path="/predict",
        form=True,
    ),
    Peer(
        "ray-serve",
        f"{CORES} replicas of 1 core, @serve.batch of 8 in a thread, 10 ms, RAY_SERVE_THROUGHPUT_OPTIMIZED",
        "https://docs.ray.io/en/latest/serve/advanced-guides/performance.html",
        "ray_serve",
        ("python", "-m", "bench.peers.ray_serve.app"),
        _settings(CORES, 1),
        variables={
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        },
    ),
    Peer(
        "flask",
        f"gunicorn -w {CORES} -k gthread, transformers pipeline, one picture at a time",
        "https://gunicorn.org/design",
        "flask_app",
        (
            "gunicorn",
            "--workers",
            str(CORES),
            "--worker-class",
            "gthread",
            "--threads",
            "1",
            "--timeout",
            "0",
            "--keep-alive",
            "75",
            "--bind",
            "127.0.0.1:{port}",
            "bench.peers.flask_app.app:app",
        ),
        _settings(CORES, 1),
        classifies_only=True,
        # Its pipeline decodes all of a JPEG, the others half of it in each direction where that is enough.
        tolerance=RESAMPLED,
    ),
)
