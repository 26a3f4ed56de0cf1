"""All images count, and the figures are those of a count by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moco.errors import UserError
from moco.evaluators.classifier import Classifier
from moco.evaluators.frozen import Frozen
from moco.evaluators.scores import classify, score

NAMES = ["red", "green", "blue"]


def classifier(weight: torch.Tensor, bias: torch.Tensor, names: list[str] = NAMES) -> Classifier:
    return Classifier(weight, bias, names, {"protocol": "cached"})


def test_the_figures_by_hand() -> None:
    features = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]])
    scores = score(
        classifier(torch.eye(3), torch.zeros(3)), [(0, features[:2]), (2, features[2:])], torch.tensor([0, 1, 0, 1, 0])
    )
    assert scores.images == 5 and scores.correct == 3 and scores.top1 == 3 / 5
    assert scores.matrix() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert scores.class_top1 == [2 / 3, 1 / 2, None] and scores.class_images == [3, 2, 0]
    other = math.log(math.exp(9) + 2)
    assert scores.loss == pytest.approx((3 * (other - 9) + 2 * other) / 5, rel=1e-5)


def test_it_equals_numpy_on_random_features() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(301, 7)), rng.normal(size=(5, 7)), rng.normal(size=5)
    y = rng.integers(0, 5, 301)
    logits = x @ w.T + b
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(301), y]
    expected = np.zeros((5, 5), int)
    np.add.at(expected, (y, logits.argmax(1)), 1)
    tensors = [torch.from_numpy(a).float() for a in (w, b, x)]
    scores = score(classifier(tensors[0], tensors[1], list("abcde")), [(0, tensors[2])], torch.from_numpy(y))
    assert scores.matrix() == expected.tolist()
    assert scores.loss == pytest.approx(nll.mean(), rel=1e-5)


def test_every_image_is_scored_the_last_partial_batch_too(frozen: Frozen, train: Any) -> None:
    made = classifier(torch.randn(3, 8), torch.zeros(3))
    scores = score(made, frozen.batches(train.images, batch_size=16), train.labels)
    assert frozen.backbone.batches == [16, 16, 16, 2]
    assert scores.images == 50 == sum(map(sum, scores.matrix()))
    assert scores.class_images == [17, 17, 16]
    assert classify(frozen, made, train).confusion == scores.confusion


def test_the_file_holds_plain_tensors(tmp_path: Path) -> None:
    made = classifier(nn.Parameter(torch.randn(3, 8)), torch.randn(3).requires_grad_())
    made.save(tmp_path / "linear" / "classifier.pt")
    content = torch.load(tmp_path / "linear" / "classifier.pt", weights_only=True)
    assert type(content["weight"]) is torch.Tensor and content["weight"].shape == (3, 8)
    assert not content["bias"].requires_grad and content["classes"] == NAMES
    read = Classifier.load(tmp_path / "linear" / "classifier.pt")
    assert torch.equal(read.weight, made.weight) and read.about == made.about
    assert [p.name for p in (tmp_path / "linear").iterdir()] == ["classifier.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_file_that_is_no_classifier_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "classifier.pt"
    if content is None:
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="classifier"):
        Classifier.load(path)
