"""The `opsin` command.

`main` is the console script. It owns one thing: that a missing extra is a sentence and not a traceback. All
else is in `app` and in one module per command; none of them is imported before it is asked for.
"""

import os
import sys

__all__ = ["main"]

_MISSING = "opsin: the command line needs {name!r}, which is not installed: pip install 'opsin[cli]'"


def main() -> None:
    """Run the command line with `sys.argv`; ends the process with one of the codes of `opsin.cli.exits`."""
    # gRPC's own log lines about connections and ports say nothing that our sentences about them do not.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from opsin.cli.app import run
    except ModuleNotFoundError as missing:
        if (missing.name or "opsin").partition(".")[0] == "opsin":
            raise
        print(_MISSING.format(name=missing.name), file=sys.stderr)
        sys.exit(2)
    run()
