"""A process that serves: set up as serving wants it, one server in it, stopped by signals, with an exit code.

One line with the address is printed when all models are warm. SIGTERM drains as `drain.*` says; Ctrl-C skips
the delay, which is for proxies. A second signal ends at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import structlog

from opsin_server.app import App
from opsin_server.config import Settings
from opsin_server.interpreter import hasten_turns, set_apart
from opsin_server.models import background
from opsin_server.telemetry.logs import configure as configure_logs
from opsin_server.telemetry.loop_watch import LoopWatch, watching

__all__ = ["run"]

log = structlog.get_logger(__name__)


def run(settings: Settings, *, until_ready: bool = False) -> int:
    """Serve until a signal says stop; returns the exit code. Raises ConfigError before anything is bound.

    The process is as `process.py` has it from its beginning: that is for whoever calls this to see to.

    until_ready: stop as soon as all models are loaded and warm.
    """
    hasten_turns()
    configure_logs(settings.log)
    with asyncio.Runner(loop_factory=_loop_factory(settings.server.loop_watch_ms)) as runner:
        code = runner.run(_serve(settings, until_ready))
    if background.busy():
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End the process although a thread still loads a model.

    A thread that comes back from native code while the interpreter goes down may abort the whole process, and
    with it the exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(settings: Settings, until_ready: bool) -> int:
    app = App(settings)
    stop = _stop_on_signals(asyncio.get_running_loop())
    port = await app.start()
    loading = asyncio.create_task(app.load())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    failed = loading.result() if loading.done() else []
    if failed:
        for bad in failed:
            reason = bad.failure.message if bad.failure else "unknown"
            print(f"opsin: model {bad.key} cannot be served: {reason}", file=sys.stderr)
    elif loading.done():
        set_apart()
        names = ", ".join(dict.fromkeys(model.name for model in app.models))
        print(f"opsin is ready at {settings.server.host}:{port} with {names}", flush=True)
        if not until_ready:
            await stopping
    loading.cancel()
    stopping.cancel()
    at_once = until_ready or failed or stop.by_hand or not loading.done()
    await app.stop(delay=0.0 if at_once else None)
    return 1 if failed else 0


class _Stop(asyncio.Event):
    """Set when the server shall stop. by_hand: by Ctrl-C, where no proxy has to notice first."""

    by_hand = False


def _stop_on_signals(loop: asyncio.AbstractEventLoop) -> _Stop:
    """An event that SIGTERM and SIGINT set; the second signal ends the process at once."""
    stop = _Stop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.by_hand = number == signal.SIGINT
        if stop.by_hand:
            print("stopping; press Ctrl-C again to stop now", file=sys.stderr, flush=True)
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # no signals on this platform's loop
            loop.add_signal_handler(number, on_signal, number)
    return stop


def _loop_factory(watch_ms: float) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """watch_ms: tell of what holds the loop for longer; 0: of nothing."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None
    try:
        import uvloop
    except ImportError:  # not on this platform
        factory = None
    else:
        factory = uvloop.new_event_loop
    return watching(factory, LoopWatch(watch_ms / 1000)) if watch_ms else factory
