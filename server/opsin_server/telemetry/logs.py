"""How the server logs: structured events, for people or for a log collector.

Owns the set-up of structlog for the process. Every event carries what `bind_request` put into the context:
the request id. Everything goes to standard error, so that standard output stays for what the user asked for.
"""

import logging
import sys
from typing import Any

import structlog

from opsin_server.config import LogSettings

__all__ = ["bind_request", "configure"]


def configure(settings: LogSettings) -> None:
    """Set up logging for this process, from the server and from the libraries under it."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_rendering(settings.format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr, force=True)


def bind_request(request_id: str) -> None:
    """Put the request id on every event logged from here on, in this task and those it starts."""
    structlog.contextvars.bind_contextvars(request_id=request_id)


def _rendering(form: str) -> list[Any]:
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # Its own choice, where rich is installed, prints all variables: the callers' pictures and texts.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
