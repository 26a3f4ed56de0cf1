"""P parts on threads are P devices on one machine: a plain distributed loop ends where they do, to rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco import MoCo
from moco.config import OptimizerConfig, RuntimeConfig
from moco.data.sampler import Batch
from moco.errors import TrainingFailed, UserError
from moco.model.moco import info_nce
from moco.randomness import Purpose, permutation
from moco.runtime import Runtime
from moco.train.guard import FiniteGuard
from moco.train.optimizer import build_optimizer
from moco.train.parts import Parts, part_of
from moco.train.step import MoCoStep, StepStats

STEPS, BATCH, SIZE = 5, 12, 12
IMAGES = np.arange(BATCH)
OPTIMIZER = OptimizerConfig(lr=0.2, momentum=0.9, weight_decay=1e-3)


def network(kind: str = "batchnorm") -> nn.Module:
    norm = nn.GroupNorm(2, 6) if kind == "groupnorm" else nn.BatchNorm2d(6)
    layers = [nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.3)) if kind == "dropout" else nn.Sequential(*layers)


def built(splits: int, kind: str = "batchnorm") -> MoCo:
    torch.manual_seed(1)
    model = MoCo(network(kind), 8, 48, momentum=0.9, temperature=0.2, mlp=True, bn_splits=splits)
    with torch.no_grad():
        for p in model.encoder_k.parameters():  # so that it shows whose they are
            p.add_(0.05 * torch.randn_like(p))
    return model


def views(step: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(100 + step)
    first, second = torch.randn(2, BATCH, 3, SIZE, SIZE) * torch.linspace(0.5, 2, BATCH)[:, None, None, None]
    return first, second


def trained(splits: int, threads: int, symmetric: bool, kind: str = "batchnorm") -> tuple[MoCo, list[StepStats]]:
    model = built(splits, kind)
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=threads))
    step = MoCoStep(model, build_optimizer(model, OPTIMIZER), runtime, lambda loss: None, 7, symmetric)
    return model, [step(views(number), Batch(IMAGES, 0, number)) for number in range(STEPS)]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["batchnorm", "groupnorm", "dropout"])
def test_the_same_bits_for_any_number_of_threads(kind: str, symmetric: bool) -> None:
    """Dropout too: there the parts draw one after the other, each from its own seed."""
    (one, told), *others = (trained(4, threads, symmetric, kind) for threads in (1, 2, 4, 7))
    for other, also in others:
        expected, found = one.state_dict(), other.state_dict()
        assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
        assert [[value.item() for value in vars(s).values()] for s in told] == [
            [value.item() for value in vars(s).values()] for s in also
        ]


def test_in_bf16_too() -> None:
    states = []
    for threads in (1, 4):
        model = built(4)
        runtime = Runtime(RuntimeConfig("cpu", "bf16", threads=threads))
        step = MoCoStep(model, build_optimizer(model, OPTIMIZER), runtime, lambda loss: None, 7, True)
        for number in range(STEPS):
            step(views(number), Batch(IMAGES, 0, number))
        states.append(model.state_dict())
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_parts_are_what_split_batchnorm_is_in_one_piece(symmetric: bool) -> None:
    """On CUDA the batch stays in one piece; the algorithm is the same."""
    parts, told = trained(3, 2, symmetric)
    whole = built(3)
    runtime = Runtime(RuntimeConfig("cpu", "float32"))
    step = MoCoStep(whole, build_optimizer(whole, OPTIMIZER), runtime, lambda loss: None, 7, symmetric)
    step.parts.models = [whole]
    seen = [step(views(number), Batch(IMAGES, 0, number)) for number in range(STEPS)]
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-5, atol=2e-6, msg=name)
    for a, b in zip(told, seen):
        torch.testing.assert_close(torch.stack([*vars(a).values()]), torch.stack([*vars(b).values()]))


def test_as_many_processes_of_a_plain_distributed_loop_end_there_too(tmp_path: Path) -> None:
    count = 2
    model, told = trained(count, 2, symmetric=False)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-m", "tests.train.test_parts", str(tmp_path)]
    processes = [subprocess.Popen([*words, str(rank), str(count)], env=environment) for rank in range(count)]
    assert [process.wait(timeout=200) for process in processes] == [0] * count
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(count)]
    for name, tensor in model.state_dict().items():
        of_ranks = [f["state"][name] for f in found]
        expected = torch.stack(of_ranks).double().mean(0) if "running" in name else of_ranks[0]
        torch.testing.assert_close(tensor, expected.to(tensor.dtype), rtol=1e-5, atol=2e-6, msg=name)
    assert any("running_mean" in name for name in model.state_dict())
    losses = torch.stack([f["losses"] for f in found]).mean(0)
    torch.testing.assert_close(torch.stack([s.loss for s in told]), losses, rtol=1e-5, atol=1e-6)


def distributed(folder: Path, rank: int, world: int) -> None:
    """One process of the usual loop: DistributedDataParallel, keys shuffled over all processes, batch-norm local.

    Its parts of the batch, the shuffle and the first weights are those of the run with parts on threads. The running
    statistics of a device are its own; the run's are their mean at each step, which these are given to go on from.
    """
    from torch import distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    model = built(1)
    encoder_q = DistributedDataParallel(model.encoder_q, broadcast_buffers=False)
    optimizer = torch.optim.SGD(encoder_q.parameters(), OPTIMIZER.lr, OPTIMIZER.momentum, weight_decay=1e-3)
    size, losses = BATCH // world, []
    for step in range(STEPS):
        im_q, im_k = views(step)
        mine = slice(rank * size, (rank + 1) * size)
        with torch.no_grad():
            for k, q in zip(model.encoder_k.parameters(), model.encoder_q.parameters()):
                k.mul_(model.m).add_(q, alpha=1 - model.m)
            order = torch.from_numpy(permutation(BATCH, 7, Purpose.BN_SHUFFLE, step))
            k = nn.functional.normalize(model.encoder_k(im_k[order[mine]]), dim=1)
            gathered = [torch.empty_like(k) for _ in range(world)]
            dist.all_gather(gathered, k)
            keys = torch.cat(gathered)[order.argsort()]
        q = nn.functional.normalize(encoder_q(im_q[mine]), dim=1)
        positive = (q * keys[mine]).sum(1, keepdim=True)
        loss = info_nce(torch.cat([positive, q @ model.queue.T], 1) / model.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.enqueue(keys)
        losses.append(loss.detach())
        if step + 1 < STEPS:  # the last ones stay as they are, for the test to average
            for buffer in [*model.encoder_q.buffers(), *model.encoder_k.buffers()]:
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer.div_(world)
    torch.save({"state": model.state_dict(), "losses": torch.stack(losses)}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_part_has_the_models_parameters_and_queue_and_buffers_of_its_own() -> None:
    model = built(3)
    part = part_of(model)
    assert all(a.data_ptr() == b.data_ptr() and a is not b for a, b in zip(model.parameters(), part.parameters()))
    assert part.queue is model.queue
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(model.encoder_q.buffers(), part.encoder_q.buffers()))
    assert part.bn_splits == 1 and model.bn_splits == 3
    assert list(part.state_dict()) == list(model.state_dict())


def test_parameters_that_were_moved_are_found_again() -> None:
    model = built(2)
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=2))
    parts = Parts(model, runtime)
    model.double().float()
    with torch.no_grad():
        for p in model.encoder_k.parameters():
            p.mul_(2)
    images = views(0)[0]
    order = torch.randperm(BATCH)
    expected = model.keys(images, order)
    torch.testing.assert_close(parts.keys([images], order, 0)[0], expected)


def test_a_bad_loss_in_one_part_leaves_the_weights() -> None:
    model = built(3)
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=2))
    optimizer = build_optimizer(model, OPTIMIZER)
    step = MoCoStep(model, optimizer, runtime, FiniteGuard(optimizer, runtime.device), 7, False)
    before = [p.clone() for p in model.encoder_q.parameters()]
    first, second = views(0)
    first[-1] = float("nan")
    with pytest.raises(TrainingFailed):
        step((first, second), Batch(IMAGES, 0, 0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.encoder_q.parameters()))


def test_an_error_in_a_part_is_the_steps() -> None:
    model = built(3)
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=2))
    step = MoCoStep(model, build_optimizer(model, OPTIMIZER), runtime, lambda loss: None, 7, False)
    with pytest.raises(RuntimeError, match="channels"):
        step((torch.rand(BATCH, 4, 8, 8), torch.rand(BATCH, 4, 8, 8)), Batch(IMAGES, 0, 0))
    with pytest.raises(UserError, match="divide"):
        step((torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)), Batch(IMAGES[:4], 0, 0))


if __name__ == "__main__":
    distributed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
