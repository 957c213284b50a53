"""`python -m bench.peers [--quick]`: Opsin beside its peers, as JSON and as tables."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import table
from bench.machine import machine
from bench.peers.contest import Ring, check, compete, ring
from bench.peers.contestants import CONTESTANTS, OURS, Opsin, Peer
from bench.peers.process import python_of
from bench.peers.report import figures, standings, summary
from bench.peers.subjects import SUBJECTS, Table, laid_out
from bench.table import write

RESULTS = Path(__file__).parents[1] / "results"
CALLERS = {"classifier": (1, 8, 10, 32), "detector": (1, 8, 32)}
SLOW = {"vit": 2.0}
"""How many times longer a round has to be than for the others, so that there are answers enough."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when everybody could be measured and gave the same answers."""
    asked = _arguments(argv)
    contestants = [one for one in CONTESTANTS if one.name in asked.servers]
    if missing := [one.name for one in contestants if isinstance(one, Peer) and not _installed(one)]:
        print(f"not installed: {', '.join(missing)}; `make bench-peers` does that", file=sys.stderr)
        return 1
    for name in asked.models:
        with laid_out(name) as laid:
            _subject(laid, contestants, asked)
    print(f"all results: {write(_folder(asked))}")
    return 0


def _installed(peer: Peer) -> bool:
    return python_of(peer.environment).exists()


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def _subject(laid: Table, contestants: Sequence[Opsin | Peer], asked: argparse.Namespace) -> None:
    tolerances = {one.name: one.tolerance for one in contestants}
    with ring(contestants, laid, _say, tuned=not asked.plain) as running:
        check(running, laid, tolerances)
        _say(f"{laid.subject.name}: the answers of {', '.join(running)} agree")
        for callers in asked.callers or CALLERS[laid.subject.kind]:
            _contest(laid.subject.name, callers, running, asked)


def _contest(model: str, callers: int, running: Ring, asked: argparse.Namespace) -> None:
    here, begun = machine(), time.monotonic()
    seconds = asked.seconds * (1 if asked.quick else SLOW.get(model, 1.0))
    _say(f"{model}, {callers} callers")
    sides = compete(running, callers, seconds, asked.rounds)
    mine = [one.name for one in OURS]
    held = [one.name for one in OURS if one.held]
    rows = figures(model, callers, sides, mine, held)
    print(f"\n### {model}, {callers} callers\n\n{standings(callers, sides)}\n\n{table(rows)}\n", flush=True)
    told: dict[str, Any] = {
        "name": f"peers-{model}-{callers}",
        "quick": asked.quick,
        "seconds": round(time.monotonic() - begun, 1),
        "round_seconds": seconds,
        "peers_tuned_malloc": not asked.plain,
        "machine": here,
        "contestants": {
            one.name: {"settings": one.about, "advised_in": one.page}
            for one in CONTESTANTS
            if one.name in sides
        },
        "sides": {name: summary(side) for name, side in sides.items()},
        "figures": [figure.to_dict() for figure in rows],
    }
    (_folder(asked) / f"{told['name']}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _folder(asked: argparse.Namespace) -> Path:
    folder: Path = asked.results / "quick" if asked.quick else asked.results
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    names = [one.name for one in CONTESTANTS]
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description="Measure Opsin beside other servers of the same model."
    )
    parser.add_argument("--quick", action="store_true", help="two rounds of two seconds, nsfw only")
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, help="what is served [all]")
    parser.add_argument("--servers", nargs="+", choices=names, default=names, help="who takes part [all]")
    parser.add_argument(
        "--callers", nargs="+", type=int, help="how many at once [1 8 32, classifiers also 10]"
    )
    parser.add_argument("--rounds", type=int, help="of each server [5]")
    parser.add_argument("--seconds", type=float, help="of each round [8]")
    parser.add_argument("--plain", action="store_true", help="leave the peers' malloc and OpenMP as they are")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON files go")
    asked = parser.parse_args(argv)
    asked.models = asked.models or (["nsfw"] if asked.quick else list(SUBJECTS))
    asked.rounds = asked.rounds or (2 if asked.quick else 5)
    asked.seconds = asked.seconds or (2.0 if asked.quick else 8.0)
    return asked


if __name__ == "__main__":
    sys.exit(main())
