"""Settings that are measured exist, and a server that is asleep does nothing until it is woken."""

import subprocess
import sys

import psutil
import pytest

from bench.knobs import KNOBS, Knob, spec
from bench.server import ENVIRONMENT, environment
from bench.tree import Tree
from opsin_detectors.sources import parse
from opsin_server.config import Settings
from opsin_server.process import missing

FAMILY = """
import subprocess, sys, time
while time.process_time() < 0.1:  # the system tells the time in hundredths
    pass
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print("up", flush=True)
child.wait()
"""


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_a_knob_turns_something_that_the_server_knows(knob: Knob, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in knob.settings.items():
        monkeypatch.setenv(f"OPSIN_{name}", value)
    Settings()
    assert parse(spec("nsfw", knob)).name == "nsfw"


def test_knobs_differ_from_the_default_and_from_each_other() -> None:
    turned = [(knob.model, dict(knob.settings), dict(knob.variables)) for knob in KNOBS]
    assert KNOBS[0].name == "default"
    assert turned[0] == ("", {}, {})
    assert all(turned.count(one) == 1 for one in turned)


def test_a_server_without_malloc_settings_does_not_give_itself_them() -> None:
    """`opsin serve` starts itself anew with what is missing: the knob would be the default beside itself."""
    (knob,) = [one for one in KNOBS if "malloc" in one.name]
    told = environment(knob.variables)
    assert not any(name.startswith("MALLOC") for name in told)
    assert missing(told, "glibc") == {}


def test_a_variable_can_be_left_out_of_what_is_measured() -> None:
    name = next(iter(ENVIRONMENT))
    assert name in environment()
    assert name not in environment({name: None})


def test_a_tree_sleeps_wakes_and_ends_with_all_its_branches() -> None:
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "up\n"
        tree = Tree(process.pid)
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert len(everyone) == 2
        tree.sleep()
        for one in everyone:
            # The signal arrives when the system finds time for it.
            while one.status() != psutil.STATUS_STOPPED:
                pass
        with tree.awake():
            for one in everyone:
                while one.status() == psutil.STATUS_STOPPED:
                    pass
        assert tree.cpu_seconds() > 0
        tree.end()
        process.wait()
        assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in everyone)
