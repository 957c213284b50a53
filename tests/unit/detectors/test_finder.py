"""Detectors are found in three places, one way, without importing any; loading explains what is wrong."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from opsin_detectors import finder
from opsin_detectors.api import LoadContext, LoadError

WORKING = """
from .names import CLASSES
from opsin_detectors.api import Detector, ModelInfo, Task

class Thing(Detector):
    def __init__(self, context):
        self.context = context
        self.info = ModelInfo(tasks=frozenset({Task.CLASSIFY_IMAGE}), classes=CLASSES)
"""


def write(folder: Path, toml: str = "", code: str = WORKING, names: str = "CLASSES = ('a',)") -> Path:
    folder.mkdir(parents=True)
    manifest = toml or f'name = "{folder.name}"\nclass = "thing:Thing"\n'
    (folder / "detector.toml").write_text(manifest)
    (folder / "thing.py").write_text(code)
    (folder / "names.py").write_text(names)
    return folder


def test_the_four_built_in_detectors_are_found_with_a_description() -> None:
    found = finder.find()

    assert {"echo", "nanodet", "nsfw", "transformers"} <= set(found)
    assert all(one.description for one in found.values())


def test_packaged_weights_are_where_the_manifest_says_and_carry_a_notice() -> None:
    for name in ("nanodet", "nsfw"):
        one = finder.find()[name]
        assert one.folder is not None
        assert Path(one.source).exists()
        assert (one.folder / "NOTICE").is_file()


def test_finding_imports_no_detector_and_none_of_their_dependencies() -> None:
    program = (
        "import sys; from opsin_detectors.finder import find; find();"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers', 'safetensors')"
        " or m.startswith('opsin_detectors.') and m.count('.') > 1];"
        "sys.exit(str(bad) if bad else 0)"
    )
    command, root = [sys.executable, "-c", program], str(Path(finder.__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": root})

    assert done.returncode == 0, done.stderr


def test_a_users_folder_is_loaded_with_its_own_modules_and_without_touching_sys_path(tmp_path: Path) -> None:
    write(tmp_path / "mine")
    before = list(sys.path)

    found = finder.find([tmp_path])["mine"]
    detector = finder.load(found, LoadContext("m"))

    assert detector.info.classes == ("a",)
    assert sys.path == before
    assert "thing" not in sys.modules


def test_a_detectors_own_folder_may_be_named_directly(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine")

    assert "mine" in finder.find([folder, tmp_path, tmp_path])


def test_two_folders_with_equal_module_names_do_not_mix(tmp_path: Path) -> None:
    for parent, name in (("one", "first"), ("two", "second")):
        write(
            tmp_path / parent / "same",
            f'name = "{name}"\nclass = "thing:Thing"\n',
            names=f"CLASSES = ('{name}',)",
        )

    found = finder.find([tmp_path / "one", tmp_path / "two"])

    for name in ("first", "second"):
        assert finder.load(found[name], LoadContext(name)).info.classes == (name,)


def test_a_package_with_an_init_runs_it_once(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine", code=WORKING.replace("from .names", "from . import LOADED\nfrom .names")
    )
    (folder / "__init__.py").write_text("LOADED = []\nLOADED.append(1)\nassert LOADED == [1]")
    found = finder.find([tmp_path])["mine"]

    first, second = (type(finder.load(found, LoadContext("m"))) for _ in range(2))

    assert first is second


def test_a_name_used_twice_names_both_places(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", 'name = "echo"\nclass = "thing:Thing"\n')

    with pytest.raises(LoadError, match="two detectors are called “echo”") as raised:
        finder.find([tmp_path])

    assert str(folder) in str(raised.value)
    assert str(finder.find()["echo"].folder) in str(raised.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("name = ", "cannot be read"),
        ('class = "a:B"', "“name” is needed"),
        ('name = "Big Name"\nclass = "a:B"', "“name” is needed and has to match"),
        ('name = "a"', "either “class” or “preset_of”"),
        ('name = "a"\nclass = "a:B"\npreset_of = "echo"', "either “class” or “preset_of”"),
        ('name = "a"\nclass = "a.B"', "module:Class"),
        ('name = "a"\nclass = "..up:B"', "module:Class"),
        ('name = "a"\nclass = "a:B"\nextras = "torch"', "did you mean “extra”"),
        ('name = "a"\nclass = "a:B"\nsettings = "x"', "“settings” has to be a table"),
        ('name = "a"\nclass = 3', "“class” has to be a string"),
        ('name = "a"\npreset_of = "ecko"', "did you mean “echo”"),
        ('name = "a"\npreset_of = "nsfw"', "is a preset itself; name “transformers”"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_place_and_what_is_wrong(
    tmp_path: Path, toml: str, said: str
) -> None:
    folder = write(tmp_path / "x", toml)

    with pytest.raises(LoadError) as raised:
        finder.find([tmp_path])

    assert said in str(raised.value)
    assert str(folder) in str(raised.value)


def test_a_missing_or_empty_detectors_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="does not exist"):
        finder.find([tmp_path / "nowhere"])
    with pytest.raises(LoadError, match=r"holds no detector\.toml"):
        finder.find([tmp_path])


@pytest.mark.parametrize(
    ("extra", "code", "command"),
    [
        (
            "",
            "import no_such_thing.deep",
            "needs no_such_thing, which is not installed: pip install no_such_thing",
        ),
        ('extra = "torch"', "import no_such_thing", "pip install 'opsin[torch]'"),
        ('extra = "torch"', "def Thing(context):\n    import no_such_thing", "pip install 'opsin[torch]'"),
    ],
)
def test_a_missing_dependency_is_one_sentence_with_the_pip_command(
    tmp_path: Path, extra: str, code: str, command: str
) -> None:
    write(tmp_path / "mine", f'name = "mine"\nclass = "thing:Thing"\n{extra}\n', code)

    with pytest.raises(LoadError) as raised:
        finder.load(finder.find([tmp_path])["mine"], LoadContext("m"))

    assert str(raised.value).endswith(command)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("nothere:Thing", WORKING, "has no module “nothere”"),
        ("thing:Nothing", WORKING, "thing.py has no “Nothing”"),
        ("thing:Thing", "def broken(:", "cannot be imported: SyntaxError"),
        ("thing:Thing", "1 / 0", "cannot be imported: ZeroDivisionError"),
        ("thing:Thing", "from .names import NOTHING", "cannot be imported: cannot import name 'NOTHING'"),
    ],
)
def test_code_that_cannot_be_imported_says_which_and_why(
    tmp_path: Path, target: str, code: str, said: str
) -> None:
    write(tmp_path / "mine", f'name = "mine"\nclass = "{target}"\n', code)

    with pytest.raises(LoadError) as raised:
        finder.load(finder.find([tmp_path])["mine"], LoadContext("m"))

    assert said in str(raised.value)


def test_settings_source_and_folder_reach_the_detector_and_the_users_settings_win(tmp_path: Path) -> None:
    toml = 'name = "mine"\nclass = "thing:Thing"\nsource = "w.bin"\n[settings]\na = 1\nb = true\nc = "x"\n'
    folder = write(tmp_path / "mine", toml)
    found = finder.find([tmp_path])["mine"]

    detector = finder.load(found, LoadContext("m", settings={"c": "y", "d": "z"}))

    context = detector.context  # type: ignore[attr-defined]
    assert context.settings == {"a": "1", "b": "true", "c": "y", "d": "z"}
    assert context.source == str(folder / "w.bin")
    assert context.folder == folder
    assert finder.load(found, LoadContext("m", source="other")).context.source == "other"  # type: ignore[attr-defined]


def test_a_preset_takes_another_detectors_class_with_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "base")
    write(tmp_path / "preset", 'name = "preset"\npreset_of = "base"\n[settings]\nk = "v"\n')

    detector = finder.load(finder.find([tmp_path])["preset"], LoadContext("p"))

    context = detector.context  # type: ignore[attr-defined]
    assert (context.folder, context.settings) == (tmp_path / "preset", {"k": "v"})


def test_installed_detectors_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("installed", "opsin_detectors.echo.detector:Echo", finder.ENTRY_POINT_GROUP)
    monkeypatch.setattr(finder, "entry_points", lambda group: [entry, entry])

    found = finder.find()["installed"]

    assert found.folder is None
    assert finder.load(found, LoadContext("e")).info.classes == ("echo",)


def test_an_entry_point_cannot_take_a_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("nanodet", "other.package:NanoDet", finder.ENTRY_POINT_GROUP)
    monkeypatch.setattr(finder, "entry_points", lambda group: [entry])

    with pytest.raises(LoadError, match=r"two detectors .* entry point nanodet = other.package:NanoDet"):
        finder.find()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(LoadError, match="no detector “nanodett”; did you mean “nanodet”"):
        finder.pick("nanodett", finder.find())
    with pytest.raises(LoadError, match="there are “echo”"):
        finder.pick("zzzzzzzz", finder.find())
