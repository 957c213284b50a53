"""What a measurement was made on: without it no number means anything."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

__all__ = ["machine"]

PACKAGES = (
    "opsin",
    "torch",
    "transformers",
    "openvino",
    "onnxruntime",
    "nncf",
    "grpcio",
    "protobuf",
    "uvloop",
    "numpy",
    "simplejpeg",
)


def machine() -> dict[str, Any]:
    """JSON-ready: processor, cores, memory, versions, load average and time at the start."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": _system(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        # Above about half a core of others' work, the figures below are about them too.
        "load_before": psutil.getloadavg()[0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _system() -> str:
    # The kernel's number, without what whoever built it calls it.
    release = platform.release().partition("-")[0]
    return f"{platform.system()} {release}, {platform.machine()}, {' '.join(platform.libc_ver())}".rstrip(
        ", "
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in facts.items()}
    flags = [
        flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in names.get("flags", "").split()
    ]
    return f"{names.get('model name', platform.machine())} ({', '.join(flags) or 'no AVX-512'})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
