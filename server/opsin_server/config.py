"""Every setting of the server: what it is, how to choose it, and where its value came from.

One frozen model per concern, built once by `load` and passed down. Flags win over `OPSIN_*` environment
variables, these over the TOML file, and the common names HOST, PORT and MODEL_NAME fill in what nobody set.
This is the only module that reads the environment, and it knows nothing of what the settings are used for.

In the file a section is a table, and models are an array of tables:

    [server]
    port = 50051

    [[model]]
    name = "nsfw"

In the environment the same setting is OPSIN_SERVER__PORT; models are OPSIN_MODEL, written as for `--model`,
separated by semicolons.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

__all__ = [
    "DEFAULT_FILE",
    "ConfigError",
    "DetectorSettings",
    "DrainSettings",
    "LimitSettings",
    "LogSettings",
    "MetricsSettings",
    "ModelSettings",
    "SchedulerSettings",
    "ServerSettings",
    "Settings",
    "StreamSettings",
    "load",
    "model_spec",
]

DEFAULT_FILE = Path("opsin.toml")
"""Read when it lies in the working directory and no other file is named."""

PREFIX = "OPSIN_"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
DEVICE_PATTERN = r"^(auto|cpu|cuda(:\d+)?)$"
MODEL_DEVICE_PATTERN = r"^(|auto|cpu|cuda(:\d+)?)$"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class ConfigError(Exception):
    """The settings cannot be used. `faults`: one readable sentence for each thing that is wrong."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Python takes `port = true` for 1; a person who writes it means something else."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            msg = f"{str(value).lower()} is not a value for it"
            raise ValueError(msg)
        return value


class ServerSettings(_Section):
    """Where the server listens, and how its connections behave."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. Loopback for yourself; 0.0.0.0 or :: in a container, or to serve others."""
    port: Port = 50051
    """Port to listen on. 0 takes any free one and prints it, which suits tests."""
    lookahead_bytes: Annotated[ByteSize, Field(ge=16384, le=64 << 20)] = ByteSize(128 << 10)
    """How much a client may send ahead of what is read, for each stream. One or two frames of video: less
    stalls a long line, more lets a stalled server collect stale frames."""
    max_pending_calls: Count = 10_000
    """Calls that may wait to be taken up. gRPC cancels calls beyond it without a word to retry by, so leave
    it far above the callers you expect."""


class MetricsSettings(_Section):
    """The Prometheus endpoint."""

    port: Port | None = None
    """Port of /metrics. Unset, the default: no endpoint. 0 takes any free one."""
    host: str = ""
    """Address of /metrics. Empty, the default: the server's own. Choose a private one when the server is
    public: metrics need no credentials."""


class LimitSettings(_Section):
    """How much the server takes; clients see these through GetServerInfo."""

    max_message_bytes: Annotated[ByteSize, Field(ge=4 << 20, le=1 << 30)] = ByteSize(32 << 20)
    """Largest message, both ways. Above the largest picture or batch you send; clients must match it."""
    max_pixels: Count = 50_000_000
    """Most pixels a picture may have. Above your largest camera; each costs three bytes while it waits."""
    max_side: Annotated[int, Field(ge=1, le=65535)] = 16_384
    """Longest side of a picture, in pixels."""
    max_batch_items: Count = 256
    """Most items in one batch call."""
    max_streams: Count = 256
    """Most live streams. What the device keeps fresh: the frames a second it runs, over those of a stream."""
    max_queued_tickets: Count = 1024
    """Most inputs that wait for a device. A second or two of work: longer queues only make answers later."""
    max_decoded_bytes: Annotated[ByteSize, Field(ge=1 << 20)] = ByteSize(1 << 30)
    """Most decoded pixels held at once, in bytes. A quarter of the memory you give the server is a start."""
    max_regions: Count = 64
    """Most regions in one request. Each costs as much as a picture of its own."""
    max_labels: Count = 1000
    """Most entries in `labels` and in `candidate_labels`."""
    max_text_characters: Count = 100_000
    """Longest text, in characters."""


class SchedulerSettings(_Section):
    """How the device is used."""

    lanes: Annotated[int, Field(ge=0, le=256)] = 0
    """Batches that run side by side on a device. 0, the default: one on a GPU, by the cores on a CPU."""
    lane_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Torch threads of a lane. 0, the default: the cores shared out over the lanes."""
    cpu_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads that decode, prepare and finish. 0, the default: one for each core."""
    trace: Path | None = None
    """File to record every input's arrival in, for `opsin simulate --trace`. Unset, the default: none. For an
    hour that shall be looked at, not for ever: it grows by about 100 bytes an input."""
    max_backlog: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """Seconds of work that may wait for the device, over all models. Above the longest deadline your callers
    set: what waits longer than that is answered too late for everyone."""
    stall_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """Seconds without progress after which a lane counts as stalled and health says so. Well above the
    slowest batch of the slowest model, first runs included."""


class StreamSettings(_Section):
    """How video streams are served."""

    max_in_flight: Annotated[int, Field(ge=2, le=1024)] = 8
    """Frames of one stream that may be unanswered. More fills batches better when there are few streams; each
    one adds a frame's time to the delay of a client that fills the window."""
    max_duration: Seconds = 0.0
    """Seconds after which a stream is sent away to begin again, here or elsewhere, give or take a tenth. 0,
    the default: never. An hour or less lets load spread to servers that were added."""
    secret: SecretStr = SecretStr("")
    """Signs the tokens by which a stream goes on elsewhere. Give all servers behind one address the same, of
    32 characters or more. Unset, the default: a random one, so that a token is good on this process only."""


class DetectorSettings(_Section):
    """Which detectors there are, and what they run on."""

    dirs: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders to look for detectors in, beside the built-in ones. In the environment separated as PATH is."""
    device: Annotated[str, Field(pattern=DEVICE_PATTERN)] = "auto"
    """What models run on unless they say otherwise: auto (a GPU when there is one), cpu, cuda, cuda:1."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. auto takes the fastest that keeps the answers; float32 to compare last digits."""

    @field_validator("dirs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


class LogSettings(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """info for starts, stops and failed calls; debug adds a line for each call."""
    format: Literal["console", "json"] = "console"
    """console for people, json for a log collector: one object a line."""


class DrainSettings(_Section):
    """How the server leaves."""

    delay: Seconds = 5.0
    """Seconds between NOT_SERVING and refusing new calls. Longer than your proxy takes to notice."""
    grace: Seconds = 20.0
    """Seconds that accepted work may then take. Together with the delay below the platform's kill timeout
    (Kubernetes: terminationGracePeriodSeconds, 30)."""


class ModelSettings(_Section):
    """One model to load."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """What clients call it."""
    source: str = ""
    """A detector's name, a folder, a file or a hub id. Empty, the default: the detector of the same name."""
    version: Annotated[int, Field(ge=1)] = 1
    """Its version. Give the same name several times to run versions side by side."""
    detector: str = ""
    """The detector to run it with. Empty, the default: chosen by the source."""
    device: Annotated[str, Field(pattern=MODEL_DEVICE_PATTERN)] = ""
    """What it runs on. Empty, the default: as all models do."""
    dtype: Literal["", "auto", "float32", "bfloat16", "float16"] = ""
    """Type of its weights. Empty, the default: as for all models."""
    max_batch: Annotated[int, Field(ge=0, le=4096)] = 0
    """Largest batch. 0, the default: what the detector allows. Less when memory is short."""
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Its share of the device when models compete, against the others' shares."""
    labels: tuple[str, ...] = ()
    """Labels that lead to this version: `name@canary`."""
    settings: dict[str, str] = Field(default_factory=dict)
    """The detector's own settings; `--model` puts every key here that is not one of the above."""

    @field_validator("settings", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        """TOML writes numbers and truth values bare; detectors read text."""
        if not isinstance(value, Mapping):
            return value
        return {key: str(v).lower() if isinstance(v, bool) else str(v) for key, v in value.items()}

    @field_validator("labels")
    @classmethod
    def _not_digits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for label in value:
            if not re.match(NAME_PATTERN, label) or label.isdigit():
                msg = (
                    f"a label is lower-case letters, digits, dots and dashes, never all digits; not {label!r}"
                )
                raise ValueError(msg)
        return value


class Settings(BaseSettings):
    """All settings. Build it with `load`, which merges the sources and remembers what came from where."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    server: ServerSettings = ServerSettings()
    metrics: MetricsSettings = MetricsSettings()
    limits: LimitSettings = LimitSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    streams: StreamSettings = StreamSettings()
    detectors: DetectorSettings = DetectorSettings()
    log: LogSettings = LogSettings()
    drain: DrainSettings = DrainSettings()
    model: Annotated[tuple[ModelSettings, ...], NoDecode] = ()
    """The models to load. Empty: the built-in ones."""

    @field_validator("model", mode="before")
    @classmethod
    def _specs(cls, value: object) -> object:
        """Models may be written as `--model` takes them, also several in one string."""
        if isinstance(value, str):
            value = [part.strip() for part in value.split(";") if part.strip()]
        if not isinstance(value, Sequence):
            return value
        return [model_spec(item) if isinstance(item, str) else item for item in value]

    @model_validator(mode="after")
    def _versions_differ(self) -> "Settings":
        seen = set()
        for model in self.model:
            if (model.name, model.version) in seen:
                msg = f"model {model.name} has version {model.version} twice; give each its own version"
                raise ValueError(msg)
            seen.add((model.name, model.version))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` merged; a Settings() in a test never picks up the machine's environment."""
        return (init_settings,)


def model_spec(spec: str) -> dict[str, Any]:
    """`NAME[=SOURCE][,key=value...]` as the table of a model. Raises ValueError with what would be right."""
    head, *pairs = spec.split(",")
    name, _, source = head.partition("=")
    table: dict[str, Any] = {"name": name.strip(), "source": source.strip()}
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key or not equals:
            msg = f"{pair!r} in {spec!r} is not key=value; a model is written NAME[=SOURCE][,key=value...]"
            raise ValueError(msg)
        if key == "labels":
            table[key] = value.split("+")
        elif key in ModelSettings.model_fields and key not in ("name", "source", "settings"):
            table[key] = value
        else:
            settings[key] = value
    return table | {"settings": settings}


# --- putting the sources together -----------------------------------------------------------------------

Path_ = tuple[str, ...]

_FALLBACKS: Mapping[str, Path_] = {
    "HOST": ("server", "host"),
    "PORT": ("server", "port"),
    "MODEL_NAME": ("model",),
}

# Kubernetes puts the addresses of services into the environment. One called `opsin` gives OPSIN_PORT=tcp://...
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")


@dataclass(frozen=True, slots=True)
class _Layer:
    """One source of settings: its values, and how it calls a setting."""

    values: Mapping[str, Any]
    origin: Mapping[Path_, str] | str

    def name(self, path: Path_) -> str:
        if isinstance(self.origin, str):
            # All models are in one variable.
            shown = path[:1] if path[0] == "model" else path
            return self.origin.format(env=PREFIX + "__".join(shown).upper())
        return next(
            (self.origin[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.origin), "a flag"
        )


def load(
    flags: Mapping[Path_, Any] | None = None,
    config: Path | None = None,
    flag_names: Mapping[Path_, str] | None = None,
) -> Settings:
    """Read, merge and check all sources.

    flags: values given on the command line, by path: `("server", "port")`.
    config: the TOML file; None: `opsin.toml` in the working directory, when it is there.
    flag_names: how each flag is written, for the messages.
    Raises `ConfigError` with one sentence for each fault.
    """
    layers = (
        _Layer(_nested((flags or {}).items()), flag_names or {}),
        _environment(),
        _file(config),
        _fallbacks(),
    )
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = _merge(merged, layer.values)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError([_sentence(fault, layers) for fault in error.errors()]) from None


def _environment() -> _Layer:
    _refuse_strangers()
    try:
        values = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise ConfigError([f"The environment ({PREFIX}*) cannot be read: {error}."]) from None
    return _Layer(values, "{env}")


def _refuse_strangers() -> None:
    """A variable that looks like a setting and is none is a typing error that nobody would notice."""
    names = [PREFIX + "__".join(path).upper() for path in _known(Settings)]
    faults = []
    for name in sorted(os.environ):
        if not name.startswith(PREFIX) or name.partition("__")[0] in names:
            continue  # in a known section: what is wrong inside is told with all the rest
        meant = [known for known in names if _flattened(name, known)]
        if not meant and "__" not in name:
            continue  # the client's, or the address of a service
        meant = meant or difflib.get_close_matches(name, names, n=1)
        advice = f"; did you mean {meant[0]}?" if meant else "."
        faults.append(f"{name} (from the environment) is not a setting{advice}")
    if faults:
        raise ConfigError(faults)


def _flattened(name: str, known: str) -> bool:
    """Whether `name` is a setting written without its section, or with one underscore for two."""
    if not os.environ[name].isdigit() and _SERVICE_LINK.search(name):
        return False
    return name in (known.replace("__", "_"), PREFIX + known.rpartition("__")[2])


def _file(config: Path | None) -> _Layer:
    if config is None and not DEFAULT_FILE.is_file():
        return _Layer({}, "")
    path = config or DEFAULT_FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror or error}."]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is not valid TOML: {error}."]) from None
    return _Layer(values, str(path).replace("{", "{{").replace("}", "}}"))


def _fallbacks() -> _Layer:
    found = {path: os.environ[name] for name, path in _FALLBACKS.items() if os.environ.get(name)}
    return _Layer(_nested(found.items()), {path: name for name, path in _FALLBACKS.items()})


def _nested(pairs: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in pairs:
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return tree


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; anything else, lists too, is replaced."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(known, value) if both else value  # type: ignore[arg-type]
    return merged


# --- telling what is wrong ------------------------------------------------------------------------------


_SHOULD = re.compile(r"^(Input|String|Value|List|Tuple|Dictionary) should")
_PATTERNS = {
    NAME_PATTERN: "it should be lower-case letters, digits, “.”, “_” and “-”, beginning with a letter or a "
    "digit, 64 characters at most",
    DEVICE_PATTERN: "it should be auto, cpu, cuda, or cuda:1 for the second GPU",
    MODEL_DEVICE_PATTERN: "it should be auto, cpu, cuda, or cuda:1 for the second GPU",
}
_KINDS = {
    "int": "it should be a whole number",
    "float": "it should be a number",
    "byte": "it should be a number of bytes, such as 1048576 or 1MiB",
    "string": "it should be a text",
    "bool": "it should be true or false",
    "finite": "it should be a finite number",
    "list": "it should be a list",
    "tuple": "it should be a list",
    "dict": "it should be a table",
    "model": "it should be a table",
    "mapping": "it should be a table",
}
"""By the first word of pydantic's type of fault, which tells what a value is no case of."""


_BOUNDS = {
    "greater_than_equal": "it should be {ge} or more",
    "less_than_equal": "it should be {le} or less",
    "greater_than": "it should be more than {gt:g}",
    "string_too_short": "it should not be empty",
    "literal_error": "it should be {expected}",
}
"""By pydantic's type of fault, with what it tells beside it."""


def _right(fault: ErrorDetails) -> str:
    """What would be right, in words that need no Python."""
    kind, more = fault["type"], fault.get("ctx", {})
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**more).replace("'", "")
    if more.get("pattern") in _PATTERNS:
        return _PATTERNS[more["pattern"]]
    return _KINDS.get(kind.partition("_")[0], _SHOULD.sub("it should", fault["msg"]))


def _sentence(fault: ErrorDetails, layers: Sequence[_Layer]) -> str:
    path = tuple(str(part) for part in fault["loc"])
    where = _place(fault["loc"], layers)
    origin = next((layer.name(path) for layer in layers if _holds(layer.values, fault["loc"])), "")
    came = f" (from {origin})" if origin else ""
    match fault["type"]:
        case "extra_forbidden":
            return f"{where}{came} is not a setting{_nearest(path)}"
        case "missing":
            return f"{where}{came} is missing; every model needs it."
        case "value_error":
            return f"{where or 'The models'}{came}: {fault['msg'].removeprefix('Value error, ')}."
        case _:
            shown = "given" if path[-1] == "secret" else repr(fault["input"])[:100]
            return f"{where} is {shown}{came}; {_right(fault)}."


def _holds(values: Any, loc: Sequence[int | str]) -> bool:
    """Whether a source set this very value, or the list that it is in."""
    for part in loc:
        if not isinstance(values, Mapping):
            return True
        if part not in values:
            return False
        values = values[part]
    return bool(loc)


def _place(loc: Sequence[int | str], layers: Sequence[_Layer]) -> str:
    """Where a fault is: `server.port`; in a model, `model NAME: max_batch`, by its number without a name."""
    if loc[:1] != ("model",) or len(loc) < 3:
        return _dotted(loc)
    models = next(layer.values["model"] for layer in layers if _holds(layer.values, loc))
    name = _name_of(models, int(loc[1]))
    return f"model {name}: {_dotted(loc[2:])}" if name and loc[2] != "name" else _dotted(loc)


def _name_of(models: Any, index: int) -> str:
    """The name of a model as it was written; empty where it has none."""
    specs = [part for part in models.split(";") if part.strip()] if isinstance(models, str) else models
    match specs[index]:
        case str(spec):
            return str(model_spec(spec)["name"])
        case {"name": str(name)}:
            return name
        case _:
            return ""


def _dotted(loc: Sequence[int | str]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")


def _nearest(path: Path_) -> str:
    known = [".".join(p) for p in _known(Settings)]
    if path[0] == "model" and len(path) > 1:
        known, path = list(ModelSettings.model_fields), path[-1:]
    inside = [name for name in known if len(path) == 1 and name.endswith(f".{path[0]}")]
    near = inside or difflib.get_close_matches(".".join(path), known, n=1)
    return f"; did you mean {near[0]}{_table(near[0]) if inside else ''}?" if near else "."


def _table(name: str) -> str:
    """How a setting that was written outside its table is written in it."""
    section, _, key = name.partition(".")
    return f", which is {key} in the table [{section}]"


def _known(kind: type[BaseModel]) -> Iterator[Path_]:
    for name, field in kind.model_fields.items():
        yield (name,)
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from ((name, *rest) for rest in _known(section))
