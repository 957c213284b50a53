"""The public surface: complete, documented, quick to import, and the same for both clients."""

import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import typing
from dataclasses import fields
from pathlib import Path

import pytest

import opsin
from opsin import _errors, _options

ROOT = Path(opsin.__file__).parent
INNER = {"error_class", "known_reasons"}  # of the public modules, not for users
PUBLIC_MODULES = ("_errors", "_freshness", "_models", "_replies", "_results", "_client", "_aio", "_stream")


def test_every_name_in_all_exists_and_is_spelled_once() -> None:
    assert len(opsin.__all__) == len(set(opsin.__all__))
    assert list(opsin.__all__) == sorted(opsin.__all__)
    for name in opsin.__all__:
        assert getattr(opsin, name) is not None, name


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_everything_public_in_a_public_module_is_exported(module: str) -> None:
    names = importlib.import_module(f"opsin.{module}").__all__
    missing = (
        {name for name in names if name.isidentifier() and name[0].isupper()} - set(opsin.__all__) - INNER
    )
    assert not {name for name in missing if not name.isupper()}


def test_every_exported_class_and_method_says_what_it_is() -> None:
    for name in opsin.__all__:
        value = getattr(opsin, name)
        if not inspect.isclass(value):
            continue
        assert value.__doc__, name
        for member, function in inspect.getmembers(value, inspect.isfunction):
            if not member.startswith("_") and member in vars(value):
                assert function.__doc__, f"{name}.{member}"


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    sync, aio = (
        {
            name: list(inspect.signature(method).parameters.values())
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }
        for client in (opsin.Client, opsin.AsyncClient)
    )
    assert {name: [p.name for p in parameters] for name, parameters in sync.items()} == {
        name: [p.name for p in parameters] for name, parameters in aio.items()
    }


def test_every_option_is_a_keyword_and_every_keyword_an_option() -> None:
    options = {field.name for field in fields(opsin.DetectOptions)}
    assert typing.get_type_hints(_options.OptionKeywords).keys() == options
    detect = {field.name for field in fields(_options.DetectAsk)} - {"options"} | options
    assert typing.get_type_hints(_options.DetectKeywords).keys() == detect
    assert typing.get_type_hints(_options.EmbedKeywords).keys() == {f.name for f in fields(_options.EmbedAsk)}
    stream = {field.name for field in fields(_options.StreamAsk)} - {"options"} | options
    assert typing.get_type_hints(_options.StreamKeywords).keys() == stream


def test_an_unknown_keyword_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="min_scor"):
        _options.DetectAsk.of(min_scor=0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="freshnes"):
        _options.StreamAsk.of(freshnes="latest")


def test_the_exception_tree_in_the_docstring_is_the_real_one() -> None:
    """Reads the drawing and compares each class with the one it hangs under."""
    parents: list[tuple[int, str]] = []
    drawn = {}
    for line in (_errors.__doc__ or "").splitlines():
        if found := re.match(r"^([ │├└─]*)([A-Z]\w+)  ", line):
            depth, name = len(found[1]), found[2]
            parents = [entry for entry in parents if entry[0] < depth]
            drawn[name] = parents[-1][1] if parents else None
            parents.append((depth, name))
    real = {
        name: value.__mro__[1].__name__
        for name, value in vars(opsin).items()
        if inspect.isclass(value) and issubclass(value, opsin.OpsinError) and value is not opsin.OpsinError
    }
    assert {name: parent for name, parent in drawn.items() if parent} == real


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT.parent), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_costs_less_than_300_ms_of_a_usual_core_and_loads_nothing_heavy() -> None:
    """A core that needs 40 ms to import asyncio is a usual one; a slower one is slow with both."""
    code = """
import json, sys, time
began = time.process_time()
import {}
took = time.process_time() - began
heavy = [name for name in ("grpc", "numpy", "PIL", "av", "google.protobuf") if name in sys.modules]
print(json.dumps([took, heavy]))
"""
    runs = [json.loads(run(code.format("opsin"))) for _ in range(3)]
    usual = [json.loads(run(code.format("asyncio"))) for _ in range(3)]
    assert min(took for took, _ in runs) < 0.3 / 0.04 * min(took for took, _ in usual)
    assert runs[0][1] == []


def test_the_library_is_typed_and_every_module_says_what_it_owns() -> None:
    assert (ROOT / "py.typed").exists()
    for module in pkgutil.iter_modules([str(ROOT)]):
        if module.name.startswith("_") and module.name != "__main__":
            assert importlib.import_module(f"opsin.{module.name}").__doc__, module.name


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Cliend"):
        _ = opsin.Cliend  # type: ignore[attr-defined]
    assert "Client" in dir(opsin)
    assert re.match(r"\d", opsin.__version__)
