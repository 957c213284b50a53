"""What a command does with an error: one sentence on stderr, and the exit code that goes with it."""

import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from opsin.cli.exits import ExitCode
from opsin.cli.inputs import MissingInputError

__all__ = ["describe", "error_to_dict", "exit_code", "guarded", "is_fatal", "nobody_at", "warn"]


def exit_code(error: Exception) -> ExitCode:
    """The exit code for an error; `SERVER_FAULT` for one that fits nowhere else."""
    import opsin

    match error:
        case MissingInputError():
            code = ExitCode.SOME_FAILED
        case opsin.InvalidInput() if _found_here(error):
            here = {violation.field for violation in error.violations} & _INPUT_FIELDS
            code = ExitCode.SOME_FAILED if here else ExitCode.USAGE
        case opsin.MissingExtra():
            code = ExitCode.USAGE
        case opsin.Unavailable():
            code = ExitCode.UNREACHABLE
        case opsin.Overloaded() | opsin.DeadlineExceeded():
            code = ExitCode.BUSY
        case opsin.ServerFailed() | opsin.Cancelled() | opsin.ClientClosed():
            code = ExitCode.SERVER_FAULT
        case opsin.OpsinError():
            code = ExitCode.REFUSED
        case _:
            code = ExitCode.SERVER_FAULT
    return code


_INPUT_FIELDS = frozenset({"source", "input", "image", "text", "frame.image"})
"""What the client blames when a file, a camera or a picture is wrong; any other field is an option's."""


def _found_here(error: Any) -> bool:
    """Whether the client found the fault before anything was sent: a server always gives a reason."""
    return bool(error.violations) and not error.reason and not error.request_id


def is_fatal(error: Exception) -> bool:
    """Whether the next input would fare no better: nobody there, not allowed, or something not installed."""
    import opsin

    return isinstance(
        error,
        opsin.Unreachable
        | opsin.Draining
        | opsin.MissingExtra
        | opsin.Unauthenticated
        | opsin.PermissionDenied
        | opsin.ModelNotFound
        | opsin.TaskUnsupported,
    )


def describe(error: Exception, target: str = "") -> str:
    """What went wrong and what would be right, for people, in one sentence or two."""
    import opsin

    match error:
        case opsin.Unreachable():
            return _unreachable(error.message, target) if target else error.message
        case opsin.ModelNotFound(nearest=(first, *_)) if first not in error.message:
            return f"{error.message} Did you mean {first!r}?"
        case opsin.MissingExtra():
            return error.message
        case opsin.InvalidInput() if _found_here(error):
            return error.message
        case opsin.OpsinError():
            return f"{error.message} [{error.reason or error.code.name}]"
    return str(error)


def _unreachable(message: str, target: str) -> str:
    if "WRONG_VERSION_NUMBER" in message:  # how OpenSSL calls an answer that is no TLS
        return f"the server at {target} does not speak TLS: leave out --tls and --ca."
    return nobody_at(target, _why(message))


def _why(message: str) -> str:
    """The end of gRPC's account of a connection that failed, which is the part that tells something."""
    end = message.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
    end = re.sub(r"^(no answer from \S+:|ipv[46]:\S+:) ", "", end)
    return textwrap.shorten(end, 120, placeholder=" ...")


def nobody_at(target: str, why: str = "") -> str:
    """The sentence for a server that is not there."""
    if re.fullmatch(r"[\w.-]+", target):
        why = "no port was given, so 443 was tried"
    return (
        f"no server answers at {target}{f' ({why})' if why else ''}. "
        "Start one with 'opsin serve', or say where it is with --target HOST:PORT."
    )


def error_to_dict(error: Exception) -> dict[str, Any]:
    """The error of one input, for a JSON line: `code`, `reason`, `message`."""
    import opsin

    if isinstance(error, opsin.OpsinError):
        return {"code": error.code.name, "reason": error.reason, "message": error.message}
    return {"code": "INPUT_MISSING", "reason": "INPUT_MISSING", "message": str(error)}


def warn(sentence: str) -> None:
    """Say something on stderr that does not end the command."""
    print(f"opsin: {sentence}", file=sys.stderr)


@contextmanager
def guarded(target: str = "") -> Iterator[None]:
    """End the command with a sentence and an exit code when an error of ours comes out of the block."""
    import opsin

    try:
        yield
    except (opsin.OpsinError, MissingInputError) as error:
        warn(describe(error, target))
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        warn("interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
