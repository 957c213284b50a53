"""Makes the Python stubs in client/opsin/v1 from protos/opsin/v1; `--check` says whether they are current.

The tools live in a virtual environment of their own, `.venv-protos`, made on first use: grpcio-tools wants an
older protobuf than the project's other packages may have. Their versions are pinned, so that the same protos
give the same bytes on every machine. Stubs of grpcio-tools 1.76.0 run with grpcio >= 1.76 and protobuf
>= 6.31.1, < 8.

The whole folder client/opsin/v1 is owned by this file: what it does not make, it removes.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("opsin/v1")
CLIENT = ROOT / "client"
TOOLS = ROOT / ".venv-protos"

PINS = """\
grpcio==1.76.0
grpcio-tools==1.76.0
mypy-protobuf==5.1.0
protobuf==6.33.6
"""

INIT_TOP = '''\
"""The wire contract in Python: every message, enum, stub and servicer of the package opsin.v1.

    from opsin.v1 import DetectRequest, Image, InferenceServiceStub

    with grpc.insecure_channel("localhost:50051") as channel:
        stub = InferenceServiceStub(channel)
        answer = stub.Detect(DetectRequest(image=Image(encoded=jpeg)))

A stub takes a channel of grpc or of grpc.aio; `...AsyncStub` is the same class with the types of grpc.aio.
Names are imported on first use, so that messages alone never load grpc.

Made by protos/generate.py. Do not edit.
"""

from importlib import import_module
from typing import TYPE_CHECKING

'''

INIT_BOTTOM = """
if not TYPE_CHECKING:  # a type checker would take any name to exist

    def __getattr__(name: str) -> object:
        try:
            home = _HOMES[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        module = import_module(f"{__name__}.{home}")
        value = getattr(module, name.replace("AsyncStub", "Stub"))
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the Python stubs of the contract.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail on a difference, and show it"
    )
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
    stored = read(CLIENT / PACKAGE)
    changed = sorted(name for name in fresh.keys() | stored.keys() if fresh.get(name) != stored.get(name))
    if check:
        return report(changed, stored, fresh)
    write(changed, fresh)
    print(f"{len(fresh)} files in {(CLIENT / PACKAGE).relative_to(ROOT)}, {len(changed)} changed")
    return 0


def generate(out: Path) -> dict[str, str]:
    """All files of the package, by name, made afresh in the folder `out`."""
    ensure_tools()
    sources = sorted((PROTOS / PACKAGE).glob("*.proto"))
    services = [source for source in sources if homes(source, "service")]
    protoc([f"--python_out={out}", f"--mypy_out=quiet:{out}"], sources)
    protoc([f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"], services)
    return {**read(out / PACKAGE), "__init__.py": init(sources)}


def ensure_tools() -> None:
    """Makes the tools' environment, unless it is there with just these pins."""
    stamp = TOOLS / "pins.txt"
    if stamp.is_file() and stamp.read_text() == PINS:
        return
    print(f"making {TOOLS.relative_to(ROOT)}", file=sys.stderr)
    venv.create(TOOLS, with_pip=True, clear=True)
    pip = [str(bin_folder() / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, *PINS.split()], check=True)  # noqa: S603
    stamp.write_text(PINS)


def bin_folder() -> Path:
    return TOOLS / ("Scripts" if os.name == "nt" else "bin")


def protoc(options: list[str], sources: list[Path]) -> None:
    """Runs protoc. It finds its mypy plug-ins on PATH, so the tools' own folder goes first."""
    includes = [f"-I{PROTOS}", f"-I{PROTOS / 'third_party'}"]
    command = [str(bin_folder() / "python"), "-m", "grpc_tools.protoc", *includes]
    environment = {**os.environ, "PATH": f"{bin_folder()}{os.pathsep}{os.environ.get('PATH', '')}"}
    subprocess.run([*command, *options, *map(str, sources)], check=True, env=environment)  # noqa: S603


def homes(source: Path, kinds: str) -> list[str]:
    """The names of the given kinds (`message|enum`) that a .proto file declares, nested ones left out."""
    return re.findall(rf"^(?:{kinds}) (\w+)", source.read_text(), re.MULTILINE)


def init(sources: list[Path]) -> str:
    """The package's `__init__.py`: types for the type checker, a table of names for everybody else."""
    modules: dict[str, list[str]] = {}
    for source in sources:
        if names := homes(source, "message|enum"):
            modules[f"{source.stem}_pb2"] = names
        for service in homes(source, "service"):
            kinds = [f"{service}{kind}" for kind in ("AsyncStub", "Servicer", "Stub")]
            modules.setdefault(f"{source.stem}_pb2_grpc", []).extend(
                [*kinds, f"add_{service}Servicer_to_server"]
            )
    table = {name: module for module, names in modules.items() for name in names}
    lines = ["if TYPE_CHECKING:"]
    for module, names in sorted(modules.items()):
        lines += [f"    from opsin.v1.{module} import {name} as {name}" for name in sorted(names)]
    lines += ["", "__all__ = [", *(f'    "{name}",' for name in sorted(table)), "]", ""]
    lines += ["_HOMES = {", *(f'    "{name}": "{table[name]}",' for name in sorted(table)), "}"]
    return INIT_TOP + "\n".join(lines) + "\n" + INIT_BOTTOM


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*") if path.is_file()}


def write(changed: list[str], fresh: dict[str, str]) -> None:
    """Brings the changed files into the source tree, and removes those that are no longer made."""
    (CLIENT / PACKAGE).mkdir(parents=True, exist_ok=True)
    for name in changed:
        path = CLIENT / PACKAGE / name
        if name in fresh:
            path.write_text(fresh[name], encoding="utf-8", newline="\n")
        else:
            path.unlink()


def report(changed: list[str], stored: dict[str, str], fresh: dict[str, str]) -> int:
    """Says what is out of date, with the difference; the exit status."""
    folder = (CLIENT / PACKAGE).relative_to(ROOT).as_posix()
    for name in changed:
        before, after = stored.get(name, "").splitlines(), fresh.get(name, "").splitlines()
        names = f"{folder}/{name} (stored)", f"{folder}/{name} (fresh)"
        print("\n".join(difflib.unified_diff(before, after, *names, lineterm="")), flush=True)
    for name in changed:
        print(f"out of date: {folder}/{name}", file=sys.stderr)
    if changed:
        print("run: python protos/generate.py", file=sys.stderr)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
