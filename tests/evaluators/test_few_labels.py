"""Logistic regression on few labels: the same problem as scikit-learn's, its strength chosen without validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.evaluators.conftest import labelled_features
from torch import Tensor

from moco.evaluators import few_labels
from moco.evaluators.classifier import top1
from moco.evaluators.few_labels import WEIGHT_DECAYS, WITHOUT_CHOICE, choose_weight_decay, fit_few


def blobs(count: int, width: int, noise: float, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Points about a centre for each class, on axes of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % classes
    points = centres[labels] + noise * torch.randn(count, width, generator=generator)
    return points * torch.logspace(0, 2, width) + 5, labels


@pytest.mark.parametrize(("count", "width"), [(120, 6), (30, 50)])  # more images than features, and fewer
def test_it_is_scikit_learns_problem(count: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(count, width, 1.0)
    monkeypatch.setattr(few_labels, "choose_weight_decay", lambda *_: 1e-3)
    found = fit_few(labelled_features(features, labels), 0).logistic
    x = (features - features.mean(0)).double()
    length = x.pow(2).sum(1).mean().sqrt()
    oracle = LogisticRegression(C=1 / (1e-3 * count), tol=1e-10, max_iter=10_000).fit((x / length).numpy(), labels)
    ours = torch.softmax(found.logits(features), 1).numpy()
    np.testing.assert_allclose(ours, oracle.predict_proba((x / length).numpy()), atol=2e-3)


def test_noise_asks_for_more_weight_decay_than_clear_classes() -> None:
    chosen = []
    for noise in (0.3, 6.0):
        features, labels = blobs(90, 20, noise)
        chosen.append(fit_few(labelled_features(features, labels), 0).weight_decay)
    assert chosen[0] < chosen[1]
    assert all(decay in WEIGHT_DECAYS for decay in chosen)


def test_the_choice_is_near_the_best_on_other_images() -> None:
    features, labels = blobs(100, 30, 1.5)
    others = labelled_features(*blobs(600, 30, 1.5, seed=1))
    train = labelled_features(features, labels)
    found = top1(fit_few(train, 0).logistic.logits, others)
    scores = []
    for decay in WEIGHT_DECAYS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(few_labels, "choose_weight_decay", lambda *_, decay=decay: decay)
            scores.append(top1(fit_few(train, 0).logistic.logits, others))
    assert max(scores) - found < 0.04
    assert max(scores) - min(scores) > 0.04  # it matters


def test_one_label_a_class_leaves_nothing_to_choose_by() -> None:
    features, labels = blobs(3, 8, 0.1)
    assert fit_few(labelled_features(features, labels), 0).weight_decay == WITHOUT_CHOICE


def test_a_class_without_labels_is_allowed() -> None:
    features, labels = blobs(40, 8, 0.5, classes=2)
    assert choose_weight_decay(features, labels, 3, 0) in WEIGHT_DECAYS
    assert top1(fit_few(labelled_features(features, labels, classes=3), 0).logistic.logits,
                labelled_features(features, labels, classes=3)) > 0.9  # fmt: skip
