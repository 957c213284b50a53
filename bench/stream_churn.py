"""What streams leave behind in the server: after 1 000 that open and end, and 100 whose process is killed.

Each kind is counted from where its own first ones have brought the server, as pools and caches fill then.
Seen from outside: memory, file descriptors, threads, calls in flight and inputs that wait.
"""

import asyncio
import subprocess
import sys
import time

from bench.figures import Figure, at_most
from bench.frames import Cameras, drive, open_stream
from bench.inputs import Kind, image_maker
from bench.load import channel, in_loop
from bench.scale import Scale
from bench.server import Server, environment
from bench.watch import wait_for
from opsin.v1 import Frame, StreamConfig, StreamDetectRequest

__all__ = ["measure"]

CYCLES, AT_ONCE = 1000, 10
KILLED, PER_PROCESS = 100, 10
STEP = 50
MODEL = "device=echo,delay_ms=5"
MIB = 1 << 20


def measure(scale: Scale) -> list[Figure]:
    """About two minutes."""
    cycles, killed = scale.count(CYCLES), max(PER_PROCESS, scale.count(KILLED))
    with Server(MODEL) as server:
        _cycle(server, max(AT_ONCE, cycles // 5))
        start = _settled(server)
        scale.say(f"{cycles} streams open and end")
        _cycle(server, cycles)
        after_cycles = _settled(server)
        scale.say(f"{killed} connections die")
        first = _kills(server, STEP)
        before_kills = _settled(server)
        rise = first + _kills(server, killed)
        end = _settled(server)
        (reel,) = drive(Cameras(server.target, "device", Kind(), 1.0, seed=9))
        counters = server.counters()
    told = {
        "start": start,
        "after_cycles": after_cycles,
        "before_kills": before_kills,
        "after_kills": end,
        "mib_by_kills": rise,
        "queued": counters.total("opsin_queued"),
        "decoded_bytes": counters.total("opsin_decoded_bytes"),
        "frames_answered_afterwards": reel.results,
    }
    left = counters.total("opsin_calls_in_flight", method="StreamDetect")
    return [
        Figure(f"{cycles} streams: memory", [after_cycles["mib"] - start["mib"]], "MiB", at_most(5), told),
        Figure(
            f"{cycles} streams: file descriptors", [after_cycles["files"] - start["files"]], "", at_most(0)
        ),
        Figure(f"{killed} killed: memory", [end["mib"] - before_kills["mib"]], "MiB", at_most(5)),
        Figure(f"{killed} killed: file descriptors", [end["files"] - before_kills["files"]], "", at_most(0)),
        Figure("both: threads", [end["threads"] - start["threads"]], "", at_most(0)),
        Figure("both: streams still counted as live", [left], "", at_most(0)),
    ]


def _settled(server: Server) -> dict[str, float]:
    """What it holds once the last stream is gone and its sockets are closed."""
    wait_for(
        lambda: server.counters().total("opsin_calls_in_flight", method="StreamDetect") == 0, "streams to end"
    )
    time.sleep(1.0)
    return {
        "mib": server.memory_bytes() / MIB,
        "files": server.open_files(),
        "threads": server.threads(),
    }


def _cycle(server: Server, cycles: int) -> None:
    """Streams of three frames, each on a fresh connection, some at once."""
    for number in range(0, cycles, AT_ONCE):
        cameras = Cameras(server.target, "device", Kind(), 0.02, min(AT_ONCE, cycles - number), seed=number)
        for reel in drive(cameras):
            if reel.error or reel.astray:
                raise RuntimeError(f"a stream broke: {reel.error}")


def _kills(server: Server, connections: int) -> list[float]:
    """Memory after each of some steps, in MiB."""
    rise: list[float] = []
    for _ in range(0, connections, STEP):
        _kill(server, min(STEP, connections))
        rise.append(_settled(server)["mib"])
    return rise


def _kill(server: Server, connections: int) -> None:
    """Processes that hold streams in the middle of their frames, killed."""
    command = [sys.executable, "-m", "bench.stream_churn", server.target]
    for _ in range(0, connections, PER_PROCESS):
        victim = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
        assert victim.stdout is not None
        victim.stdout.readline()
        victim.kill()
        victim.communicate()


async def _victim(target: str) -> None:
    """Streams with frames on their way, until killed."""
    make = image_maker(Kind(size=100_000))
    channels = [channel(target) for _ in range(PER_PROCESS)]
    calls = [(await open_stream(one, StreamConfig(model="device")))[0] for one in channels]
    for number in range(1, 6):
        for call in calls:
            await call.write(StreamDetectRequest(frame=Frame(sequence=number, image=make(number))))
    print("filming", flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    in_loop(_victim(sys.argv[1]))
