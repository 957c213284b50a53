"""The rules of a detector's life, from folder to end, catch what breaks them; the built-in ones keep all.

Each wrong detector is a real folder: the template's, with one thing changed.
"""

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from opsin_detectors import scaffold
from opsin_detectors.api import LoadContext, LoadError
from opsin_detectors.finder import find
from opsin_detectors.testing import Finding, Status, examine, rule_names
from opsin_server.models.trial import ServerHarness


@pytest.fixture(scope="module", autouse=True)
def what_was_there_before_is_not_looked_at() -> Iterator[None]:
    """Each life is followed by full collections; after thousands of tests one takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def failed(folder: Path, **settings: str) -> list[Finding]:
    found = find([folder])[folder.name]
    return [
        one
        for one in examine(found, LoadContext(folder.name, settings=settings), harness=ServerHarness())
        if one.status is Status.FAILED
    ]


def changed(into: Path, before: str, after: str, file: str = "detector.py") -> Path:
    """The template's detector with `before` (once in the file) written as `after`."""
    folder = scaffold.write("mine", into)
    path = folder / file
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    return folder


INIT = "        settings = Settings(context)\n"
CLOSE = "    def infer(self"


def test_what_the_template_writes_keeps_every_rule(tmp_path: Path) -> None:
    folder = scaffold.write("mine", tmp_path)
    found = find([folder])["mine"]
    outcomes = list(examine(found, LoadContext("mine"), harness=ServerHarness()))
    assert [one.rule for one in outcomes] == rule_names()
    assert [one for one in outcomes if one.status is Status.FAILED] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "name", ["echo", *(name for name, one in find().items() if one.folder is not None and one.source)]
)
def test_every_built_in_detector_keeps_every_rule(name: str) -> None:
    found = find()[name]
    outcomes = list(examine(found, LoadContext(name), harness=ServerHarness()))
    assert [one.rule for one in outcomes] == rule_names()
    assert [str(one) for one in outcomes if one.status is Status.FAILED] == []


def test_a_source_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder = changed(tmp_path, '# source = "model', 'source = "nodel', "detector.toml")
    (finding,) = failed(folder)
    assert finding.rule == "manifest"
    assert "nodel.safetensors does not exist" in finding.seen


def test_code_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    (finding,) = failed(changed(tmp_path, "SIZE = 32\n", "SIZE = int('x')\n"))
    assert finding.rule == "imports"
    assert "cannot be imported: ValueError: invalid literal" in finding.seen


def test_a_class_that_is_not_there_is_told(tmp_path: Path) -> None:
    (finding,) = failed(changed(tmp_path, "detector:Mine", "detector:Yours", "detector.toml"))
    assert finding.rule == "imports"
    assert "has no “Yours”" in finding.seen


def test_a_thread_that_begins_with_the_import_is_told(tmp_path: Path) -> None:
    begins = (
        "SIZE = 32\nfrom threading import Event, Thread\n"
        "Thread(target=Event().wait, args=(9,), daemon=True).start()\n"
    )
    (finding,) = failed(changed(tmp_path, "SIZE = 32\n", begins))
    assert finding.rule == "imports"
    assert "started the threads Thread-" in finding.seen
    assert "begins in __init__" in finding.right


def test_an_extra_that_is_not_stated_is_told(tmp_path: Path) -> None:
    (finding,) = failed(changed(tmp_path, "SIZE = 32\n", "SIZE = 32\nimport torch\n"))
    assert finding.rule == "imports"
    assert finding.right == 'extra = "torch" tells who lacks it what to install'
    assert finding.where == str(tmp_path / "mine" / "detector.toml")


def test_what_loading_refuses_is_told_with_the_line(tmp_path: Path) -> None:
    (finding,) = failed(scaffold.write("mine", tmp_path), threshold="2")
    assert finding.rule == "loads"
    assert "setting “threshold” of model “mine” has to be from 0 to 1, not 2" in finding.seen
    assert re.search(r"mine/detector\.py:\d+ in __init__", finding.where)


def test_a_fault_in_loading_is_told_with_the_line(tmp_path: Path) -> None:
    (finding,) = failed(changed(tmp_path, INIT, INIT + "        open('nothing-here')\n"))
    assert finding.rule == "loads"
    assert "__init__ raised FileNotFoundError" in finding.seen
    assert "raises LoadError" in finding.right
    assert re.search(r"mine/detector\.py:\d+ in __init__", finding.where)


def test_a_close_that_works_only_once_is_told(tmp_path: Path) -> None:
    close = "    def close(self) -> None:\n        del self._threshold\n\n" + CLOSE
    (finding,) = failed(changed(tmp_path, CLOSE, close))
    assert finding.rule == "close"
    assert "close, the second time, raised AttributeError" in finding.seen
    assert re.search(r"mine/detector\.py:\d+ in close", finding.where)


def test_a_thread_that_close_forgets_is_told(tmp_path: Path) -> None:
    thread = (
        INIT + "        from threading import Event, Thread\n"
        "        Thread(target=Event().wait, args=(30,), name='poll', daemon=True).start()\n"
    )
    (finding,) = failed(changed(tmp_path, INIT, thread))
    assert finding.rule == "unload"
    assert re.search(r"the threads poll(, poll)* live on after close", finding.seen)
    assert "close ends the threads" in finding.right


def test_a_detector_that_something_holds_is_told(tmp_path: Path) -> None:
    folder = changed(tmp_path, INIT, INIT + "        ALL.append(self)\n")
    path = folder / "detector.py"
    path.write_text(path.read_text().replace("SIZE = 32\n", "SIZE = 32\nALL = []\n"))
    (finding,) = failed(folder)
    assert finding.rule == "unload"
    assert "the detector lives on after close, held by a list" in finding.seen


def test_weights_that_stay_are_told(tmp_path: Path) -> None:
    folder = changed(tmp_path, INIT, INIT + "        ALL.append(np.ones(2_000_000))\n")
    path = folder / "detector.py"
    path.write_text(path.read_text().replace("SIZE = 32\n", "SIZE = 32\nALL = []\n"))
    (finding,) = failed(folder)
    assert finding.rule == "unload"
    assert "each life of the model leaves 1" in finding.seen
    assert "no globals" in finding.right


def test_a_folder_that_holds_no_detector_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"holds no detector\.toml"):
        find([tmp_path])
