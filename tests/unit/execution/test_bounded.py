"""Folders together are no larger than told, and none goes that a server is running."""

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opsin_detectors.api import LoadContext
from opsin_detectors.execution import graphs, store
from opsin_detectors.execution.bounded import Use, bound
from opsin_detectors.execution.plan import Plan
from opsin_detectors.execution.store import Store

pytest.importorskip("fcntl")

DAY = 86400.0


def kept(root: Path, key: str, *, size: int, used: float) -> None:
    """A store with one file of so many bytes, used last at that time."""
    with Store(root, key).writing("graph.onnx") as scratch:
        scratch.write_bytes(bytes(size))
    gc.collect()  # nobody holds it
    os.utime(root / "runtimes" / key, (used, used))


def left(root: Path) -> list[str]:
    return sorted(one.name for one in (root / "runtimes").iterdir() if one.is_dir())


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for number, key in enumerate("abcd"):
        kept(tmp_path, key, size=1000, used=1e9 + number)
    bound(tmp_path / "runtimes", 2500)
    assert left(tmp_path) == ["c", "d"]
    assert Store(tmp_path, "d").found("graph.onnx") is not None


def test_reading_is_using(tmp_path: Path) -> None:
    for number, key in enumerate("abc"):
        kept(tmp_path, key, size=1000, used=1e9 + number)
    assert Store(tmp_path, "a").found("graph.onnx") is not None
    gc.collect()
    bound(tmp_path / "runtimes", 2500)
    assert left(tmp_path) == ["a", "c"]


def test_what_is_run_stays_however_large_and_old_it_is(tmp_path: Path) -> None:
    kept(tmp_path, "old", size=5000, used=1e9)
    kept(tmp_path, "new", size=1000, used=2e9)
    running = Store(tmp_path, "old")
    assert running.found("graph.onnx") is not None
    os.utime(tmp_path / "runtimes" / "old", (1e9, 1e9))
    bound(tmp_path / "runtimes", 100)
    assert left(tmp_path) == ["old"]
    del running
    gc.collect()
    bound(tmp_path / "runtimes", 100)
    assert left(tmp_path) == []


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_graph_that_is_run_is_in_use_when_nobody_holds_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setattr(graphs, "open_graph", lambda path, name, context: None)
    kept(tmp_path, "a", size=5000, used=1e9)
    one = Store(tmp_path, "a")
    path = one.found("graph.onnx")
    assert path is not None
    program = graphs.graph_program(path, Plan(runtime), LoadContext("m"), held=one, used=one.use)
    del one
    gc.collect()
    bound(tmp_path / "runtimes", 100)
    assert left(tmp_path) == ["a"]
    del program
    gc.collect()
    bound(tmp_path / "runtimes", 100)
    assert left(tmp_path) == []


def test_a_folder_that_is_taken_away_when_somebody_comes_to_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Use):
        """Has to wait for somebody who removes the folder."""

        def __init__(self, folder: Path) -> None:
            shutil.rmtree(folder)
            super().__init__(folder)

    kept(tmp_path, "a", size=10, used=1e9)
    monkeypatch.setattr(store, "Use", Late)
    kept(tmp_path, "a", size=10, used=1e9)
    assert left(tmp_path) == ["a"]
    assert [one.name[9:] for one in (tmp_path / "runtimes" / "a").glob("*-graph.onnx")] == ["graph.onnx"]


def test_what_another_process_runs_stays_until_that_ends(tmp_path: Path) -> None:
    kept(tmp_path, "a", size=5000, used=1e9)
    code = (
        "import sys; from pathlib import Path; from opsin_detectors.execution.bounded import Use\n"
        "use = Use(Path(sys.argv[1])); print('in use', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runtimes" / "a")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in use\n"
        bound(tmp_path / "runtimes", 100)
        assert left(tmp_path) == ["a"]
        other.communicate("")
    bound(tmp_path / "runtimes", 100)
    assert left(tmp_path) == []


def test_who_comes_while_a_folder_is_removed_has_a_lock_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened the lock's file before that went, and would hold one that nobody else sees."""
    folder = tmp_path / "a"
    folder.mkdir()
    real = os.open
    opened: list[Path] = []

    def slow(path: Path, *more: int) -> int:
        file = real(path, *more)
        if not opened:
            Path(path).unlink()
        opened.append(path)
        return file

    monkeypatch.setattr(os, "open", slow)
    use = Use(folder)
    assert len(opened) == 2
    bound(tmp_path, 0)
    assert folder.exists()
    del use


def test_loading_brings_the_folder_back_below_its_bound(tmp_path: Path) -> None:
    kept(tmp_path, "old", size=5000, used=1e9)
    store = Store(tmp_path, "new", most=3000)
    with store.writing("graph.onnx") as scratch:
        scratch.write_bytes(bytes(1000))
    store.tidy()
    assert left(tmp_path) == ["new"]


def test_without_a_bound_everything_stays(tmp_path: Path) -> None:
    kept(tmp_path, "old", size=5000, used=1e9)
    Store(tmp_path, "new").tidy()
    assert left(tmp_path) == ["old"]


def test_what_a_killed_server_left_half_written_goes_after_a_day_and_what_counts_stays(
    tmp_path: Path,
) -> None:
    kept(tmp_path, "a", size=10, used=1e9)
    folder = tmp_path / "runtimes" / "a"
    old, young = folder / "11111111-graph.onnx", folder / "22222222-graph.onnx"
    for path in (old, young):
        path.write_bytes(b"half")
    for path in folder.iterdir():
        if path != young:
            os.utime(path, (1e9, 1e9))
    bound(folder.parent, 10**6)
    assert not old.exists()
    assert young.exists()
    assert Store(tmp_path, "a").found("graph.onnx") is not None


def test_a_folder_that_is_not_there_or_cannot_be_read_is_nobodys_trouble(tmp_path: Path) -> None:
    bound(tmp_path / "nowhere", 1)
    (tmp_path / "file").write_text("no folder")
    bound(tmp_path / "file", 1)
