"""Where settings come from: flags, the environment, a TOML file, common names; merged in this order.

This is the only module that reads the environment. What is wrong is told by `faults.py`.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from opsin_server.config.faults import ConfigError, Layer, SettingPath, known_paths, sentence
from opsin_server.config.settings import PREFIX, Settings

__all__ = ["DEFAULT_FILE", "load"]

DEFAULT_FILE = Path("opsin.toml")
"""Read when it lies in the working directory and no other file is named."""

_FALLBACKS: Mapping[str, SettingPath] = {
    "HOST": ("server", "host"),
    "PORT": ("server", "port"),
    "MODEL_NAME": ("model",),
}

# Kubernetes puts the addresses of services into the environment. One called `opsin` gives OPSIN_PORT=tcp://...
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")


def load(
    flags: Mapping[SettingPath, Any] | None = None,
    config: Path | None = None,
    flag_names: Mapping[SettingPath, str] | None = None,
) -> Settings:
    """Read, merge and check all sources.

    flags: values given on the command line, by path: `("server", "port")`.
    config: the TOML file; None: `opsin.toml` in the working directory, when it is there.
    flag_names: how each flag is written, for the messages.
    Raises `ConfigError` with one sentence for each fault.
    """
    layers = (
        Layer(_nested((flags or {}).items()), flag_names or {}),
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
        raise ConfigError([sentence(fault, layers) for fault in error.errors()]) from None


def _environment() -> Layer:
    _refuse_strangers()
    try:
        values = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise ConfigError([f"The environment ({PREFIX}*) cannot be read: {error}."]) from None
    return Layer(values, "{env}")


def _refuse_strangers() -> None:
    """A variable that looks like a setting and is none is a typing error that nobody would notice."""
    names = [PREFIX + "__".join(path).upper() for path in known_paths(Settings)]
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


def _file(config: Path | None) -> Layer:
    if config is None and not DEFAULT_FILE.is_file():
        return Layer({}, "")
    path = config or DEFAULT_FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror or error}."]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is not valid TOML: {error}."]) from None
    return Layer(values, str(path).replace("{", "{{").replace("}", "}}"))


def _fallbacks() -> Layer:
    found = {path: os.environ[name] for name, path in _FALLBACKS.items() if os.environ.get(name)}
    return Layer(_nested(found.items()), {path: name for name, path in _FALLBACKS.items()})


def _nested(pairs: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in pairs:
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return tree


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; anything else, lists too, is replaced.

    Where one source has a table and another has not, what is no table stays: it is a fault, to be told.
    """
    merged = dict(below)
    for key, value in above.items():
        lower = merged.get(key)
        if not isinstance(value, Mapping) or lower is None:
            merged[key] = value
        elif isinstance(lower, Mapping):
            merged[key] = _merge(lower, value)
    return merged
