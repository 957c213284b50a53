"""The measurements by name, each in a module of its own, imported when it is run."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["GROUPS", "Group"]


@dataclass(frozen=True, slots=True)
class Group:
    """module: has `measure(scale)`. about: one line for people."""

    module: str
    about: str


GROUPS: Mapping[str, Group] = {
    "throughput": Group("bench.throughput", "the server against the bare model, 8 and 32 callers"),
    "batches": Group("bench.batches", "mean batch size at 32 callers"),
    "latency": Group("bench.latency", "added to decode and model at one caller"),
    "timings": Group("bench.timings", "whether the stages of a reply add up to its total"),
    "overload": Group("bench.overload", "goodput at twice the peak, and work run in vain"),
    "memory": Group("bench.memory", "the server's memory under twice the load it can do"),
    "greedy": Group("bench.greedy", "one caller in flight beside 256"),
    "shares": Group("bench.shares", "device time of three models with shares 1:1:2"),
    "stages": Group("bench.stages", "CPU a call and a frame by stage, VGA and 1080p, four models"),
    "knobs": Group("bench.knobs", "what each setting does to speed, beside the default"),
    "overhead": Group("bench.overhead", "server CPU a unary call, beside a handler that does nothing"),
    "cancellations": Group("bench.cancellations", "right answers while others cancel"),
    "stream-overhead": Group("bench.stream_overhead", "server CPU a streamed frame"),
    "stream-latest": Group("bench.stream_latest", "eight cameras pushed at twice what the device can do"),
    "stream-fairness": Group("bench.stream_fairness", "32 cameras of many rates and sizes, and a caller"),
    "stream-latency": Group("bench.stream_latency", "added to decode and model for a streamed frame"),
    "stream-throughput": Group(
        "bench.stream_throughput", "eight streams, every frame, against the bare model"
    ),
    "stream-idle": Group("bench.stream_idle", "eight busy streams beside 200 idle ones"),
    "stream-envoy": Group("bench.stream_envoy", "streams through a real Envoy, beside direct ones"),
    "stream-churn": Group("bench.stream_churn", "what streams leave behind when they end or die"),
    "lifecycle": Group("bench.lifecycle", "versions loaded, switched and unloaded at half the capacity"),
    "reload-memory": Group("bench.reload_memory", "memory over 100 cycles of loading and unloading"),
    "cache": Group("bench.cache", "what joining and keeping answers saves, and what they cost"),
    "cache-redis": Group("bench.cache_redis", "a shared cache that is killed, stalled and revived"),
}
