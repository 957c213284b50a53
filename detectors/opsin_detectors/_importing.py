"""Importing a found detector's code and calling it with a LoadContext.

Users' folders become packages under private names, without touching sys.path. Knows no particular detector.
"""

import hashlib
import importlib
import importlib.util
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

from opsin_detectors._manifest import MANIFEST, Found
from opsin_detectors.api import Detector, LoadContext, LoadError

__all__ = ["load", "private_package", "target"]

_lock = threading.Lock()


def load(found: Found, context: LoadContext) -> Detector:
    """Import the detector and load its weights.

    The folder, and the source unless the context states one, are filled in from what was found; the context's
    settings win over the folder's. Raises LoadError for a missing dependency, a wrong class name, code that
    cannot be imported, and whatever the detector itself refuses.
    """
    context = replace(
        context,
        source=context.source or found.source,
        folder=found.folder,
        settings={**found.settings, **context.settings},
    )
    make = target(found)
    try:
        return make(context)
    except ImportError as error:
        raise _import_failed(found, error) from error


def private_package(folder: Path) -> str:
    """The import name of a user's folder: unique even when two folders share their name."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return f"_opsin_detector_{re.sub(r'[^0-9a-zA-Z]', '_', folder.name)}_{digest}"


def target(found: Found) -> Callable[[LoadContext], Detector]:
    """The class that a detector names, imported and not called. Raises LoadError as `load` does."""
    module_name, _, attribute = found.target.partition(":")
    if found.package:
        module_name = f"{found.package}.{module_name}"
    try:
        if found.code is not None:
            _ensure_package(found.package, found.code)
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise _import_failed(found, error) from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise LoadError(f"detector “{found.name}” ({found.place}) cannot be imported: {why}") from error
    if not hasattr(module, attribute):
        file = getattr(module, "__file__", None) or module_name
        raise LoadError(
            f"detector “{found.name}”: {file} has no “{attribute}”, which {_said_by(found)} names"
        )
    make: Callable[[LoadContext], Detector] = getattr(module, attribute)
    return make


def _said_by(found: Found) -> str:
    return str(found.code / MANIFEST) if found.code is not None else found.place


def _ensure_package(name: str, folder: Path) -> None:
    """Make `folder` importable as the package `name`, with or without an `__init__.py`."""
    if name.startswith(f"{__package__}."):
        return  # a built-in one: an ordinary package already
    with _lock:
        if name in sys.modules:
            return
        module = importlib.util.module_from_spec(spec := _package_spec(name, folder))
        sys.modules[name] = module
        try:
            if spec.loader is not None:
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise


def _package_spec(name: str, folder: Path) -> ModuleSpec:
    init = folder / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
        assert spec is not None  # it is None only for a file that no loader knows
        return spec
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


def _import_failed(found: Found, error: ImportError) -> LoadError:
    module = error.name or ""
    if not isinstance(error, ModuleNotFoundError) or not module:
        return LoadError(f"detector “{found.name}” ({found.place}) cannot be imported: {error}")
    if found.package and module.startswith(found.package):
        inside = module.removeprefix(f"{found.package}.")
        return LoadError(f"detector “{found.name}” ({found.place}) has no module “{inside}”")
    missing = module.partition(".")[0]
    command = f"pip install 'opsin[{found.extra}]'" if found.extra else f"pip install {missing}"
    return LoadError(f"detector “{found.name}” needs {missing}, which is not installed: {command}")
