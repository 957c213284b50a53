"""The exit codes of `opsin`, for scripts. Knows nothing of how errors come about."""

from enum import IntEnum

__all__ = ["EPILOG", "ExitCode"]


class ExitCode(IntEnum):
    """What a script learns from the end of a command."""

    OK = 0
    SOME_FAILED = 1
    """Some inputs failed, or a file could not be read or written."""
    USAGE = 2
    """The command line is wrong, or something that the command needs is not installed."""
    UNREACHABLE = 3
    """No server there, or one that is not ready."""
    REFUSED = 4
    """The server refused the request as such: wrong option, unknown model, no permission."""
    BUSY = 5
    """The server is overloaded or the time was up: the same command may succeed later."""
    SERVER_FAULT = 6
    """The server broke; its log has the error id."""
    INTERRUPTED = 130
    """Ctrl-C."""


EPILOG = (
    "Exit codes: 0 all fine, 1 some inputs failed, 2 wrong usage, 3 server unreachable or not ready, "
    "4 refused (option, model, permission), 5 overloaded or out of time, 6 the server failed, "
    "130 interrupted. When every input failed, the code is that of the first."
)
