"""What may stand in the log: where an error was, never what the caller had sent."""

import pytest
import structlog

from opsin_server.config import LogSettings
from opsin_server.telemetry.logs import configure


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_logged_traceback_shows_no_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    picture = "-".join(["a", "private", "picture"])
    try:
        configure(LogSettings(format=form))  # type: ignore[arg-type]
        _log_failure(picture)
    finally:
        structlog.reset_defaults()
    log = capsys.readouterr().err
    assert "ZeroDivisionError" in log
    assert "a-private-picture" not in log


def _log_failure(picture: str) -> None:
    try:
        len(picture) / 0
    except ZeroDivisionError as error:
        structlog.get_logger("test").error("unexpected error", exc_info=error)


def test_a_name_with_a_line_break_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        configure(LogSettings())
        structlog.get_logger("test").info("call", message="there is no model “\n2026 [info] forged\x1b[31m”")
    finally:
        structlog.reset_defaults()
    log = capsys.readouterr().err
    assert log.count("\n") == 1
    assert "\x1b[31m" not in log
