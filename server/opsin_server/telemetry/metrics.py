"""What the server counts and measures, for Prometheus.

Owns the names, labels and buckets of all metrics, in a registry of its own so that two servers in one process
never clash. Knows nothing of gRPC and of who calls it: counts are pushed by the rooms where things happen,
gauges are pulled through one callback when somebody scrapes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric

from opsin_server.telemetry.tallies import Histograms, Tallies

__all__ = ["MethodMetrics", "Metrics", "ModelGauges", "Snapshot"]

# From a cached answer to a slow batch on a CPU, in seconds; 1-2.5-5 steps keep it to 15 series a method.
LATENCY_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class ModelGauges:
    """How one loaded model stands. oldest_wait: seconds; busy_share: 0..1 of its lanes' time.

    weight: its traffic weight. serving: whether new calls may come to it.
    profile: learnt run times, as (batch size, seconds, spread in seconds).
    """

    model: str
    version: int
    queued: int = 0
    oldest_wait: float = 0.0
    busy_share: float = 0.0
    weight: int = 0
    serving: bool = True
    profile: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is true at the moment of a scrape. devices: name to busy share, 0..1."""

    models: tuple[ModelGauges, ...] = ()
    devices: tuple[tuple[str, float], ...] = ()
    decoded_bytes: int = 0
    streams: int = 0


class Metrics:
    """All metrics of one server."""

    def __init__(self, snapshot: Callable[[], Snapshot] = Snapshot) -> None:
        self.snapshot = snapshot
        """Asked at every scrape; may be set once the rooms that know are built."""
        self.registry = CollectorRegistry()
        # With every call and input: tallies. With what is rarer: the library's.
        self._calls = Tallies(
            "opsin_calls",
            "Calls that ended, by method, gRPC code and reason (empty when there is none).",
            ["method", "code", "reason"],
            self.registry,
        )
        self._seconds = Histograms(
            "opsin_call_seconds",
            "Time from the arrival of a call to its end, in seconds; streams are left out.",
            ["method"],
            LATENCY_BUCKETS,
            self.registry,
        )
        self._in_flight: dict[str, int] = {}
        self._frames = Tallies(
            "opsin_frames",
            "Frames answered, by outcome and by the reason of those without a result.",
            ["outcome", "reason"],
            self.registry,
        )
        self._failures = Counter(
            "opsin_failures",
            "Calls, items of batches and frames that were refused or failed, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._batch = Histograms(
            "opsin_batch_size",
            "Inputs that ran together.",
            ["model"],
            BATCH_BUCKETS,
            self.registry,
        )
        self._batch_seconds = Histograms(
            "opsin_batch_seconds",
            "Time that a batch held its lane, in seconds.",
            ["model"],
            LATENCY_BUCKETS,
            self.registry,
        )
        self._tickets = Tallies(
            "opsin_tickets",
            "Inputs that left the scheduler: answered, failed, cancelled, expired, unmeetable or lost.",
            ["model", "end"],
            self.registry,
        )
        self._answers = Tallies(
            "opsin_model_answers",
            "Calls, items and frames that a version answered, by reason (empty: with a result).",
            ["model", "version", "reason"],
            self.registry,
        )
        self._answer_seconds = Histograms(
            "opsin_model_answer_seconds",
            "Time that these took, in seconds; only those with a result.",
            ["model", "version"],
            LATENCY_BUCKETS,
            self.registry,
        )
        self._shadows = Tallies(
            "opsin_shadow",
            "Copies of calls for a shadow version, by outcome: same, different, failed, dropped.",
            ["model", "outcome"],
            self.registry,
        )
        self.registry.register(_Live(self))

    def method(self, name: str) -> "MethodMetrics":
        """The counters of one method, looked up once instead of at each call."""
        return MethodMetrics(name, self._in_flight, self._seconds, self._calls)

    def in_flight(self) -> tuple[tuple[str, int], ...]:
        """Calls being served now, by method."""
        return tuple(self._in_flight.items())

    def failed(self, reason: str) -> None:
        """One call, item or frame was refused or failed."""
        self._failures.labels(reason).inc()

    def frame(self, outcome: str, reason: str = "") -> None:
        """A frame was answered: `result`, `dropped` or `failed`."""
        self._frames.add(outcome, reason)

    def ticket(self, model: str, end: str) -> None:
        """An input left the scheduler: answered, failed, cancelled, expired, unmeetable or lost."""
        self._tickets.add(model, end)

    def batch(self, model: str, size: int, seconds: float) -> None:
        """A batch ran."""
        self._batch.observe(size, model)
        self._batch_seconds.observe(seconds, model)

    def answered(self, model: str, version: int, reason: str, seconds: float) -> None:
        """A version answered a call, an item or a frame; reason: why not with a result, else empty."""
        number = str(version)
        self._answers.add(model, number, reason)
        if not reason:
            self._answer_seconds.observe(seconds, model, number)

    def shadow(self, model: str, outcome: str) -> None:
        """A copy for a shadow ended: same, different, failed or dropped. model: its key, `name@3`."""
        self._shadows.add(model, outcome)

    def forget(self, model: str, version: int) -> None:
        """A version is gone, and so are its series: names that come and go must not pile up."""
        key, number = f"{model}@{version}", str(version)
        for batches in (self._batch, self._batch_seconds):
            batches.forget(model=key)
        for tickets in (self._tickets, self._shadows):
            tickets.forget(model=key)
        self._answers.forget(model=model, version=number)
        self._answer_seconds.forget(model=model, version=number)


class MethodMetrics:
    """What is counted about the calls of one method."""

    def __init__(self, name: str, in_flight: dict[str, int], seconds: Histograms, calls: Tallies) -> None:
        self._name = name
        self._in_flight = in_flight
        self._seconds = seconds
        self._calls = calls
        in_flight.setdefault(name, 0)
        seconds.begin(name)
        calls.begin(name, "OK", "")

    def started(self) -> None:
        """A call was taken up."""
        self._in_flight[self._name] += 1

    def ended(self, code: str, reason: str, seconds: float | None) -> None:
        """A call ended. seconds: None for a stream, whose length is the caller's choice."""
        self._in_flight[self._name] -= 1
        self._calls.add(self._name, code, reason)
        if seconds is not None:
            self._seconds.observe(seconds, self._name)


class _Live:
    """Gauges whose value is asked for at the scrape, so that nothing is kept up to date in between."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        """No names are fixed beforehand: registering must not ask for a snapshot."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        calls = GaugeMetricFamily("opsin_calls_in_flight", "Calls being served now.", labels=["method"])
        for method, count in self._metrics.in_flight():
            calls.add_metric([method], count)
        yield calls
        now = self._metrics.snapshot()
        labels = ["model", "version"]
        queued = GaugeMetricFamily("opsin_queued", "Inputs waiting for the device.", labels=labels)
        oldest = GaugeMetricFamily(
            "opsin_oldest_wait_seconds", "How long the oldest of them has waited.", labels=labels
        )
        busy = GaugeMetricFamily(
            "opsin_model_busy_share", "Share of its lanes' time that a model took lately.", labels=labels
        )
        weight = GaugeMetricFamily(
            "opsin_model_weight", "Traffic weight among the versions of a name.", labels=labels
        )
        serving = GaugeMetricFamily(
            "opsin_model_serving", "1 while new calls may come to a version.", labels=labels
        )
        learnt, spread = _profiles(now)
        for model in now.models:
            key = [model.model, str(model.version)]
            weight.add_metric(key, model.weight)
            serving.add_metric(key, float(model.serving))
            queued.add_metric(key, model.queued)
            oldest.add_metric(key, model.oldest_wait)
            busy.add_metric(key, model.busy_share)
        devices = GaugeMetricFamily(
            "opsin_device_busy_share",
            "Share of a device's lane time spent running batches.",
            labels=["device"],
        )
        for name, share in now.devices:
            devices.add_metric([name], share)
        yield from (queued, oldest, busy, weight, serving, learnt, spread, devices)
        yield GaugeMetricFamily("opsin_decoded_bytes", "Decoded pixels held now.", value=now.decoded_bytes)
        yield GaugeMetricFamily("opsin_streams", "Live streams.", value=now.streams)


def _profiles(now: Snapshot) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    """Median and spread of every batch size that is known of every version."""
    labels = ["model", "version", "batch_size"]
    learnt = GaugeMetricFamily(
        "opsin_profile_seconds", "Learnt run time of a batch of this size: the median.", labels=labels
    )
    spread = GaugeMetricFamily(
        "opsin_profile_spread_seconds", "Its uncertainty: the 90th percentile less the median.", labels=labels
    )
    for model in now.models:
        for size, seconds, apart in model.profile:
            key = [model.model, str(model.version), str(size)]
            learnt.add_metric(key, seconds)
            spread.add_metric(key, apart)
    return learnt, spread
