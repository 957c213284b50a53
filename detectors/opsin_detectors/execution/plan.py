"""Which ways there are to run a network on given hardware, and which of the measured ones to take. Pure.

A way is a *plan*: runtime and number type. The first of the candidates is always the baseline, the network as
its author wrote it: nothing is chosen that is not faster than it by a margin that noise does not reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

__all__ = [
    "BASELINE",
    "DTYPES",
    "GAIN",
    "NEVER_WORSE",
    "RUNTIMES",
    "Hardware",
    "Plan",
    "Times",
    "candidates",
    "faster",
    "ratio",
    "told",
]

RUNTIMES = ("eager", "channels_last", "compile", "cuda_graphs", "openvino", "onnxruntime")
"""How a network can be run, beside `auto`. All but the last two are torch."""
DTYPES = ("float32", "bfloat16", "float16", "int8")

GAIN = 0.95
"""A way must take less than this share of the baseline's time, over all sizes measured."""
NEVER_WORSE = 1.05
"""And no more than this share of it at any one size."""

Times = Mapping[int, float]
"""Batch size -> median seconds of a run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run a network."""

    runtime: str
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.runtime} {self.dtype}"


BASELINE = Plan("eager")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What decides between ways to run a network.

    name: of the processor or the GPU. bf16, fp16: whether it computes in them natively. installed: runtimes
    that can be imported, of `openvino` and `onnxruntime`. cores: what this process may use.
    """

    device: str = "cpu"
    name: str = ""
    bf16: bool = False
    fp16: bool = False
    installed: frozenset[str] = frozenset()
    cores: int = 1

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"


def candidates(hardware: Hardware, *, exportable: bool) -> list[Plan]:
    """What is worth measuring, the baseline first."""
    return _on_cpu(hardware, exportable) if hardware.on_cpu else _on_gpu(hardware)


def _on_cpu(hardware: Hardware, exportable: bool) -> list[Plan]:
    found = [BASELINE, Plan("channels_last")]
    if hardware.bf16:
        found.append(Plan("channels_last", "bfloat16"))
    if exportable and "openvino" in hardware.installed:
        found.append(Plan("openvino"))
        if hardware.bf16:
            found.append(Plan("openvino", "bfloat16"))
    if exportable and "onnxruntime" in hardware.installed:
        found.append(Plan("onnxruntime"))
    return found


def _on_gpu(hardware: Hardware) -> list[Plan]:
    types = ["float32"]
    if hardware.bf16 or hardware.fp16:
        types.append("bfloat16" if hardware.bf16 else "float16")
    rest = [Plan(r, t) for t in types for r in ("channels_last", "cuda_graphs", "compile")]
    return [BASELINE, *rest]


def told(runtime: str, dtype: str) -> Plan | None:
    """The plan that explicit settings name; None where the choice is open: both are `auto`.

    A number type alone is run by torch, but for int8; a runtime alone in float32.
    """
    if runtime == "auto" and dtype == "auto":
        return None
    if dtype == "int8":
        return Plan("openvino" if runtime == "auto" else runtime, dtype)
    return Plan("channels_last" if runtime == "auto" else runtime, "float32" if dtype == "auto" else dtype)


def ratio(times: Times, baseline: Times) -> float:
    """The mean share of the baseline's time, over the sizes that both were measured at."""
    return fmean(times[size] / baseline[size] for size in sorted(times.keys() & baseline.keys()))


def _never_worse(times: Times, baseline: Times) -> bool:
    return all(times[size] <= NEVER_WORSE * baseline[size] for size in times.keys() & baseline.keys())


def faster(measured: Mapping[Plan, Times], gain: float = GAIN) -> Sequence[Plan]:
    """The plans that beat the baseline, fastest first; without it when there is none.

    measured: the baseline among them.
    """
    baseline = measured[BASELINE]
    found = {
        plan: ratio(times, baseline)
        for plan, times in measured.items()
        if plan != BASELINE and _never_worse(times, baseline)
    }
    return sorted((plan for plan, share in found.items() if share <= gain), key=lambda plan: found[plan])
