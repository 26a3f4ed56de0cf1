"""The projection head and the predictor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from moco import MoCo
from moco.model.batchnorm import SplitBatchNorm1d
from moco.model.head import Head, prediction_head, projection_head


def test_without_batchnorm_it_is_the_references() -> None:
    assert isinstance(projection_head(8, 4, Head(layers=1)), nn.Linear)
    mlp = projection_head(8, 4, Head())
    assert [(n, tuple(p.shape)) for n, p in mlp.named_parameters()] == [
        ("0.weight", (8, 8)), ("0.bias", (8,)), ("2.weight", (4, 8)), ("2.bias", (4,)),
    ]  # fmt: skip


def test_layers_width_and_batchnorm() -> None:
    head = projection_head(8, 4, Head(layers=3, width=16, batchnorm=True))
    kinds = [type(m) for m in head.children()]
    linear, norm, relu = nn.Linear, nn.BatchNorm1d, nn.ReLU
    assert kinds == [linear, norm, relu, linear, norm, relu, linear]
    widths = [m.out_features for m in head.children() if isinstance(m, nn.Linear)]
    assert widths == [16, 16, 4]
    assert head(torch.rand(5, 8)).shape == (5, 4)


def backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_the_heads_batchnorm_is_split_too_and_the_key_encoder_takes_no_gradient() -> None:
    model = MoCo(backbone(), 4, 12, head=Head(width=8, batchnorm=True), bn_splits=2, predictor=True)
    for encoder, count in ((model.encoder_q, 2), (model.encoder_k, 1)):
        assert sum(isinstance(m, SplitBatchNorm1d) for m in encoder.modules()) == count
    assert not any(p.requires_grad for p in model.encoder_k.parameters())


def test_only_queries_have_the_predictor_and_the_key_encoder_follows_the_rest() -> None:
    model = MoCo(backbone(), 4, 12, momentum=0.5, head=Head(width=8), predictor=True)
    assert model.encoder_k.predictor is None
    before = copy.deepcopy(model.encoder_k)
    with torch.no_grad():
        for p in model.encoder_q.parameters():
            p.add_(1.0)
    model.update_key_encoder()
    for new, old in zip(model.encoder_k.parameters(), before.parameters()):
        torch.testing.assert_close(new, old + 0.5)
    images = torch.rand(4, 3, 8, 8)
    embedded = model.encoder_q.head(model.encoder_q.backbone(images))
    assert model.encoder_q.predictor is not None
    torch.testing.assert_close(model.encoder_q(images), model.encoder_q.predictor(embedded))


@pytest.mark.parametrize("splits", [1, 2])
def test_the_predictor_keeps_the_width(splits: int) -> None:
    assert prediction_head(4, 16, splits)(torch.rand(6, 4)).shape == (6, 4)
