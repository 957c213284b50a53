"""Where a busy server's CPU time goes, by function: `python -m bench.flames MODEL [--callers 32]`.

py-spy looks at the server's Python stacks a hundred times a second while callers keep it busy. Kept are a
table by thread role, one by function (the innermost Python frame; what a C library does is its caller's), and
with `--output` the folded stacks, which any flame graph tool draws.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.inputs import Kind, pictures
from bench.load import Load, beside, drive
from bench.server import Server
from bench.threads import role, spy

__all__ = ["Stack", "by_function", "by_role", "main", "parse"]

Stack = tuple[tuple[str, ...], int]
"""Frames from the thread's name inwards, and in how many samples they were seen."""
LEAD = 3.0
RECORD = ("record", "--format", "raw", "--threads", "--nonblocking", "--rate", "100")
_LINE = re.compile(r":\d+\)$")


def parse(folded: str) -> list[Stack]:
    """The lines of py-spy's raw format."""
    stacks = []
    for line in folded.splitlines():
        frames, _, count = line.rpartition(" ")
        if frames:
            stacks.append((tuple(frames.split(";")), int(count)))
    return stacks


def by_role(stacks: Iterable[Stack]) -> list[tuple[str, float]]:
    """Share of the samples by what the thread is for, the largest first."""
    counts: Counter[str] = Counter()
    for frames, count in stacks:
        counts[role(_thread(frames[0]))] += count
    return _ranked(counts)


def by_function(stacks: Iterable[Stack]) -> list[tuple[str, float]]:
    """Share of the samples by innermost Python frame, with its thread's role, the largest first."""
    counts: Counter[str] = Counter()
    for frames, count in stacks:
        counts[f"{role(_thread(frames[0]))}: {_LINE.sub(')', frames[-1])}"] += count
    return _ranked(counts)


def _thread(first: str) -> str:
    """py-spy writes `thread (0x7F…): name`."""
    return first.partition("): ")[2] or first.removeprefix("thread ")


def _ranked(counts: Counter[str]) -> list[tuple[str, float]]:
    total = sum(counts.values())
    return [(name, count / total) for name, count in counts.most_common()]


def table(what: str, rows: Sequence[tuple[str, float]], most: int) -> str:
    """Markdown."""
    lines = [
        f"| {what} | share |",
        "|---|---|",
        *(f"| {name} | {share:.1%} |" for name, share in rows[:most]),
    ]
    return "\n".join(lines)


def record(spec: str, callers: int, seconds: float) -> str:
    """Folded stacks of a server of its own that serves one model. Raises RuntimeError when py-spy may not."""
    name = spec.partition("=")[0]
    with pictures() as paths, Server(spec) as server, tempfile.TemporaryDirectory() as folder:
        load = Load(server.target, name, Kind(paths), seconds + 2 * LEAD, callers, warmup=LEAD)
        with beside(drive, load) as running:
            output = Path(folder) / "stacks"
            ran = subprocess.run(
                [
                    spy(),
                    *RECORD,
                    "--pid",
                    str(server.pid),
                    "--output",
                    str(output),
                    "--duration",
                    str(round(seconds)),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            running.result()
        if ran.returncode:
            raise RuntimeError(f"py-spy may not look into the server: {ran.stderr.strip()[-300:]}")
        return output.read_text(encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the two tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.flames", description="Where CPU time goes.")
    parser.add_argument("model", help="as for opsin serve --model")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--most", type=int, default=15, help="rows of the table of functions")
    parser.add_argument("--output", type=Path, help="where folded stacks go")
    asked = parser.parse_args(argv)
    folded = record(asked.model, asked.callers, asked.seconds)
    if asked.output:
        asked.output.write_text(folded, encoding="utf-8")
    stacks = parse(folded)
    print(
        table("thread", by_role(stacks), len(stacks)),
        table("function", by_function(stacks), asked.most),
        sep="\n\n",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
