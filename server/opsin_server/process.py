"""What has to be set before a process begins: the allocator and OpenMP. Serving starts itself anew with it.

glibc returns freed blocks above a threshold to the kernel, so a network whose layers allocate megabytes pays
for page faults at every layer; and it gives each thread an arena of its own, in which raising the threshold
does nothing. Measured with nanodet at 32 callers, two lanes on two cores: 22.8 images a second without these
settings, 33.9 with them. OpenMP's idle workers spin by default, which costs a busy machine dearly.

glibc and OpenMP read these once, when the process begins; hence the `execve`, which keeps the process id.
What the user has set stays as it is. This module and `config/` are the only ones that read the environment.

Beside it the standard descriptors, which whoever starts a server may have closed.
"""

import os
import platform
import sys
from collections.abc import Mapping

__all__ = ["TUNED", "missing", "open_standard_streams", "start_tuned"]

TUNED: Mapping[str, str] = {
    # A thread arena never grows past 64 MiB and trims by its own rules; with one arena the limits below hold.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    # Each worker thread runs its own small piece of torch; a lane sets its own width.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
_DONE = "OPSIN_STARTED_TUNED"
"""Set by the first start for the second, so that there is no third."""


def open_standard_streams() -> None:
    """Open what was closed of standard input, output and error on the null device.

    Else their numbers go to the next sockets and files: the event loop's library ends the process when it
    closes one of them, and what is printed would go there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(null, True)  # for the process that is to come, too
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115


def missing(environ: Mapping[str, str], libc: str) -> dict[str, str]:
    """What is to be added to `environ`; nothing when it was done, or the C library reads none of it."""
    if _DONE in environ:
        return {}
    ours = {k: v for k, v in TUNED.items() if libc == "glibc" or not k.startswith("MALLOC_")}
    return {key: value for key, value in ours.items() if key not in environ}


def start_tuned() -> None:
    """Begin this process anew with the settings, unless it has them. Must come before torch is imported.

    Where that is not allowed it goes on as it is, and says so.
    """
    wanted = missing(os.environ, platform.libc_ver()[0])
    os.environ.pop(_DONE, None)  # not for the children
    if not wanted:
        return
    os.environ.update(wanted)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, _DONE: "1"})  # noqa: S606
    except (OSError, TypeError, ValueError) as error:  # Python within another program does not know its own
        print(f"opsin: serving without the allocator's settings, as {error}", file=sys.stderr)
