"""Telling what is wrong with settings: one sentence a fault, with the place it came from and what is right.

Works on what pydantic found and on the sources as they were read; reads nothing itself.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from opsin_server.config.sections import DEVICE_PATTERN, MODEL_DEVICE_PATTERN, NAME_PATTERN, ModelSettings
from opsin_server.config.settings import PREFIX, Settings
from opsin_server.config.spec import model_spec

__all__ = ["ConfigError", "Layer", "SettingPath", "known_paths", "sentence"]

SettingPath = tuple[str, ...]


class ConfigError(Exception):
    """The settings cannot be used. `faults`: one readable sentence for each thing that is wrong."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: its values, and how it calls a setting."""

    values: Mapping[str, Any]
    origin: Mapping[SettingPath, str] | str

    def name(self, path: SettingPath) -> str:
        if isinstance(self.origin, str):
            # All models are in one variable.
            shown = path[:1] if path[0] == "model" else path
            return self.origin.format(env=PREFIX + "__".join(shown).upper())
        return next(
            (self.origin[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.origin), "a flag"
        )


_SHOULD = re.compile(r"^(Input|String|Value|List|Tuple|Dictionary) should")
_PATTERNS = {
    NAME_PATTERN: "it should be lower-case letters, digits, “.”, “_” and “-”, beginning with a letter or a "
    "digit, 64 characters at most",
    DEVICE_PATTERN: "it should be auto, cpu, cuda, or cuda:1 for the second GPU; cuda:0+cuda:1 for both, or "
    "cuda:* for all",
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
        # Nobody writes down what is empty: it is the default.
        return _BOUNDS[kind].format(**more).replace("'', ", "").replace("'", "")
    if more.get("pattern") in _PATTERNS:
        return _PATTERNS[more["pattern"]]
    return _KINDS.get(kind.partition("_")[0], _SHOULD.sub("it should", fault["msg"]))


def sentence(fault: ErrorDetails, layers: Sequence[Layer]) -> str:
    path = tuple(str(part) for part in fault["loc"])
    where = _place(fault["loc"], layers)
    source = _source(fault, layers)
    origin = source.name(path) if source else ""
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


def _source(fault: ErrorDetails, layers: Sequence[Layer]) -> Layer | None:
    """The source that the faulty value is from: a lower one's is used where it ought to be a table."""
    holding = [layer for layer in layers if _holds(layer.values, fault["loc"])]
    for layer in holding:
        if _value(layer.values, fault["loc"]) is fault["input"]:
            return layer
    return holding[0] if holding else None


def _value(values: Any, loc: Sequence[int | str]) -> Any:
    """What a source has in a place; what stands there instead where it is in no table."""
    for part in loc:
        if not isinstance(values, Mapping):
            break
        values = values[part]
    return values


def _holds(values: Any, loc: Sequence[int | str]) -> bool:
    """Whether a source set this very value, or the list that it is in."""
    for part in loc:
        if not isinstance(values, Mapping):
            return True
        if part not in values:
            return False
        values = values[part]
    return bool(loc)


def _place(loc: Sequence[int | str], layers: Sequence[Layer]) -> str:
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


def _nearest(path: SettingPath) -> str:
    known = [".".join(p) for p in known_paths(Settings)]
    if path[0] == "model" and len(path) > 1:
        known, path = list(ModelSettings.model_fields), path[-1:]
    inside = [name for name in known if len(path) == 1 and name.endswith(f".{path[0]}")]
    near = inside or difflib.get_close_matches(".".join(path), known, n=1)
    return f"; did you mean {near[0]}{_table(near[0]) if inside else ''}?" if near else "."


def _table(name: str) -> str:
    """How a setting that was written outside its table is written in it."""
    section, _, key = name.partition(".")
    return f", which is {key} in the table [{section}]"


def known_paths(kind: type[BaseModel]) -> Iterator[SettingPath]:
    for name, field in kind.model_fields.items():
        yield (name,)
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from ((name, *rest) for rest in known_paths(section))
