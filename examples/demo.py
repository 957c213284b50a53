"""The whole of Opsin in one go: a server, a photo, a video, and pictures of what was found.

    python examples/demo.py

Starts `opsin serve` on a free port with the default model, detects on a photo, makes a three-second video by
moving over that photo, streams it, writes an annotated JPEG and an annotated MP4 to demo-out/, and stops the
server. It prints what was found and how long it took; the exit code is 0 only when all of that worked.
"""

import argparse
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

import opsin
from opsin.cli.film import Film

PHOTO = Path(__file__).parent / "data" / "astronaut.png"
FPS = 10
SECONDS = 3
SIZE = (480, 360)
READY_WITHIN = 120.0
ADDRESS = re.compile(r"[\w.\[\]:-]+:\d+")

console = Console(highlight=False)


class DemoFailed(Exception):  # noqa: N818
    """A step did not work; the message says which and why."""


# The server


@contextmanager
def server(log: Path) -> Iterator[str]:
    """`opsin serve` on a free port, stopped at the end whatever happens; yields HOST:PORT."""
    # The default model alone: the other built-in ones would only make the start longer.
    arguments = ["serve", "--model", "nanodet", "--host", "127.0.0.1", "--port", "0", "--drain-delay", "0"]
    with log.open("w") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "opsin.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        )
    try:
        with step("server started and ready"):
            address = address_of(process, log)
        yield address
    finally:
        stop(process)


def address_of(process: "subprocess.Popen[str]", log: Path) -> str:
    """The address in the line the server prints when it is ready. Raises DemoFailed."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    until = time.monotonic() + READY_WITHIN
    while (left := until - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        if not line:
            process.wait()
            last = log.read_text().strip().splitlines()[-3:]
            raise DemoFailed("the server did not start: " + "\n".join(last))
        if found := ADDRESS.search(line):
            return found[0]
    raise DemoFailed(f"the server was not ready within {READY_WITHIN:.0f} s; its messages are in {log}.")


def _read(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str]") -> None:
    """All it prints, to its end, so that it never waits for a reader; "" is the end."""
    assert process.stdout
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def stop(process: "subprocess.Popen[str]") -> None:
    """Ask it to stop; insist after a while. Two signals skip the time a server leaves its balancers."""
    for sign, patience in ((signal.SIGTERM, 2.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        if process.poll() is not None:
            return
        process.send_signal(sign)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


# The video


def windows(width: int, height: int) -> Iterator[opsin.Box]:
    """Where the camera looks, a frame each: from the whole width towards the face, in shares of the photo."""
    tall = SIZE[1] / SIZE[0] * width / height
    for step in np.linspace(0.0, 1.0, FPS * SECONDS):
        ease = float(step * step * (3 - 2 * step))
        side = 1.0 - 0.35 * ease
        left, top = (1.0 - side) * 0.2, (1.0 - tall * side) * 0.1 * ease
        yield opsin.Box(left, top, left + side, top + tall * side)


def make_video(path: Path) -> list[opsin.Box]:
    """Write the three seconds; returns where the camera looked."""
    photo = Image.open(PHOTO).convert("RGB")
    film, looks = Film(path), list(windows(*photo.size))
    for look in looks:
        across, down = photo.size
        part = (look.x_min * across, look.y_min * down, look.x_max * across, look.y_max * down)
        film.write(photo.resize(SIZE, Image.Resampling.BICUBIC, box=part), FPS)
    film.close()
    return looks


def seen_through(look: opsin.Box, box: opsin.Box) -> opsin.Box:
    """A box of the photo as the camera sees it: shifted, enlarged, cut at the edges."""

    def across(x: float) -> float:
        return min(max((x - look.x_min) / (look.x_max - look.x_min), 0.0), 1.0)

    def down(y: float) -> float:
        return min(max((y - look.y_min) / (look.y_max - look.y_min), 0.0), 1.0)

    return opsin.Box(across(box.x_min), down(box.y_min), across(box.x_max), down(box.y_max))


def overlap(one: opsin.Box, other: opsin.Box) -> float:
    """Intersection over union, 0..1."""
    width = max(0.0, min(one.x_max, other.x_max) - max(one.x_min, other.x_min))
    height = max(0.0, min(one.y_max, other.y_max) - max(one.y_min, other.y_min))
    both = width * height
    return both / (area(one) + area(other) - both)


def area(box: opsin.Box) -> float:
    """0..1."""
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)


# The steps


def detect_photo(client: opsin.Client, out: Path) -> opsin.DetectResult:
    """One call, one annotated picture."""
    result = client.detect(PHOTO)
    if not any(found.label == "person" for found in result.detections):
        raise DemoFailed(f"no person was found on {PHOTO.name}, where there is one.")
    result.draw().save(out / "astronaut.jpg", quality=90)
    return result


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of the video: frames with a person, how well each box fits where the person is (IoU)."""

    people: int
    fit: float
    stats: opsin.StreamStats


def stream_video(client: opsin.Client, out: Path, person: opsin.Box) -> Streamed:
    """Every frame of the video once, in order; one annotated video. person: where it is on the photo."""
    looks = make_video(out / "clip.mp4")
    film = Film(out / "annotated.mp4")
    fits = []
    with client.stream(out / "clip.mp4") as frames:
        for look, frame in zip(looks, frames, strict=True):
            if not isinstance(frame, opsin.FrameResult):
                raise DemoFailed(f"frame {frame.sequence} of the video was not answered: {frame}")
            people = [found.box for found in frame.result.detections if found.label == "person"]
            fits += [max(overlap(one, seen_through(look, person)) for one in people)] if people else []
            film.write(frame.result.draw(), FPS)
    film.close()
    return Streamed(len(fits), sum(fits) / max(1, len(fits)), frames.stats)


def show(photo: opsin.DetectResult, video: Streamed, out: Path) -> None:
    """The table of what was found."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("in", "found", "took"):
        table.add_column(title, no_wrap=True)
    times, stats = photo.timings, video.stats
    for found in photo.detections:
        corners = found.pixels
        where = f"({corners.x_min}, {corners.y_min}) - ({corners.x_max}, {corners.y_max})"
        took = f"{times.total_ms:.0f} ms, {times.infer_ms:.0f} in the model"
        table.add_row("photo", f"{found.label} {found.score:.2f} at {where}", took)
    frames = f"person in {video.people} of {stats.answered} frames, overlap {video.fit:.2f}"
    table.add_row("video", frames, f"{stats.seconds:.1f} s, {stats.fps:.1f} a second")
    console.print(table)
    console.print(
        f"by {photo.model}; look at {out / 'astronaut.jpg'} and {out / 'annotated.mp4'}", soft_wrap=True
    )


@contextmanager
def step(name: str) -> Iterator[None]:
    """Says what is being done and how long it took; turns errors into DemoFailed."""
    started = time.perf_counter()
    try:
        yield
    except opsin.OpsinError as error:
        raise DemoFailed(f"{name}: {error}") from error
    console.print(f"[green]ok[/green]  {name} [dim]{time.perf_counter() - started:.1f} s[/dim]")


def run(out: Path) -> None:
    """All of it. Raises DemoFailed."""
    out.mkdir(parents=True, exist_ok=True)
    with server(out / "server.log") as address, opsin.Client(address) as client:
        with step("healthy"):
            client.wait_until_serving(timeout=READY_WITHIN)
        with step("photo detected"):
            photo = detect_photo(client, out)
        with step("video streamed"):
            person = next(found.box for found in photo.detections if found.label == "person")
            video = stream_video(client, out, person)
    console.print("[green]ok[/green]  server stopped")
    show(photo, video, out)


def main() -> int:
    """Run the demo; the exit code says whether it worked."""
    parser = argparse.ArgumentParser(
        description="A server, a photo, a video, and pictures of what was found."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="where pictures go (default: demo-out)"
    )
    try:
        run(parser.parse_args().out)
    except (DemoFailed, OSError) as failed:
        console.print(f"[red]failed[/red]  {failed}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
