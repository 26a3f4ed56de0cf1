"""The cached protocol: the batched heads are plain SGD, the scale is no riddle, nothing held out is trained on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tests.evaluators.conftest import labelled_features
from torch import Tensor, nn

from moco.config import RuntimeConfig
from moco.errors import UserError
from moco.evaluators import linear_cached as module
from moco.evaluators.features import Features
from moco.evaluators.heads import MOMENTUM, Heads, Passes, Standard, Table, train_heads
from moco.evaluators.linear_cached import LEAST_EPOCHS, LEAST_STEPS, best_head, epochs_of
from moco.evaluators.linear_options import CachedOptions
from moco.evaluators.logistic import fit_logistic
from moco.evaluators.proof import Proof, proven
from moco.runtime import Runtime

CLASSES, WIDTH = 4, 24
RUNTIME = Runtime(RuntimeConfig(device="cpu", precision="float32"))
OPTIONS = CachedOptions(epochs=8, batch_size=64)


def mixture(count: int, seed: int, views: int = 1, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gaussian classes: features (views, count, WIDTH) and labels (count,)."""
    centres = 0.5 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    return centres[labels] + noise * torch.randn(views, count, WIDTH, generator=draw), labels


def linear_cached(
    features: Tensor, labels: Tensor, classes: int, options: CachedOptions, runtime: Runtime, watched: Proof
) -> module.Cached:
    return module.linear_cached(labelled_features(features, labels, classes), options, runtime, watched)


def top1(logits: Tensor, labels: Tensor) -> float:
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def plain(features: Tensor, labels: Tensor) -> Table:
    """A table of features as they are."""
    standard = Standard(torch.zeros(features.shape[-1]), torch.ones(features.shape[-1]))
    return Table(Features.of(features), labels, standard, torch.float32)


def proof() -> Proof:
    return Proof(nn.Identity(), "")


def test_every_head_is_sgd_with_its_own_rate_and_decay() -> None:
    features, labels = mixture(96, 0)
    z = features[0]
    lr, decay = torch.tensor([0.1, 0.5, 2.0]), torch.tensor([0.0, 0.1, 0.01])
    heads = Heads(WIDTH, CLASSES, lr, decay)
    plain = [nn.Linear(WIDTH, CLASSES) for _ in lr]
    solvers = []
    for linear, rate, wd in zip(plain, lr.tolist(), decay.tolist()):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        groups = [{"params": [linear.weight], "weight_decay": wd}, {"params": [linear.bias], "weight_decay": 0.0}]
        solvers.append(torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM))
    for factor in (1.0, 0.7, 0.2):
        losses = heads.step(z, labels, factor)
        for g, (linear, solver) in enumerate(zip(plain, solvers)):
            for group in solver.param_groups:
                group["lr"] = lr[g].item() * factor
            loss = F.cross_entropy(linear(z), labels)
            solver.zero_grad()
            loss.backward()
            solver.step()
            torch.testing.assert_close(losses[g], loss.detach(), rtol=1e-5, atol=1e-6)
    for g, linear in enumerate(plain):
        torch.testing.assert_close(heads.weight[..., g].T, linear.weight.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(heads.bias[:, g], linear.bias.detach(), rtol=1e-4, atol=1e-6)


def test_an_epoch_takes_every_row_once_and_the_rate_falls_to_zero() -> None:
    heads = Heads(3, 2, torch.ones(1), torch.zeros(1))
    seen: list[Tensor] = []
    rates: list[float] = []

    def step(z: Tensor, labels: Tensor, rate: float) -> Tensor:
        seen.append(z[:, 0])
        rates.append(rate)
        return torch.zeros(1)

    heads.step = step  # type: ignore[method-assign]
    z, rows = torch.arange(40.0)[:, None].expand(40, 3), torch.arange(0, 25)
    table = plain(z, torch.zeros(40, dtype=torch.long))
    train_heads(heads, table, rows, Passes(2, 10, 0, 0), lambda epoch, losses, rate: None)
    assert [len(part) for part in seen] == [9, 8, 8] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(25))
    assert first.tolist() != second.tolist()
    assert rates[0] == 1 and rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.1


def test_the_scale_folds_back() -> None:
    features = 7 + 3 * torch.randn(200, WIDTH) * torch.logspace(-2, 2, WIDTH)
    features[:, 5] = 1.25  # a dead dimension
    standard = Standard.of(Features.of(features))
    z = standard.apply(features)
    assert z.pow(2).sum(1).mean().item() == pytest.approx((WIDTH - 1) / WIDTH, rel=1e-3)
    assert z[:, 5].abs().max() == 0
    weight, bias = torch.randn(WIDTH, CLASSES), torch.randn(CLASSES)
    folded, moved = standard.fold(weight, bias)
    assert folded.shape == (CLASSES, WIDTH)
    torch.testing.assert_close(F.linear(features, folded, moved), z @ weight + bias, rtol=1e-3, atol=1e-3)


def test_it_reaches_the_logistic_regression() -> None:
    features, labels = mixture(800, 1, views=2)
    val, val_labels = mixture(1000, 2)
    fitted = linear_cached(features, labels, CLASSES, OPTIONS, RUNTIME, proof())
    ours = top1(F.linear(val[0], fitted.weight, fitted.bias), val_labels)
    theirs = top1(fit_logistic(labelled_features(features[0], labels)).logits(val[0]), val_labels)
    assert ours > theirs - 0.02


@pytest.mark.parametrize(("scale", "shift"), [(1e-4, 0.0), (1e4, 0.0), (1.0, 50.0)])
def test_features_of_any_scale_give_the_same_classifier(
    scale: float, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEARNING_RATES", (0.5, 2.0, 8.0))  # unstable ones amplify rounding
    features, labels = mixture(400, 3, views=2)
    plain = linear_cached(features, labels, CLASSES, OPTIONS, RUNTIME, proof())
    moved = linear_cached(features * scale + shift, labels, CLASSES, OPTIONS, RUNTIME, proof())
    assert (moved.lr, moved.weight_decay) == (plain.lr, plain.weight_decay)
    logits = F.linear(features[0] * scale + shift, moved.weight, moved.bias)
    torch.testing.assert_close(logits, F.linear(features[0], plain.weight, plain.bias), rtol=1e-2, atol=2e-2)


def test_what_it_says_of_itself() -> None:
    features, labels = mixture(300, 4, views=3)
    with proven(nn.BatchNorm1d(2).requires_grad_(False)) as watched:
        fitted = linear_cached(features, labels, CLASSES, OPTIONS, RUNTIME, watched)
    assert watched.trained == {"weight": [CLASSES, WIDTH], "bias": [CLASSES]}
    assert fitted.weight.shape == (CLASSES, WIDTH) and fitted.bias.shape == (CLASSES,)
    assert len(fitted.grid) == 48 and fitted.held_out_images == 30
    assert fitted.held_out_top1 == fitted.rows[-1]["held_out_top1"]
    assert fitted.held_out_top1 > max(head["held_out_top1"] for head in fitted.grid) - 0.1
    won = {"lr": fitted.lr, "weight_decay": fitted.weight_decay, "held_out_top1": fitted.held_out_top1}
    assert won in fitted.grid
    assert [row["epoch"] for row in fitted.rows] == list(range(1, OPTIONS.epochs + 1))
    train = top1(F.linear(features[0], fitted.weight, fitted.bias), labels)
    assert fitted.rows[-1]["train_top1"] == train


def test_the_same_seed_gives_the_same_bits_and_another_another_split() -> None:
    features, labels = mixture(200, 5)
    one, two = (linear_cached(features, labels, CLASSES, OPTIONS, RUNTIME, proof()) for _ in range(2))
    assert torch.equal(one.weight, two.weight) and one.rows == two.rows
    splits = [module._Fit(plain(features, labels), CLASSES, CachedOptions(seed=s), proof()).split()[0] for s in (0, 1)]
    assert splits[0].tolist() != splits[1].tolist()


def test_no_view_of_a_held_out_image_is_trained_on() -> None:
    features, labels = mixture(200, 6, views=3)
    fit = module._Fit(plain(features.clone(), labels), CLASSES, OPTIONS, proof())
    held_out, kept = fit.split()
    assert sorted([*held_out.tolist(), *kept.tolist()]) == list(range(200)) and len(held_out) == 20
    fit.table.features.values[1:, held_out] = torch.nan
    for _, losses in fit.search([[(0.1, 0.0)]], held_out, kept):
        assert losses.isfinite().all()


def test_the_refit_takes_all_images() -> None:
    features, labels = mixture(50, 7, views=2)
    fit = module._Fit(plain(features.clone(), labels), CLASSES, CachedOptions(epochs=1), proof())
    fit.table.features.values[1, 49] = torch.nan
    heads, _ = fit.refit(0.1, 0.0)
    assert heads.weight.isnan().all()


@pytest.mark.parametrize(("images", "winner"), [(25, 0), (400, 2), (10**6, 1)])
def test_what_is_as_good_goes_by_the_loss(images: int, winner: int) -> None:
    scores, losses = torch.tensor([0.87, 0.9, 0.89, 0.95]), torch.tensor([0.1, 0.7, 0.6, torch.nan])
    assert best_head(scores, losses, images) == winner  # a standard error: 6, 1.5 and 0.03 points
    with pytest.raises(UserError, match="every head of the grid diverged"):
        best_head(scores, torch.full((4,), torch.inf), images)


def test_bf16_is_close_to_float32() -> None:
    features, labels = mixture(400, 8)
    half = Runtime(RuntimeConfig(device="cpu", precision="bf16"))
    fitted = [linear_cached(features, labels, CLASSES, OPTIONS, r, proof()) for r in (RUNTIME, half)]
    scores = [top1(F.linear(features[0], f.weight, f.bias), labels) for f in fitted]
    assert abs(scores[0] - scores[1]) < 0.02 and fitted[1].weight.dtype == torch.float32


@pytest.mark.parametrize("count", [2, 3])
def test_a_handful_of_images_is_enough_and_one_is_not(count: int) -> None:
    features, labels = mixture(count, 9)
    assert linear_cached(features, labels, CLASSES, CachedOptions(epochs=1), RUNTIME, proof()).held_out_images == 1
    with pytest.raises(UserError, match="needs two or more"):
        linear_cached(features[:, :1], labels[:1], CLASSES, OPTIONS, RUNTIME, proof())


def uneven(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """What separates the classes lies in weak directions beside strong ones that say nothing, as backbones have it."""
    fixed = torch.Generator().manual_seed(7)
    centres = torch.randn(CLASSES, 32, generator=fixed)
    mixing = torch.linalg.qr(torch.randn(32, 32, generator=fixed))[0]
    scale = torch.ones(32)
    scale[:8] = 8
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    return (0.5 * centres[labels] + torch.randn(count, 32, generator=draw) * scale) @ mixing, labels


@pytest.mark.parametrize("count", [200, 1000, 5000])
def test_it_is_never_below_the_logistic_regression_by_more_than_its_error(count: int) -> None:
    features, labels = uneven(count, 1)
    val, val_labels = uneven(4000, 2)
    fitted = linear_cached(features[None], labels, CLASSES, CachedOptions(), RUNTIME, proof())
    ours = top1(F.linear(val, fitted.weight, fitted.bias), val_labels)
    theirs = top1(fit_logistic(labelled_features(features, labels)).logits(val), val_labels)
    error = math.sqrt(theirs * (1 - theirs) / count)  # of a figure from as many images as were trained on
    assert ours >= theirs - error


@pytest.mark.parametrize(("rows", "batch"), [(1, 1024), (800, 1024), (4000, 1024), (37_876, 1024), (5_000_000, 256)])
def test_small_sets_take_more_epochs_not_fewer_steps(rows: int, batch: int) -> None:
    epochs = epochs_of(CachedOptions(batch_size=batch), rows)
    steps = math.ceil(rows / batch)
    assert epochs >= LEAST_EPOCHS and epochs * steps >= LEAST_STEPS
    assert epochs == LEAST_EPOCHS or (epochs - 1) * steps < LEAST_STEPS
    assert epochs_of(CachedOptions(epochs=3, batch_size=batch), rows) == 3


def test_heads_in_groups_and_logits_in_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEARNING_RATES", (0.5, 2.0, 8.0))  # unstable ones amplify rounding
    features, labels = mixture(300, 10, views=2)
    whole = linear_cached(features, labels, CLASSES, OPTIONS, RUNTIME, proof())
    monkeypatch.setattr(module, "GROUP_VALUES", 5 * 64 * CLASSES)  # 5 of the 12 heads at once
    monkeypatch.setattr(module, "BLOCK_VALUES", 7 * 5 * CLASSES)  # 7 of the 30 held-out images at once
    seen: list[int] = []
    logits = Heads.logits
    monkeypatch.setattr(Heads, "logits", lambda self, z: seen.append(len(z) * self.bias.numel()) or logits(self, z))
    parts = linear_cached(features, labels, CLASSES, OPTIONS, RUNTIME, proof())
    assert max(seen) <= 5 * 64 * CLASSES  # a batch's logits; a block's are fewer
    assert (parts.lr, parts.weight_decay) == (whole.lr, whole.weight_decay)
    assert [head["held_out_top1"] for head in parts.grid] == [head["held_out_top1"] for head in whole.grid]
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-4, atol=1e-5)
