"""For all tests: signals as a terminal would have them, and nothing that the machine's clock or luck decides.

A job that a shell starts in the background ignores SIGINT, and so does everything it starts; the tests that
press Ctrl-C would then wait for ever. A process that handles it hands the default on to its children.

Properties are tried with examples that are the same in every run, so that a test that fails fails again, and
an example may take as long as it does: on a machine that others use, some will wait. `--hypothesis-profile
explore` tries others in each run, and keeps those that failed.

Integration tests have sockets, processes and timers of a machine that others may be using. With
`--second-try`, which `make test` gives, one that fails is run once more, and the summary tells which and what
went wrong. A run in which more than `SECOND_TRIES` needed that has failed all the same: it is not the machine
then. Unit tests get no second try.
"""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

SECOND_TRIES = 3

settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("opsin", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("opsin")

# Servers in processes of their own do not measure, and answer the same on every machine.
os.environ.setdefault("OPSIN_DETECTORS__RUNTIME", "channels_last")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--second-try", action="store_true", help="run an integration test that fails once more")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--second-try"):
        for item in items:
            if "integration" in item.path.parts:
                item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if needed(session.config) > SECOND_TRIES and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(config: pytest.Config) -> None:
    if needed(config) > SECOND_TRIES:
        config.get_terminal_writer().line(
            f"{needed(config)} tests needed a second try, and {SECOND_TRIES} may: this run has failed",
            red=True,
        )


def needed(config: pytest.Config) -> int:
    """How many tests failed at first and were run again."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("rerun", ())) if reporter else 0
