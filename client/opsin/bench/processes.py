"""Python programs of our own as processes, and the error that ends a bench."""

import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["BenchError", "start"]


class BenchError(Exception):
    """The run cannot be measured; the message says why.

    unreachable: because no server answers. target: which server it was about. code, reason: gRPC's and the
    server's, where it said so.
    """

    def __init__(
        self, message: str, *, unreachable: bool = False, target: str = "", code: str = "", reason: str = ""
    ) -> None:
        super().__init__(message)
        self.unreachable = unreachable
        self.target = target
        self.code = code
        self.reason = reason


def start(module: Sequence[str], *, stdin: int) -> "subprocess.Popen[str]":
    """`python -m MODULE ARGUMENTS...`, its output readable as text."""
    # The path that this process finds its modules by, which need not be the one a fresh Python would have.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", *module],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        # Ctrl-C reaches every process of a terminal's session: this one alone decides what it means.
        start_new_session=True,
    )
