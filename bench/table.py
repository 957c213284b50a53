"""All results as one page: `python -m bench.table` writes `bench/results/README.md` from the JSON files."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, Target, table

__all__ = ["main", "page", "write"]

RESULTS = Path(__file__).parent / "results"
Result = Mapping[str, Any]

INTRODUCTION = """\
Written by `make bench` and `make bench-peers`; what each name measures, and how, is in
[docs/performance.md](../../docs/performance.md). Median of the rounds, with the least and the greatest.
*yes*: the median reaches the target; *within the spread*: the best round does."""


def page(results: Sequence[Result]) -> str:
    """Markdown: on what it was measured, then a table for each name."""
    parts = [
        "# Results",
        INTRODUCTION,
    ]
    for where in _distinct(_where(one["machine"]) for one in results):
        parts.append(where)
        parts += [_section(one) for one in results if _where(one["machine"]) == where]
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> Path:
    """The page of all the results in a folder, written there."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    target = folder / "README.md"
    target.write_text(page(results), encoding="utf-8")
    return target


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _where(machine: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number)
    return (
        f"## {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB\n\n"
        f"{machine['system']}; Python {machine['python']}, {packages}."
    )


def _section(result: Result) -> str:
    quick = ", a smoke test that measures nothing" if result.get("quick") else ""
    machine = result["machine"]
    head = (
        f"### {result['name']}{quick}\n\n"
        f"{machine['date'][:10]}, {result['seconds']:.0f} s, load before {machine['load_before']:.2f}."
    )
    return f"{head}\n\n{table([_figure(one) for one in result['figures']])}"


def _figure(told: Mapping[str, Any]) -> Figure:
    target = None
    if told["target"]:
        sign, value = told["target"].split()
        target = Target(sign, float(value))
    return Figure(told["figure"], told["rounds"], told["unit"], target)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description="Results as one page.")
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    print(f"wrote {write(parser.parse_args(argv).folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
