"""Device and precision: what is chosen, why, and what is refused."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from moco.config import RuntimeConfig
from moco.errors import UserError
from moco.machine import Precision, choose_device, choose_precision, default_threads, keep_freed_memory
from moco.ranks import Ranks
from moco.runtime import Runtime

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "precision", "why"),
    [
        ({"avx2"}, "float32", "neither"),
        ({"avx2", "avx512f"}, "float32", "neither"),
        ({"avx2", "avx512f", "avx512_bf16"}, "bf16", "avx512_bf16"),
        ({"avx2", "avx512_bf16", "amx_bf16", "amx_tile"}, "bf16", "amx_bf16"),
        (set(), "float32", "neither"),
    ],
)
def test_bf16_is_for_processors_with_units_for_it(flags: set[str], precision: str, why: str) -> None:
    chosen, reason = choose_precision("auto", CPU, flags)
    assert chosen == precision
    assert why in reason


def test_no_clock_has_a_say_in_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine once made a third of all starts choose the other precision."""
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("the precision was measured"))
    assert {choose_precision("auto", CPU, {"avx512_bf16"}) for _ in range(5)} == {
        ("bf16", "the processor has avx512_bf16")
    }


def test_a_run_keeps_the_precision_that_it_began_with() -> None:
    began = Precision("bf16", "the processor has amx_bf16")
    kept = Runtime(RuntimeConfig("cpu"), began)
    assert (kept.precision, kept.reason) == began
    assert Runtime(RuntimeConfig("cpu", "float32"), began).precision == "float32"  # asked for in so many words


def test_slurms_tasks_are_no_business_of_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("SLURM_JOB_ID", "7"),
        ("SLURM_JOB_NAME", "moco"),
        ("SLURM_NTASKS", "4"),
        ("SLURM_PROCID", "2"),
    ):
        monkeypatch.setenv(name, value)
    runtime = Runtime(RuntimeConfig("cpu", "float32"))
    assert (runtime.ranks.rank, runtime.ranks.world, runtime.is_main) == (0, 1, True)
    assert runtime.any(5) == 5 and runtime.told("a") == "a" and runtime.differing(3) == []
    assert runtime.gather(torch.arange(3)).tolist() == [0, 1, 2]


def test_threads_follow_the_containers_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("moco.machine.cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Runtime(RuntimeConfig("cpu", "float32")).threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Runtime(RuntimeConfig("cpu", "float32")).threads == 1
    assert Runtime(RuntimeConfig("cpu", "float32", threads=2)).threads == 2
    torch.set_num_threads(before)


def test_processes_share_the_cores_unless_each_was_given_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moco.machine.cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    four = {by: Ranks(world=4, local_world=4, by=by) for by in ("torchrun", "srun")}
    assert {by: default_threads(ranks) for by, ranks in four.items()} == {"torchrun": 2, "srun": 2}
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")  # eight each
    assert {by: default_threads(ranks) for by, ranks in four.items()} == {"torchrun": 2, "srun": 8}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # a process's, as everywhere
    assert {by: default_threads(ranks) for by, ranks in four.items()} == {"torchrun": 3, "srun": 3}


def test_what_is_asked_for_is_taken() -> None:
    assert choose_precision("float32", CPU, {"amx_bf16"}) == ("float32", "as asked")
    assert choose_precision("bf16", CPU, set()) == ("bf16", "as asked")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "cpu:x", "mps"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"runtime\.device"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
def test_several_processes_on_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="no CUDA device was found here"):
        choose_device("cuda", Ranks(world=2, local_world=2))


def test_autocast_follows_the_precision() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.rand(2, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        with Runtime(RuntimeConfig("cpu", precision)).autocast():  # type: ignore[arg-type]
            assert layer(x).dtype == dtype


@pytest.mark.slow
def test_compiled_modules_keep_their_state_dict_and_their_output() -> None:
    runtime = Runtime(RuntimeConfig("cpu", "float32", compile="default"))
    layer, x = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), torch.rand(2, 4)
    names, expected = list(layer.state_dict()), layer(x)
    runtime.compile(layer)
    runtime.begin_step()
    torch.testing.assert_close(layer(x), expected)
    assert list(layer.state_dict()) == names


def test_cuda_graphs_are_refused_on_the_cpu() -> None:
    with pytest.raises(UserError, match="give default"):
        Runtime(RuntimeConfig("cpu", "float32", compile="reduce-overhead"))


def test_the_line_says_what_and_why() -> None:
    assert "float32 (as asked)" in Runtime(RuntimeConfig("cpu", "float32")).line()


def test_freed_memory_is_kept_where_malloc_is_glibcs() -> None:
    assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")


@pytest.mark.slow
def test_without_a_compiler_the_encoders_stay_as_they_are_and_a_line_says_so() -> None:
    """A fresh process, whose compiler isn't there; torch.compile itself would fail at the first step."""
    code = (
        "import torch; from moco.config import RuntimeConfig; from moco.runtime import Runtime\n"
        "runtime = Runtime(RuntimeConfig('cpu', 'float32', compile='default'))\n"
        "layer, x = torch.nn.Linear(4, 3), torch.rand(2, 4)\n"
        "expected = layer(x)\n"
        "runtime.compile(layer)\n"
        "assert torch.equal(layer(x), expected)\n"
    )
    environment = {**os.environ, "CXX": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "uncompiled" in line]
    assert len(lines) == 1
    assert "No working C++ compiler" in lines[0]


def test_a_gpu_is_asked_for_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards, an old one first: the current device is not the one that was chosen."""
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: ((7, 5), (8, 0))[device.index])
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args, **options: False)
    assert choose_precision("auto", torch.device("cuda", 0)) == ("float32", "the GPU has no bf16 units")
    assert choose_precision("auto", torch.device("cuda", 1)) == ("bf16", "the GPU has bf16 units")
