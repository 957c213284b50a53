"""Writes constraints.txt from the environment it runs in; `--check` says what is missing or different.

The file holds one exact version for every package that `.[dev]` brings, directly or not, and for the build
backend: what was tested is what gets installed. Run it in the project's virtual environment, after installing
newer versions on purpose:

    .venv/bin/pip install --upgrade -e '.[dev]' && .venv/bin/python deploy/pins.py
"""

import argparse
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "constraints.txt"

HEADER = """\
# The versions that the Makefile, CI and the images install: every package that `.[dev]` (and so `.[all]`)
# brings on Linux, and the build backend. pyproject.toml keeps open ranges for users.
#
#     pip install -c constraints.txt -e '.[dev]'
#
# Written by deploy/pins.py (`make pins`); a test checks that nothing is left unpinned. torch has no build tag
# on purpose: CPU and CUDA builds of a release satisfy the same line, and the package index chosen at install
# time decides between them.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Pin what is installed.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    check = parser.parse_args().check
    fresh = installed()
    if not check:
        PINS.write_text(HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(fresh.items())))
        return 0
    stored = dict(line.split("==") for line in PINS.read_text().splitlines() if not line.startswith("#"))
    wrong = sorted(fresh.items() - stored.items())
    for name, version in wrong:
        print(
            f"{name}: installed {version}, constraints.txt has {stored.get(name, 'nothing')}", file=sys.stderr
        )
    return 1 if wrong else 0


def installed() -> dict[str, str]:
    """Version by name of everything that `.[dev]` and the build backend need in this environment."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = list(wanted())
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        if (name, frozenset(need.extras)) in seen:
            continue
        seen.add((name, frozenset(need.extras)))
        distribution = importlib.metadata.distribution(name)
        pins[name] = distribution.version.partition("+")[0]
        todo += [
            further for further in map(Requirement, distribution.requires or []) if applies(further, need)
        ]
    return pins


def wanted() -> Iterator[Requirement]:
    """What pyproject.toml asks for itself: the base, everything behind the extra `dev`, the build backend."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    yield from map(Requirement, project["project"]["dependencies"])
    yield from map(Requirement, project["build-system"]["requires"])
    todo, seen = ["dev"], {"dev"}
    while todo:
        for need in map(Requirement, extras[todo.pop()]):
            if need.name != project["project"]["name"]:
                yield need
                continue
            todo += need.extras - seen
            seen |= need.extras


def applies(requirement: Requirement, asked: Requirement) -> bool:
    """Whether a requirement holds here, given the extras that were asked of the package that states it."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *asked.extras))


if __name__ == "__main__":
    sys.exit(main())
