"""The server's resident memory over cycles of loading a model, asking it, and unloading it again."""

import time

import opsin
from bench.figures import Figure, at_most, slope
from bench.inputs import Kind, pictures
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Server
from bench.watch import wait_for

__all__ = ["MODELS", "measure"]

MODELS = ("nanodet", "nsfw")
CYCLES = 100
CALLS_SECONDS = 0.2
LOOK = 0.15
MIB = 1 << 20


def measure(scale: Scale) -> list[Figure]:
    """About four minutes a model."""
    cycles = 6 if scale.quick else CYCLES
    with pictures(4) as paths:
        return [figure for name in MODELS for figure in _model(name, Kind(paths), cycles, scale)]


def _model(name: str, kind: Kind, cycles: int, scale: Scale) -> list[Figure]:
    scale.say(f"{name}: {cycles} cycles")
    sizes, loaded = [], []
    with Server("echo") as server, opsin.Client(server.target, timeout=60) as client:
        start = server.memory_bytes() / MIB
        for cycle in range(cycles):
            client.load_model("reloaded", source=name, wait=True)
            drive(Load(server.target, "reloaded", kind, CALLS_SECONDS, callers=4, warmup=0, seed=cycle))
            loaded.append(server.memory_bytes() / MIB)
            client.unload_model("reloaded")
            wait_for(lambda: all(model.name != "reloaded" for model in client.models()), "it to go")
            sizes.append(_settled(server))
    half = sizes[cycles // 2 :]
    told = {
        "start_mib": start,
        "loaded_mib": [round(size) for size in loaded[:: max(1, cycles // 20)]],
        "unloaded_mib": [round(size) for size in sizes[:: max(1, cycles // 20)]],
        "end_mib": sizes[-1],
    }
    rise = slope([(float(at), size) for at, size in enumerate(half)])
    what = f"{name}, {cycles} cycles"
    freed = sum(a - b for a, b in zip(loaded, sizes, strict=True)) / cycles
    return [
        Figure(f"{what}: memory grows in the second half by", [rise], "MiB/cycle", at_most(0.1), told),
        Figure(f"{what}: second half, largest over first", [max(half) / half[0]], "", at_most(1.05)),
        Figure(f"{what}: given back by an unload, mean", [freed], "MiB"),
    ]


def _settled(server: Server) -> float:
    """MiB once nothing more is given back: that goes on for a moment after the model has left the list."""
    size = server.memory_bytes()
    while True:
        time.sleep(LOOK)
        before, size = size, server.memory_bytes()
        if size >= before:
            return size / MIB
