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
from moco.runtime import Runtime, bf16_gain, choose_device, choose_precision, keep_freed_memory

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
def test_bf16_is_for_processors_with_units_for_it(
    flags: set[str], precision: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moco.runtime.bf16_gain", lambda: 1.7)
    chosen, reason = choose_precision("auto", CPU, flags)
    assert chosen == precision
    assert why in reason


def test_units_that_do_not_pay_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moco.runtime.bf16_gain", lambda: 0.5)
    assert choose_precision("auto", CPU, {"avx512_bf16"}) == (
        "float32",
        "the processor has avx512_bf16, but a convolution takes 2.0 times as long in bf16",
    )


def test_the_gain_is_a_measured_ratio() -> None:
    assert 0.001 < bf16_gain() < 100


def test_what_is_asked_for_is_taken() -> None:
    assert choose_precision("float32", CPU, {"amx_bf16"}) == ("float32", "as asked")
    assert choose_precision("bf16", CPU, set()) == ("bf16", "as asked")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"runtime\.device"):
        choose_device(name)


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
