"""For all tests: signals as a terminal would have them.

A job that a shell starts in the background ignores SIGINT, and so does everything it starts; the tests that
press Ctrl-C would then wait for ever. A process that handles it hands the default on to its children.
"""

import os
import signal

# Servers in processes of their own do not measure, and answer the same on every machine.
os.environ.setdefault("OPSIN_DETECTORS__RUNTIME", "channels_last")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
