"""Within half a point of scikit-learn's LogisticRegression on the same features, whatever their scale."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from tests.evaluators.conftest import labelled_features

from moco.evaluators import logistic
from moco.evaluators.classifier import top1
from moco.evaluators.logistic import drawn, fit_logistic

Split = tuple[NDArray[np.float32], NDArray[np.int64]]


def problem(scale: float, seed: int, classes: int = 5, width: int = 32) -> tuple[Split, Split]:
    """Rectified, correlated, uneven features as backbones give them, of overlapping classes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    mixing = rng.normal(size=(width, width)) / np.sqrt(width) * np.geomspace(0.1, 3, width)

    def split(count: int) -> Split:
        labels = rng.integers(0, classes, count)
        raw = (0.9 * centres[labels] + rng.normal(size=(count, width))) @ mixing + 0.5
        return (scale * raw.clip(0)).astype(np.float32), labels

    return split(700), split(2000)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_accuracy_is_scikit_learns(scale: float, seed: int) -> None:
    (x, y), (x_val, y_val) = problem(scale, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's deprecations are its own
        oracle = LogisticRegression(max_iter=20_000, tol=1e-6).fit(x, y)
    fitted = fit_logistic(labelled_features(torch.from_numpy(x), torch.from_numpy(y)))
    for features, labels in ((x, y), (x_val, y_val)):
        ours = top1(fitted.logits, labelled_features(torch.from_numpy(features), torch.from_numpy(labels)))
        assert abs(ours - oracle.score(features, labels)) <= 0.005


def test_the_weights_are_scikit_learns_too() -> None:
    (x, y), _ = problem(1.0, 3)
    oracle = LogisticRegression(max_iter=20_000, tol=1e-7).fit(x, y)
    fitted = fit_logistic(labelled_features(torch.from_numpy(x), torch.from_numpy(y)))
    largest = np.abs(oracle.coef_).max()
    np.testing.assert_allclose(fitted.weight.numpy(), oracle.coef_, atol=0.03 * largest)


def test_a_class_without_examples_is_never_predicted() -> None:
    x, y = torch.randn(40, 6), torch.arange(40) % 2
    assert fit_logistic(labelled_features(x, y, 3)).predict(x).max() < 2


def test_it_leaves_no_gradients_and_no_mode_behind() -> None:
    x, y = torch.randn(30, 4, requires_grad=True), torch.arange(30) % 3
    with torch.no_grad():
        fitted = fit_logistic(labelled_features(x, y, 3))
        assert not torch.is_grad_enabled()
    assert x.grad is None and not fitted.weight.requires_grad


def test_blocks_of_images_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (x_val, _) = problem(1.0, 4)
    split = labelled_features(torch.from_numpy(x), torch.from_numpy(y))
    whole = fit_logistic(split)
    monkeypatch.setattr(logistic, "BLOCK_VALUES", 5 * 96)  # 96 images of 5 classes at once
    parts = fit_logistic(split)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-2, atol=1e-2)
    val = torch.from_numpy(x_val)
    assert (parts.predict(val) == whole.predict(val)).float().mean() > 0.99


def test_of_very_many_images_always_the_same_part_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    split = labelled_features(torch.arange(40.0)[:, None].expand(40, 3), torch.arange(40) % 4)
    assert drawn(split) is split
    monkeypatch.setattr(logistic, "MOST_IMAGES", 10)
    one, two = drawn(split), drawn(split)
    numbers = one.features.values[0, :, 0].long()
    assert len(one) == 10 and numbers.unique().numel() == 10 and torch.equal(one.labels, numbers % 4)
    assert torch.equal(one.features.values, two.features.values)
