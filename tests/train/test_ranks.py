"""Several processes are one: the same step, whoever has which rows of the batch. Real ones, over gloo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco import MoCo
from moco.config import OptimizerConfig, RuntimeConfig
from moco.data.sampler import Batch
from moco.errors import TrainingFailed, UserError
from moco.launch import launch
from moco.ranks import ALONE, Ranks, found
from moco.runtime import Runtime
from moco.train.optimizer import build_optimizer
from moco.train.step import MoCoStep, StepStats
from moco.views.make import TrainingViews
from moco.views.pipelines import Crops, Pipeline
from moco.views.ragged import Ragged

STEPS, BATCH, SIZE, SEED = 6, 12, 12, 7
OPTIMIZER = OptimizerConfig(lr=0.2, momentum=0.9, weight_decay=1e-3)
HERE = "tests.train.test_ranks"


def network(kind: str) -> nn.Module:
    norm = nn.GroupNorm(2, 6) if kind == "groupnorm" else nn.BatchNorm2d(6)
    layers = [nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.3)) if kind == "dropout" else nn.Sequential(*layers)


def pictures() -> Ragged:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 40 * 20 * 20 * 3, np.uint8))
    size = np.full(40, 20, np.int32)
    return Ragged(pixels, np.arange(40) * 20 * 20 * 3, size, size)


def trained(
    kind: str,
    splits: int,
    symmetric: bool,
    shuffle: bool = True,
    accumulate: int = 1,
    optimizer: str = "sgd",
    ranks: Ranks = ALONE,
    small: int = 0,
) -> tuple[MoCo, list[StepStats]]:
    """Some steps of a small model, on views of noise, from the views to the queue."""
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=1), ranks=ranks)
    torch.manual_seed(1)
    model = MoCo(network(kind), 8, 48, momentum=0.9, temperature=0.2, mlp=True, bn_splits=splits, mask_own=True)
    crops = Crops(Pipeline(SIZE), small=Pipeline(SIZE // 2, scale=(0.05, 0.2)), small_crops=small)
    views = TrainingViews(pictures(), crops, SEED, runtime.workers, ranks, splits > 1 and shuffle, symmetric)
    rule = replace(OPTIMIZER, name=optimizer)
    moves = build_optimizer(model, rule, runtime.workers, runtime)
    shown = torch.arange(40)
    step = MoCoStep(
        model, moves, runtime, lambda loss: None, SEED, symmetric, shown, None, shuffle, accumulate, small=small
    )
    model.train()
    batches = [Batch((np.arange(BATCH) + 5 * n) % 40, 0, n) for n in range(STEPS)]
    return model, [step(views(batch), batch) for batch in batches]


TWO = {  # cases of two processes; the first seven are one process to the bit
    **{
        f"{'symmetric' if symmetric else 'one loss'}, {'shuffled' if shuffle else 'in place'}": {
            "kind": "batchnorm", "splits": 2, "symmetric": symmetric, "shuffle": shuffle,
        }
        for symmetric in (False, True)
        for shuffle in (False, True)
    },
    "muon": {"kind": "batchnorm", "splits": 2, "symmetric": True, "optimizer": "muon"},
    "small crops": {"kind": "batchnorm", "splits": 2, "symmetric": True, "small": 3},
    "small crops, one loss": {"kind": "batchnorm", "splits": 2, "symmetric": False, "small": 1},
    "two parts each": {"kind": "batchnorm", "splits": 4, "symmetric": True},
    "dropout": {"kind": "dropout", "splits": 2, "symmetric": True},
}  # fmt: skip
THREE = {
    "without statistics of the batch": {"kind": "groupnorm", "splits": 1, "symmetric": True},
    "one statistic over all of it": {"kind": "batchnorm", "splits": 1, "symmetric": True},
    "a part each": {"kind": "batchnorm", "splits": 3, "symmetric": True},
}
Found = dict[str, list[dict[str, Any]]]  # by case, what each process ended with


def job(folder: str, cases: dict[str, dict[str, Any]]) -> None:
    """What each process of the tests does."""
    ranks, states = found(), {}
    for name, options in cases.items():
        model, told = trained(**options, ranks=ranks)
        seen = [torch.stack([*vars(stats).values()]) for stats in told]
        states[name] = {"model": model.state_dict(), "told": seen}
    torch.save(states, Path(folder) / f"{ranks.rank}.pt")


def of_processes(folder: Path, count: int, cases: dict[str, dict[str, Any]]) -> Found:
    launch(count, f"{HERE}:job", {"folder": str(folder), "cases": cases}, "")
    each = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]
    return {name: [states[name] for states in each] for name in cases}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return of_processes(tmp_path_factory.mktemp("two"), 2, TWO)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return of_processes(tmp_path_factory.mktemp("three"), 3, THREE)


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("name", list(TWO)[:7])
def test_two_processes_of_a_part_each_are_one_process_of_two_parts_to_the_bit(two: Found, name: str) -> None:
    model, told = trained(**TWO[name])  # type: ignore[arg-type]
    one, other = two[name]
    assert differing(one["model"], other["model"]) == []
    assert differing(model.state_dict(), one["model"]) == []
    assert all(torch.equal(torch.stack([*vars(a).values()]), b) for a, b in zip(told, one["told"]))


@pytest.mark.parametrize("name", [*list(TWO)[7:], *THREE])
def test_any_number_of_processes_is_one_to_rounding(two: Found, three: Found, name: str) -> None:
    """Weights, momentum encoder, queue, running statistics and what was told."""
    model, told = trained(**{**TWO, **THREE}[name])  # type: ignore[arg-type]
    one, *others = {**two, **three}[name]
    assert [differing(one["model"], other["model"]) for other in others] == [[]] * len(others)
    for part, tensor in model.state_dict().items():
        torch.testing.assert_close(one["model"][part], tensor, rtol=1e-4, atol=2e-5, msg=part)
    for a, b in zip(told, one["told"]):
        *means, negative = torch.stack([*vars(a).values()])
        torch.testing.assert_close(torch.stack(means), b[:3], rtol=1e-4, atol=1e-5)
        # A mean over parts of means over what is not masked, and the parts of a batch mask unevenly.
        torch.testing.assert_close(negative, b[3], rtol=0, atol=2e-3)


@pytest.mark.parametrize(("kind", "splits"), [("batchnorm", 4), ("groupnorm", 1)])
def test_pieces_one_after_the_other_are_the_whole_batch(kind: str, splits: int) -> None:
    """`train.accumulate`: less memory, the same result."""
    whole, told = trained(kind, splits, True)
    pieces, also = trained(kind, splits, True, accumulate=2)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(pieces.state_dict()[name], tensor, rtol=1e-4, atol=2e-5, msg=name)
    assert [s.loss.item() for s in told] == pytest.approx([s.loss.item() for s in also], rel=1e-4)


def test_pieces_need_batchnorm_parts() -> None:
    with pytest.raises(UserError, match=r"give --model\.bn_splits 2, or a multiple"):
        trained("batchnorm", 1, False, accumulate=2)
    with pytest.raises(UserError, match=r"give --model\.bn_splits 2, or a multiple"):
        trained("batchnorm", 3, False, accumulate=2)


def odd(kind: str) -> None:
    """A job that goes wrong in rank 1."""
    ranks = found()
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=1), ranks=ranks)
    if ranks.rank == 1:
        if kind == "killed":
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError(f"{kind} it is")
    runtime.barrier()


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("killed", TrainingFailed, "rank 1 of 2 was ended by SIGKILL, and the run with it; go on"),
        ("user", UserError, "^user it is"),
    ],
)
def test_one_that_ends_ends_all_and_is_named(kind: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        launch(2, f"{HERE}:odd", {"kind": kind}, "go on")


def test_who_said_what_of_processes() -> None:
    torchrun = {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }  # fmt: skip
    assert found(torchrun) == Ranks(5, 8, 1, 4, "torchrun") and found(torchrun).nodes == 2
    srun = {
        "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_STEP_NUM_NODES": "2",
    }  # fmt: skip
    assert found(srun) == Ranks(3, 4, 1, 2, "srun")
    assert found({**srun, "SLURM_STEP_NUM_TASKS": "1"}) == ALONE
    assert found({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == ALONE  # a job's batch script, without srun
    assert found({}) == ALONE and ALONE.is_main
    with pytest.raises(UserError, match="as many on each machine"):
        found({**torchrun, "LOCAL_WORLD_SIZE": "3"})


def test_rows_of_a_batch() -> None:
    assert Ranks(1, 3).rows(12) == slice(4, 8)
    with pytest.raises(UserError, match="10 images a step don't divide over 3 processes"):
        Ranks(1, 3).rows(10)
