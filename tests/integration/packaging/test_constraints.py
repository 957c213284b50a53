"""What is pinned is what was tested."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def test_every_package_of_this_environment_is_pinned_at_its_version() -> None:
    command = [sys.executable, str(ROOT / "deploy" / "pins.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pins_are_exact_and_name_no_build_and_no_place() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9A-Za-z.]*", line)] == []
    assert "torch==2.13.0" in LINES
