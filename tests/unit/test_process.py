"""Serving starts with the allocator's settings in place, once, and leaves what the user has set alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsin_server.process import TUNED, missing, start_tuned


def test_everything_is_added_where_nothing_is_set() -> None:
    assert missing({}, "glibc") == dict(TUNED)


def test_what_the_user_has_set_stays() -> None:
    assert "OMP_NUM_THREADS" not in missing({"OMP_NUM_THREADS": "4"}, "glibc")


def test_another_c_library_gets_no_settings_of_glibc() -> None:
    assert set(missing({}, "")) == {"OMP_NUM_THREADS", "OMP_WAIT_POLICY"}


def test_a_process_starts_anew_once_under_its_own_id_with_its_own_arguments() -> None:
    script = (
        "import os, sys; print(os.getpid(), os.environ.get('MALLOC_ARENA_MAX'), sys.argv[1:]);"
        "from opsin_server.process import start_tuned; start_tuned();"
        "print('serving', dict(os.environ).keys() & {'OPSIN_STARTED_TUNED'})"
    )
    clean = {key: value for key, value in os.environ.items() if key not in TUNED}
    clean["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script, "a", "b c"], capture_output=True, text=True, env=clean, check=True
    )
    lines = done.stdout.splitlines()
    first, second = lines[0].split(maxsplit=2), lines[1].split(maxsplit=2)
    assert first[0] == second[0]
    assert second[2] == "['a', 'b c']"
    assert lines[2:] == ["serving set()"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_server_whose_standard_streams_were_closed_starts_serves_and_ends_well(
    closed: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    script = (
        "import asyncio, os, sys, uvloop;"
        "from opsin_server.process import open_standard_streams, start_tuned;"
        "open_standard_streams(); start_tuned();"
        "runner = asyncio.Runner(loop_factory=uvloop.new_event_loop);"
        "runner.run(asyncio.sleep(0)); runner.close();"
        "print('out'); print('error', file=sys.stderr); sys.stdin.read();"
        "[os.fstat(number) for number in range(3)];"
        "open(sys.argv[1], 'w').write(os.environ['MALLOC_ARENA_MAX'])"
    )
    clean = {key: value for key, value in os.environ.items() if key not in TUNED}
    clean["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", script, str(told)]
    done = subprocess.run(command, env=clean, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert told.read_text() == "1"


def test_where_it_may_not_start_anew_it_serves_as_it_is_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "execve", refuse)
    start_tuned()
    assert "without the allocator's settings" in capsys.readouterr().err
