"""Settings: which source wins, what is refused, and how it is told."""

import ast
import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import opsin_server
from opsin_server import config
from opsin_server.config import ConfigError, LimitSettings, ModelSettings, Settings, load, model_spec

PORT = ("server", "port")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine, and no file in the working directory."""
    import os

    for name in list(os.environ):
        if name.startswith("OPSIN_") or name in ("HOST", "PORT", "MODEL_NAME"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "opsin.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def faults(**arguments: object) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(**arguments)
    return caught.value.faults


def test_the_defaults_are_the_contracts() -> None:
    settings = load()
    assert settings.limits == LimitSettings(
        max_message_bytes=32 << 20,
        max_pixels=50_000_000,
        max_side=16_384,
        max_batch_items=256,
        max_streams=256,
        max_queued_tickets=1024,
        max_decoded_bytes=1 << 30,
        max_regions=64,
        max_labels=1000,
        max_text_characters=100_000,
    )
    assert (settings.drain.delay, settings.drain.grace) == (5.0, 20.0)
    assert settings.server.host == "127.0.0.1"
    assert settings.metrics.port is None
    assert settings.model == ()


def test_flags_win_over_the_environment_over_the_file_over_common_names(monkeypatch) -> None:
    monkeypatch.setenv("PORT", "1")
    assert load().server.port == 1
    write("[server]\nport = 2\n")
    assert load().server.port == 2
    monkeypatch.setenv("OPSIN_SERVER__PORT", "3")
    assert load().server.port == 3
    assert load({PORT: 4}).server.port == 4


def test_sources_are_merged_setting_by_setting(monkeypatch) -> None:
    write('[server]\nport = 2\nhost = "::1"\n[log]\nlevel = "debug"\n')
    monkeypatch.setenv("OPSIN_LOG__FORMAT", "json")
    settings = load({PORT: 4})
    assert (settings.server.host, settings.server.port) == ("::1", 4)
    assert (settings.log.level, settings.log.format) == ("debug", "json")


def test_the_common_names_are_understood(monkeypatch) -> None:
    for name, value in (("HOST", "0.0.0.0"), ("PORT", "8080"), ("MODEL_NAME", "nsfw")):
        monkeypatch.setenv(name, value)
    settings = load()
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 8080)
    assert [model.name for model in settings.model] == ["nsfw"]


def test_an_empty_variable_is_no_setting(monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_SERVER__PORT", "")
    monkeypatch.setenv("PORT", "")
    assert load().server.port == 50051


def test_sizes_may_be_written_with_units() -> None:
    write('[limits]\nmax_message_bytes = "64MiB"\n')
    assert load().limits.max_message_bytes == 64 << 20


def test_folders_in_the_environment_are_separated_as_path_is(monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_DETECTORS__DIRS", "/a:/b")
    assert load().detectors.dirs == (Path("/a"), Path("/b"))


def test_models_come_from_tables_flags_and_the_environment(monkeypatch) -> None:
    write(
        '[[model]]\nname = "a"\nsource = "x/y"\nshare = 2\n[model.settings]\nthreshold = 0.5\nfast = true\n'
    )
    (model,) = load().model
    assert (model.name, model.source, model.share) == ("a", "x/y", 2.0)
    assert model.settings == {"threshold": "0.5", "fast": "true"}
    monkeypatch.setenv("OPSIN_MODEL", "b; slow=echo,delay_ms=50")
    assert [model.name for model in load().model] == ["b", "slow"]
    assert [model.name for model in load({("model",): ["c"]}).model] == ["c"]


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ("nsfw", ModelSettings(name="nsfw")),
        ("slow=echo,delay_ms=50", ModelSettings(name="slow", source="echo", settings={"delay_ms": "50"})),
        (
            "m=/a=b/c,version=2,max_batch=8,share=0.5,dtype=float32,labels=canary+beta,k=v=w",
            ModelSettings(
                name="m",
                source="/a=b/c",
                version=2,
                max_batch=8,
                share=0.5,
                dtype="float32",
                labels=("canary", "beta"),
                settings={"k": "v=w"},
            ),
        ),
        (
            "m=org/name,detector=transformers",
            ModelSettings(name="m", source="org/name", detector="transformers"),
        ),
    ],
)
def test_a_model_can_be_written_in_one_line(spec: str, model: ModelSettings) -> None:
    assert ModelSettings(**model_spec(spec)) == model


@given(st.text(max_size=40))
def test_any_text_for_a_model_is_taken_or_refused_in_words(spec: str) -> None:
    try:
        model = Settings(model=[spec])
    except ValidationError:
        return
    assert len(model.model) == 1


@pytest.mark.parametrize(
    ("setup", "sentence"),
    [
        (
            {"flags": {PORT: 70000}},
            "server.port is 70000 (from --port); it should be 65535 or less.",
        ),
        (
            {"flags": {PORT: "http"}},
            "server.port is 'http' (from --port); it should be a whole number.",
        ),
        (
            {"env": {"OPSIN_SERVER__PORT": "-1"}},
            "server.port is '-1' (from OPSIN_SERVER__PORT); it should be 0 or more.",
        ),
        ({"env": {"PORT": "tcp"}}, "server.port is 'tcp' (from PORT); it should be a whole number."),
        (
            {"file": "[server]\nport = true"},
            "server.port (from opsin.toml): true is not a value for it.",
        ),
        (
            {"file": "[server]\nprt = 1"},
            "server.prt (from opsin.toml) is not a setting; did you mean server.port?",
        ),
        ({"file": "[servr]\nport = 1"}, "servr (from opsin.toml) is not a setting; did you mean server?"),
        (
            {"env": {"OPSIN_SERVER__PRT": "1"}},
            "server.prt (from OPSIN_SERVER__PRT) is not a setting; did you mean server.port?",
        ),
        (
            {"env": {"OPSIN_SERVR__PORT": "1"}},
            "OPSIN_SERVR__PORT (from the environment) is not a setting; did you mean OPSIN_SERVER__PORT?",
        ),
        (
            {"env": {"OPSIN_PORT": "1"}},
            "OPSIN_PORT (from the environment) is not a setting; did you mean OPSIN_SERVER__PORT?",
        ),
        (
            {"env": {"OPSIN_LOG_LEVEL": "debug"}},
            "OPSIN_LOG_LEVEL (from the environment) is not a setting; did you mean OPSIN_LOG__LEVEL?",
        ),
        (
            {"file": "[log]\nlevel = 'loud'"},
            "log.level is 'loud' (from opsin.toml); it should be debug, info, warning or error.",
        ),
        ({"file": "[server\n"}, "opsin.toml is not valid TOML:"),
        (
            {"file": "[[model]]\nsource = 'x'"},
            "model[0].name (from opsin.toml) is missing; every model needs it.",
        ),
        (
            {"file": "[[model]]\nname = 'a'\nsorce = 'x'"},
            "model a: sorce (from opsin.toml) is not a setting; did you mean source?",
        ),
        (
            {"flags": {("model",): ["A"]}},
            "model[0].name is 'A' (from --model); it should be lower-case letters, digits",
        ),
        ({"flags": {("model",): ["a,b"]}}, "model (from --model): “b” in model “a” has to be key=value;"),
        (
            {"flags": {("model",): ["a", "a"]}},
            "The models: model a has version 1 twice; give each its own version.",
        ),
        (
            {"flags": {("model",): ["a,labels=canary", "a,version=2,labels=canary"]}},
            "The models: a@canary leads to versions 1 and 2; it can lead to one.",
        ),
        (
            {"flags": {("model",): ["a,dtype=float33"]}},
            "model a: dtype is 'float33' (from --model); it should be auto, float32, bfloat16, float16",
        ),
        (
            {"file": "[[model]]\nname = 'a'\nruntime = 'torch'"},
            "model a: runtime is 'torch' (from opsin.toml); it should be auto, eager, channels_last,",
        ),
        ({"flags": {("model",): ["a,labels=12"]}}, "model a: labels (from --model): a label is lower-case"),
        (
            {"file": "port = 1"},
            "port (from opsin.toml) is not a setting; did you mean server.port, which is port in the",
        ),
        (
            {"flags": {("model",): ["a", "b,max_batch=lots"]}},
            "model b: max_batch is 'lots' (from --model); it should be a whole number.",
        ),
        (
            {"env": {"OPSIN_MODEL": "a;b,share=0"}},
            "model b: share is '0' (from OPSIN_MODEL); it should be more than 0.",
        ),
        (
            {"file": "[detectors]\ndevice = 'gpu'"},
            "detectors.device is 'gpu' (from opsin.toml); it should be auto, cpu, cuda, or cuda:1 for the",
        ),
        (
            {"file": "[limits]\nmax_message_bytes = 'big'"},
            "limits.max_message_bytes is 'big' (from opsin.toml); it should be a number of bytes, such as",
        ),
        ({"file": "[server]\nhost = ''"}, "server.host is '' (from opsin.toml); it should not be empty."),
        ({"file": "server = 3"}, "server is 3 (from opsin.toml); it should be a table."),
        (
            {"file": "server = 3", "flags": {PORT: 1}},
            "server is 3 (from opsin.toml); it should be a table.",
        ),
        (
            {"env": {"OPSIN_SERVER": "3"}, "flags": {PORT: 1}},
            "server is 3 (from OPSIN_SERVER); it should be a table.",
        ),
        ({"file": "[drain]\ngrace = nan"}, "drain.grace is nan (from opsin.toml); it should be"),
    ],
)
def test_a_wrong_setting_is_told_with_its_name_its_origin_and_what_would_be_right(
    monkeypatch, setup: dict[str, object], sentence: str
) -> None:
    for name, value in setup.get("env", {}).items():
        monkeypatch.setenv(name, value)
    if "file" in setup:
        write(setup["file"])
    names = {PORT: "--port", ("model",): "--model"}
    (told,) = faults(flags=setup.get("flags"), flag_names=names)
    assert told.startswith(sentence)
    assert told.endswith((".", "?"))
    assert "\n" not in told


def test_every_fault_is_told_at_once(monkeypatch) -> None:
    write("[server]\nport = 70000\n[log]\nlevel = 'loud'\n")
    assert len(faults()) == 2


def test_a_named_file_that_is_not_there_is_a_fault() -> None:
    assert faults(config=Path("none.toml")) == ("none.toml cannot be read: No such file or directory.",)


def test_the_addresses_that_kubernetes_puts_into_the_environment_are_no_settings(monkeypatch) -> None:
    links = {
        "OPSIN_PORT": "tcp://10.0.0.1:50051",
        "OPSIN_PORT_50051_TCP": "tcp://10.0.0.1:50051",
        "OPSIN_PORT_50051_TCP_ADDR": "10.0.0.1",
        "OPSIN_PORT_50051_TCP_PORT": "50051",
        "OPSIN_SERVICE_HOST": "10.0.0.1",
        "OPSIN_SERVICE_PORT": "50051",
        "OPSIN_SERVICE_PORT_GRPC": "50051",
    }
    for name, value in links.items():
        monkeypatch.setenv(name, value)
    assert load() == Settings()


def test_variables_of_the_client_are_left_alone(monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_TARGET", "localhost:1")
    monkeypatch.setenv("OPSIN_TOKEN", "t")
    assert load() == Settings()


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        load().server.port = 1  # type: ignore[misc]


def test_building_settings_by_hand_does_not_read_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("OPSIN_SERVER__PORT", "3")
    assert Settings().server.port == 50051


def sections() -> list[type[BaseModel]]:
    return [
        kind
        for _, kind in inspect.getmembers(config, inspect.isclass)
        if issubclass(kind, config.Section) and kind is not config.Section
    ]


@pytest.mark.parametrize("section", sections(), ids=lambda kind: kind.__name__)
def test_every_option_says_how_to_choose_it(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        assert field.description, name
        assert len(field.description) > 20, name


def test_only_the_configuration_reads_the_environment() -> None:
    root = Path(opsin_server.__file__).parent
    readers = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.getenv", "os.environ.get"):
                readers.add(path.relative_to(root).as_posix())
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                readers.add(path.relative_to(root).as_posix())
    assert readers <= {"config/sources.py", "config/folders.py"}
