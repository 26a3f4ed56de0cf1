"""Muon: timm's, cheaper."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from timm.optim import muon as timm_muon
from torch import Tensor, nn

from moco.config import OptimizerConfig
from moco.ranks import ALONE
from moco.threads import Threads
from moco.train import muon
from moco.train.muon import ROUNDS, Muon, is_matrix, orthogonal
from moco.train.optimizer import build_optimizer, lie_alike, set_lr


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(32, 6))
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def steps(made: nn.Module, optimizer: torch.optim.Optimizer, count: int = 4, first: int = 0) -> list[Tensor]:
    """What the parameters are after `count` steps by made-up gradients."""
    for number in range(first, first + count):
        torch.manual_seed(number)
        for p in made.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    return [p.detach().clone() for p in made.parameters()]


@pytest.mark.parametrize("shape", [(2, 12, 40), (1, 40, 12), (3, 16, 16)])
def test_the_rounds_are_those_of_newton_and_schulz(shape: tuple[int, ...]) -> None:
    """Against timm's, which multiplies the whole matrix each time."""
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    theirs = timm_muon.zeropower_via_newtonschulz(matrices, 5, ROUNDS, dtype=torch.float32)
    torch.testing.assert_close(orthogonal(matrices, ROUNDS), theirs, rtol=1e-3, atol=1e-4)


def test_singular_values_go_near_to_one() -> None:
    torch.manual_seed(0)
    made = torch.linalg.svdvals(orthogonal(torch.randn(1, 30, 90), ROUNDS)[0])
    assert made.min() > 0.6 and made.max() < 1.3


def test_nothing_to_orthogonalise_stays_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 4, 9), ROUNDS), torch.zeros(1, 4, 9))


def test_it_steps_as_timms_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm computes in bf16; given float32 both go the same way, matrices, norms and biases."""
    plain = timm_muon.zeropower_via_newtonschulz
    monkeypatch.setattr(
        timm_muon, "zeropower_via_newtonschulz", lambda *a, **k: plain(*a, **{**k, "dtype": torch.float32})
    )
    config = OptimizerConfig("muon", lr=0.02, momentum=0.95, weight_decay=0.05)
    ours, theirs = network(), network()
    mine = steps(ours, build_optimizer(ours, config))
    made = steps(theirs, timm_muon.Muon(theirs.parameters(), lr=0.02, momentum=0.95, weight_decay=0.05))
    for a, b in zip(mine, made):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_hooks_are_called_once_whoever_else_made_timms() -> None:
    weights = [nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(4))]
    timm_muon.Muon([torch.zeros(2, 2, requires_grad=True)])  # torch wraps the class's step
    ours = Muon([{"params": weights[:1], "use_fallback": False}, {"params": weights[1:], "use_fallback": True}], lr=0.1)
    called: list[str] = []
    ours.register_step_pre_hook(lambda *_: called.append("before"))
    ours.register_step_post_hook(lambda *_: called.append("after"))
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    ours.step()
    assert called == ["before", "after"]
    assert all((weight != 1).all() for weight in weights)


def test_the_same_bits_for_any_number_of_threads() -> None:
    config = OptimizerConfig("muon", lr=0.02, momentum=0.95, weight_decay=0.05)
    one, three = network(), network()
    few = steps(one, build_optimizer(one, config, Threads(1)))
    many = steps(three, build_optimizer(three, config, Threads(3)))
    assert all(torch.equal(a, b) for a, b in zip(few, many))


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw", "muon"])
def test_each_optimizer_goes_on_from_its_state(name: str) -> None:
    config = OptimizerConfig(name, lr=0.01, vector_lr=0.5, weight_decay=0.01, decay_vectors=False)  # type: ignore[arg-type]
    whole, first, second = network(), network(), network()
    expected = steps(whole, build_optimizer(whole, config), 2)
    optimizer = build_optimizer(first, config)
    steps(first, optimizer, 1)
    again = build_optimizer(second, config)
    second.load_state_dict(first.state_dict())
    again.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(expected, steps(second, again, 1, first=1)))


def test_what_isnt_a_matrix_has_a_rate_of_its_own_and_no_decay() -> None:
    made = network()
    optimizer = build_optimizer(made, OptimizerConfig("adamw", lr=1.0, vector_lr=0.1, decay_vectors=False))
    set_lr(optimizer, 2.0)
    matrices, vectors = optimizer.param_groups
    assert (matrices["lr"], vectors["lr"]) == (2.0, 0.2)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (1e-4, 0.0)
    assert all(p.ndim > 1 for p in matrices["params"]) and all(p.ndim == 1 for p in vectors["params"])


def test_the_papers_optimizer_is_one_group() -> None:
    assert len(build_optimizer(network(), OptimizerConfig()).param_groups) == 1


def test_which_parameters_are_matrices() -> None:
    shapes = {(8, 4): True, (8, 4, 3, 3): True, (8, 1, 3, 3): False, (1, 16, 8): False, (8,): False, (): False}
    assert {shape: is_matrix(torch.zeros(shape)) for shape in shapes} == shapes


def test_what_a_file_laid_otherwise_meets_its_own_weights() -> None:
    """Fused steps go through momentum and channels-last weights as they lie in memory."""
    config = OptimizerConfig(lr=0.1)
    kept, read = network(), network()
    first, second = build_optimizer(kept, config), build_optimizer(read, config)
    steps(kept, first, 1)
    read.load_state_dict(kept.state_dict())
    state = first.state_dict()
    rows = {n: {k: v.contiguous().clone() for k, v in entry.items()} for n, entry in state["state"].items()}
    second.load_state_dict({**state, "state": rows})
    lie_alike(second)
    assert all(torch.equal(a, b) for a, b in zip(steps(kept, first, 1, first=1), steps(read, second, 1, first=1)))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")],
        ),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(64, 576), (512, 512), (300, 40)])
def test_no_singular_value_becomes_large(shape: tuple[int, int], decay: float, device: str) -> None:
    """Gradients' singular values fall over many orders of magnitude; rounded to bf16 some came out as 10^7."""
    rank = min(shape)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(side, rank, generator=generator))[0] for side in shape)
    matrix = (left * torch.arange(1, rank + 1).float() ** -decay) @ right.T
    made = orthogonal(matrix[None].to(device), ROUNDS)[0].cpu()
    assert torch.linalg.svdvals(made).max() < 1.3
    assert torch.linalg.svdvals(orthogonal(matrix[None].bfloat16().to(device), ROUNDS)[0].cpu()).max() < 1.3


@pytest.mark.parametrize("shape", [(2, 300, 700), (1, 700, 300), (1, 129, 129)])
def test_half_of_a_symmetric_product_is_the_whole(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """In panels, the last one narrower, and in one."""
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    halves = orthogonal(matrices, ROUNDS)
    monkeypatch.setattr(muon, "BLOCK", 1024)
    torch.testing.assert_close(halves, orthogonal(matrices, ROUNDS), rtol=1e-3, atol=1e-4)


class _InBf16:
    precision = "bf16"
    ranks = ALONE

    def spread(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        assert set(owners) == {0}


def test_in_bf16_the_last_product_alone_is_rounded() -> None:
    """One per cent of the step, however unlike the singular values are; masters and momentum stay float32."""
    config = OptimizerConfig("muon", lr=0.1, momentum=0.95)
    plain, rounded = network(), network()
    before = [p.detach().clone() for p in plain.parameters()]
    exact = steps(plain, build_optimizer(plain, config), 1)
    optimizer = build_optimizer(rounded, config, together=_InBf16())
    found = steps(rounded, optimizer, 1)
    for start, right, made in zip(before, exact, found):
        if is_matrix(right):
            assert 0 < (made - right).norm() < 0.02 * (right - start).norm()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    assert kept and all(value.dtype == torch.float32 for value in kept)
    spread = torch.diag(torch.logspace(0, -6, 64))[None]
    assert torch.linalg.svdvals(orthogonal(spread, ROUNDS, torch.bfloat16).float()[0]).max() < 1.3
