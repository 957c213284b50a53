"""A choice is kept for the next start; what is not one is as good as nothing."""

import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest

from opsin_detectors.api import Trial
from opsin_detectors.execution.plan import Plan
from opsin_detectors.execution.store import Choice, Store, key_of

CHOICE = Choice(
    Plan("channels_last", "bfloat16"),
    (Trial("eager", "float32", ((1, 0.1), (4, 0.3)), "slower"), Trial("openvino", "float32", (), "no room")),
)


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    Store(tmp_path, "a").keep(CHOICE)
    assert Store(tmp_path, "a").read() == CHOICE
    assert Store(tmp_path, "b").read() is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"runtime": "rm", "dtype": "float32", "trials": []}', "\x00", '{"runtime": 1}'],
)
def test_nonsense_is_no_choice(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path, "a")
    store.keep(CHOICE)
    path = store.found("choice.json")
    assert path is not None
    path.write_text(content)
    assert store.read() is None


def write(store: Store, name: str, content: bytes = b"x") -> Path:
    with store.writing(name) as scratch:
        scratch.write_bytes(content)
    path = store.found(name)
    assert path is not None
    return path


def test_without_a_folder_nothing_is_kept_and_files_are_there_while_somebody_holds_their_folder() -> None:
    store = Store(None, "a")
    store.keep(CHOICE)
    assert store.read() is None
    path = write(store, "graph.onnx")
    held = store.temporary
    del store
    assert path.exists()
    del held
    gc.collect()
    assert not path.exists()


def test_a_folder_that_cannot_be_made_costs_nothing_but_the_keeping(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file", "a")
    store.keep(CHOICE)
    assert Store(tmp_path / "file", "a").read() is None
    write(store, "graph.onnx")
    assert Store(tmp_path / "file", "a").found("graph.onnx") is None


def test_what_is_in_a_folder_that_cannot_be_written_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, "a")
    store.keep(CHOICE)
    kept = write(store, "graph.onnx")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    again = Store(tmp_path, "a")
    assert again.read() == CHOICE
    assert again.found("graph.onnx") == kept
    assert not write(again, "other.onnx").is_relative_to(tmp_path)
    assert again.found("graph.onnx") == kept


def test_a_folder_that_others_can_write_to_is_neither_read_nor_written(tmp_path: Path) -> None:
    folder = write(Store(tmp_path, "a"), "graph.onnx").parent
    Store(tmp_path, "a").keep(CHOICE)
    folder.chmod(0o777)
    store = Store(tmp_path, "a")
    assert store.read() is None
    assert store.found("graph.onnx") is None
    assert not write(store, "graph.onnx").is_relative_to(tmp_path)


def test_a_folder_that_may_not_be_looked_into_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that root filled for itself while an image was made."""
    Store(tmp_path, "a").keep(CHOICE)

    def refused(path: Path, encoding: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Path, "read_text", refused)
    assert Store(tmp_path, "a").read() is None


def test_what_root_kept_while_an_image_was_made_can_be_read_by_the_servers_user(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = write(Store(tmp_path, "a"), "graph.onnx")
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o777 == 0o755


def test_a_folder_of_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path, "a").keep(CHOICE)
    real = Path.stat
    another = os.geteuid() + 1

    def theirs(path: Path, **more: Any) -> os.stat_result:
        found = list(real(path, **more))
        return os.stat_result([*found[:4], another, *found[5:]])

    monkeypatch.setattr(Path, "stat", theirs)
    assert Store(tmp_path, "a").read() is None


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path, "a")
    writing = store.writing("graph.onnx")
    writing.__enter__().write_bytes(b"half")
    assert not writing.__exit__(ValueError, ValueError("half"), None)
    assert store.found("graph.onnx") is None
    assert list((tmp_path / "runtimes" / "a").iterdir()) == []


def test_weights_beside_a_graph_are_kept_with_it(tmp_path: Path) -> None:
    with Store(tmp_path, "a").writing("graph.xml") as scratch:
        scratch.write_bytes(b"graph")
        scratch.with_suffix(".bin").write_bytes(b"weights")
    path = Store(tmp_path, "a").found("graph.xml")
    assert path is not None
    assert (path.read_bytes(), path.with_suffix(".bin").read_bytes()) == (b"graph", b"weights")


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [shortened, flipped, Path.unlink])
@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_file_that_is_not_as_it_was_written_is_not_there(tmp_path: Path, suffix: str, harm: Any) -> None:
    with Store(tmp_path, "a").writing("graph.xml") as scratch:
        scratch.write_bytes(b"graph")
        scratch.with_suffix(".bin").write_bytes(b"weights")
    harm(scratch.with_suffix(suffix))
    assert Store(tmp_path, "a").found("graph.xml") is None
    again = write(Store(tmp_path, "a"), "graph.xml", b"whole")
    assert Store(tmp_path, "a").found("graph.xml") == again
    assert again.read_bytes() == b"whole"


@pytest.mark.parametrize("note", ["", "[", "[[1]]", '[["../../secret", 6, "x"]]', '{"a": 1}', "7"])
def test_a_note_that_nobody_here_wrote_leads_nowhere(tmp_path: Path, note: str) -> None:
    write(Store(tmp_path, "a"), "graph.onnx")
    (tmp_path / "runtimes" / "a" / "graph.onnx.kept").write_text(note)
    assert Store(tmp_path, "a").found("graph.onnx") is None


def test_a_graph_is_never_found_with_the_weights_of_another_servers(tmp_path: Path) -> None:
    """Two make the same graph at once, and each is done with one of its files before the other."""
    one, other = Store(tmp_path, "a"), Store(tmp_path, "a")
    with one.writing("graph.xml") as first, other.writing("graph.xml") as second:
        for path, name in ((first, b"one"), (second, b"other")):
            path.write_bytes(name)
        for path, name in ((second, b"other"), (first, b"one")):
            path.with_suffix(".bin").write_bytes(name)
    path = Store(tmp_path, "a").found("graph.xml")
    assert path is not None
    assert path.read_bytes() == path.with_suffix(".bin").read_bytes()
    assert {first.exists(), second.exists()} == {True}, "each goes on with its own"


def test_two_servers_with_one_process_number_do_not_write_to_one_file(tmp_path: Path) -> None:
    """As in two containers that share a volume."""
    one, other = Store(tmp_path, "a"), Store(tmp_path, "a")
    with one.writing("graph.onnx") as first, other.writing("graph.onnx") as second:
        assert first != second
        first.write_bytes(b"whole")
        second.write_bytes(b"whole")
    path = one.found("graph.onnx")
    assert path is not None
    assert path.read_bytes() == b"whole"


def test_the_key_changes_with_any_fact() -> None:
    facts = {"network": "abc", "versions": {"torch": "2"}, "threads": 1}
    assert key_of(facts) == key_of(json.loads(json.dumps(facts)))
    assert len({key_of(facts), key_of({**facts, "threads": 2}), key_of({**facts, "network": "abd"})}) == 3
