"""What a run ran on: processor, versions. Stored with every run, printed with every figure."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from moco import cgroups

_PACKAGES = (
    "momentum-contrast",
    "torch",
    "torchvision",
    "timm",
    "lightning-fabric",
    "numpy",
    "numba",
    "pillow",
    "simplejpeg",
)
GIT_S = 10.0  # seconds that git may take
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")


def cpu_info() -> tuple[str, frozenset[str]]:
    """The processor's name and its feature flags as Linux names them; no flags on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    return values.get("model name", platform.machine()), frozenset(values.get("flags", "").split())


def cores() -> int:
    """Processors this process may use: by its affinity, its container's or job's quota, and Slurm's word."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.cpu_quota()
    if quota is not None and math.isfinite(quota):
        allowed = min(allowed, math.ceil(quota))
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit() and int(given) > 0:
        allowed = min(allowed, int(given))
    return max(allowed, 1)


def memory_available_bytes() -> int:
    """Memory that could be had without swapping, page cache included: of the machine, or of the container or job."""
    left = cgroups.memory_left_bytes()
    machine = _machine_memory_available_bytes()
    return machine if left is None else min(machine, left)


def _machine_memory_available_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return 1024 * values["MemAvailable"]


def describe() -> dict[str, Any]:
    """Versions and hardware, as plain values."""
    import torch

    name, flags = cpu_info()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": name,
        "cores": cores(),
        "instruction_sets": [f for f in INSTRUCTION_SETS if f in flags],
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {p: _version(p) for p in _PACKAGES},
        "commit": commit(),
    }


def commit() -> str | None:
    """The git commit of this program's source, with `-dirty` where files differ; None where it is no checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        asked = ["git", "-C", str(folder), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=GIT_S).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a package inside somebody else's repository is not it
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
