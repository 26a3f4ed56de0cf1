"""What a container or a job may use: the limits of Linux's control groups, version 2 and 1.

A process sees its own group at the end of the path in `/proc/self/cgroup`; every group above it limits it too. In a
container with a name space of its own that path is `/`, and on a cluster node (Slurm without containers) it is deep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors' worth of time a second that the groups allow; None without a limit."""
    shares = []
    for folder in _groups(root, "cpu"):
        quota, period = _cpu_v2(folder) or _cpu_v1(folder) or (0, 0)
        if quota > 0 and period > 0:
            shares.append(quota / period)
    return min(shares, default=None)


def memory_left_bytes(root: Path = _ROOT) -> int | None:
    """Bytes that may still be taken before a group's limit, its page cache counted as free; None without a limit."""
    left = []
    for folder in _groups(root, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        if limit is not None and limit < 2**60:  # version 1 writes "no limit" as a huge number
            left.append(max(limit - used + _file_cache(folder), 0))
    return min(left, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's group and of all above it, where `controller` keeps its files."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        names = (controllers, controller) if controllers else ("", "unified")  # the second: v1 with v2 beside it
        mount = next((m for name in names if (m := root / "sys/fs/cgroup" / name).is_dir()), root)
        inside = PurePosixPath(path.lstrip("/"))
        yield from (mount / part for part in (inside, *inside.parents))


def _cpu_v2(folder: Path) -> tuple[float, float] | None:
    words = _text(folder / "cpu.max").split()
    if len(words) != 2:
        return None
    return (math.inf if words[0] == "max" else float(words[0])), float(words[1])


def _cpu_v1(folder: Path) -> tuple[float, float] | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return None if quota is None or period is None else (quota, period)


def _file_cache(folder: Path) -> int:
    """Page cache that the kernel gives back before it refuses memory."""
    rows = (line.split() for line in _text(folder / "memory.stat").splitlines())
    values = {row[0]: int(row[1]) for row in rows if len(row) == 2}
    return values.get("inactive_file", values.get("total_inactive_file", 0))


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _text(path: Path) -> str:
    """The file's text, "" where there is none: other systems have no groups, other versions other files."""
    try:
        return path.read_text()
    except OSError:
        return ""
