"""The facts of the machine that a measurement belongs to."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine_facts() -> dict[str, Any]:
    """JSON-able: kernel, processor, cores, memory in GiB, Python, the load before the start."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_bytes("MemTotal") / 1024**3, 1),
        "python": platform.python_version(),
        "receive_buffer_limit_bytes": int(Path("/proc/sys/net/core/rmem_max").read_text()),
        "load_before": round(os.getloadavg()[0], 2),
    }


def available_memory_bytes() -> int:
    """What can be used before the machine runs short, by the kernel's estimate."""
    return _memory_bytes("MemAvailable")


def _memory_bytes(key: str) -> int:
    return 1024 * int(_field("/proc/meminfo", key).split()[0])


def _field(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "0 unknown"
