"""Serving starts with the allocator's settings in place, once, and leaves what the user has set alone."""

import os
import subprocess
import sys

from opsin_server.process import TUNED, missing


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
