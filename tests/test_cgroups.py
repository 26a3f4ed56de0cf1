"""Limits of containers and jobs, read from trees laid out as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from moco import cgroups, environment

GIB = 1 << 30


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_version_2_in_a_container(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/cpu.max": "150000 100000",
            "sys/fs/cgroup/memory.max": str(4 * GIB),
            "sys/fs/cgroup/memory.current": str(3 * GIB),
            "sys/fs/cgroup/memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file 5",
        },
    )
    assert cgroups.cpu_quota(root) == 1.5
    assert cgroups.memory_left_bytes(root) == 2 * GIB


def test_version_2_of_a_job_counts_the_tightest_of_all_groups_above(tmp_path: Path) -> None:
    job = "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7"
    root = lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0",
            f"{job}/cpu.max": "400000 100000",
            f"{job}/step_0/cpu.max": "max 100000",
            f"{job}/step_0/user/cpu.max": "200000 100000",
            f"{job}/memory.max": str(8 * GIB),
            f"{job}/memory.current": str(GIB),
            f"{job}/step_0/memory.max": "max",
        },
    )
    assert cgroups.cpu_quota(root) == 2
    assert cgroups.memory_left_bytes(root) == 7 * GIB


def test_version_1(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "300000",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/docker/x/memory.stat": f"total_inactive_file {GIB // 2}",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert cgroups.cpu_quota(root) == 3
    assert cgroups.memory_left_bytes(root) == GIB + GIB // 2


def test_no_limit_and_no_groups_at_all(tmp_path: Path) -> None:
    root = lay(tmp_path / "free", {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"})
    assert cgroups.cpu_quota(root) in (None, float("inf"))
    assert cgroups.memory_left_bytes(root) is None
    assert cgroups.cpu_quota(tmp_path / "elsewhere") is None


def test_the_process_takes_the_least_of_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: 2.5)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert environment.cores() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert environment.cores() == 2
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: None)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert environment.cores() == 16
    monkeypatch.setattr(cgroups, "memory_left_bytes", lambda: 12345)
    assert environment.memory_available_bytes() == 12345
