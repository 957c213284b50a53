"""What this machine is, as far as it decides how to run a network. Reads the machine; decides nothing."""

import importlib.util
import os
import platform
from pathlib import Path

import torch

from opsin_detectors.execution.plan import Hardware

__all__ = ["cpu_flags", "cpu_name", "here", "sums_in_32_bits"]

_NATIVE_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags in Linux's list; the last is ARM's. oneDNN computes bfloat16 on older processors too, slower than
float32."""
_SUMS_IN_32_BITS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_NAMES = (
    *("vendor_id", "cpu family", "model", "model name"),
    *("CPU implementer", "CPU variant", "CPU part"),  # ARM's, which has no others
)
_COMPUTES = ("avx", "amx", "fma", "f16c", "sse4", "asimd", "sve", "sme", "i8mm", "bf16")
"""How the flags begin that say what it computes with: virtual machines of one name have different ones."""
_OTHERS = ("openvino", "onnxruntime")


def here(device: str) -> Hardware:
    """The device that a model is to run on."""
    installed = frozenset(name for name in _OTHERS if importlib.util.find_spec(name) is not None)
    if device == "cpu":
        cpuinfo = _cpuinfo()
        bf16 = bool(cpu_flags(cpuinfo) & _NATIVE_BF16)
        return Hardware("cpu", cpu_name(cpuinfo), bf16=bf16, installed=installed, cores=_cores())
    properties = torch.cuda.get_device_properties(torch.device(device))
    # Tensor cores take float16 from compute capability 7.0 on, bfloat16 from 8.0.
    return Hardware(device, properties.name, bf16=properties.major >= 8, fp16=properties.major >= 7)


def sums_in_32_bits() -> bool:
    """Whether the processor adds products of 8 bits in 32: older ones of x86 do so in 16, and overflow."""
    return bool(cpu_flags(_cpuinfo()) & _SUMS_IN_32_BITS)


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """What the processor can do, as Linux tells it; nothing where it does not."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cpu_name(cpuinfo: str) -> str:
    """The processor's model, and what else tells two of one name apart: what it computes with."""
    facts = dict(line.partition(":")[::2] for line in cpuinfo.splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in facts.items()}
    known = [names[key] for key in _NAMES if key in names] or [platform.processor() or platform.machine()]
    return " ".join([*known, *sorted(flag for flag in cpu_flags(cpuinfo) if flag.startswith(_COMPUTES))])


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
