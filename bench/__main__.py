"""`python -m bench NAME... [--quick]`: measure, print a table for each name, keep JSON and a page."""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, table
from bench.groups import GROUPS
from bench.machine import machine
from bench.scale import Scale
from bench.table import write

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for; 0 when all of it could be measured, whatever the figures say."""
    asked = _arguments(argv)
    scale = Scale(asked.quick, asked.rounds or (1 if asked.quick else 5), asked.minutes)
    failed = []
    for name in asked.names or GROUPS:
        try:
            _measure(name, scale, asked.results)
        except Exception as error:  # the other names are still worth their time
            print(f"{name}: could not be measured: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(name)
    print(f"all results: {write(_folder(asked.results, scale))}")
    return 1 if failed else 0


def _measure(name: str, scale: Scale, folder: Path) -> None:
    scale.say(f"{name}: {GROUPS[name].about}")
    here, begun = machine(), time.monotonic()
    figures: list[Figure] = importlib.import_module(GROUPS[name].module).measure(scale)
    took = time.monotonic() - begun
    print(
        f"\n### {name}{' (quick: no measurement)' if scale.quick else ''}\n\n{table(figures)}\n", flush=True
    )
    folder = _folder(folder, scale)
    told: dict[str, Any] = {"name": name, "quick": scale.quick, "seconds": round(took, 1), "machine": here}
    told["figures"] = [figure.to_dict() for figure in figures]
    (folder / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _folder(folder: Path, scale: Scale) -> Path:
    # What a smoke test wrote never stands where a measurement belongs.
    folder = folder / "quick" if scale.quick else folder
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    listing = "\n".join(f"  {name:20} {group.about}" for name, group in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure what Opsin promises in numbers.",
        epilog=f"names (all of them when none is given):\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="seconds each, to see that it runs")
    parser.add_argument("--rounds", type=int, default=0, help="of each side of a comparison [5]")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long memory is watched [10]")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON files go")
    asked = parser.parse_args(argv)
    if unknown := [name for name in asked.names if name not in GROUPS]:
        parser.error(f"no such measurement: {', '.join(unknown)}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
