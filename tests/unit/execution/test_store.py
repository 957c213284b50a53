"""A choice is kept for the next start; what is not one is as good as nothing."""

import json
from pathlib import Path

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
    store.path("choice.json").write_text(content)
    assert store.read() is None


def test_without_a_folder_nothing_is_kept_and_files_are_temporary() -> None:
    store = Store(None, "a")
    store.keep(CHOICE)
    assert store.read() is None
    path = store.path("graph.onnx")
    path.write_bytes(b"x")
    assert not store.has("graph.onnx")
    store.close()
    assert not path.exists()


def test_a_folder_that_cannot_be_made_costs_nothing_but_the_keeping(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file", "a")
    store.keep(CHOICE)
    assert store.read() is None
    store.path("graph.onnx").write_bytes(b"x")
    store.close()


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path, "a")
    writing = store.writing("graph.onnx")
    writing.__enter__().write_bytes(b"half")
    assert not writing.__exit__(ValueError, ValueError("half"), None)
    assert not store.has("graph.onnx")
    with store.writing("graph.xml") as scratch:
        scratch.write_bytes(b"graph")
        scratch.with_suffix(".bin").write_bytes(b"weights")
    assert sorted(path.name for path in store.path("graph.xml").parent.iterdir()) == [
        "graph.bin",
        "graph.xml",
    ]


def test_the_key_changes_with_any_fact() -> None:
    facts = {"network": "abc", "versions": {"torch": "2"}, "threads": 1}
    assert key_of(facts) == key_of(json.loads(json.dumps(facts)))
    assert len({key_of(facts), key_of({**facts, "threads": 2}), key_of({**facts, "network": "abd"})}) == 3
