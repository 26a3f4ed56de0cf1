"""The model by its contract: shapes, column 0, what `forward` leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco import MoCo
from moco.errors import UserError


class Pooled(nn.Module):
    """A backbone of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)

    def forward(self, images: Tensor) -> Tensor:
        return self.bn(self.conv(images)).mean((2, 3))


def small(**options: object) -> MoCo:
    return MoCo(Pooled(), dim=4, queue_size=10, **options)  # type: ignore[arg-type]


def test_logits_are_positive_first_then_the_queue_over_the_temperature() -> None:
    model = small(temperature=0.1)
    im_q, im_k = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8)
    logits, keys = model(im_q, im_k)
    q = F.normalize(model.encoder_q(im_q), dim=1)
    assert logits.shape == (5, 11)
    assert keys.shape == (5, 4)
    torch.testing.assert_close(logits[:, 0], (q * keys).sum(1) / 0.1)
    torch.testing.assert_close(logits[:, 1:], q @ model.queue.T / 0.1)


def test_forward_leaves_queue_and_parameters_alone() -> None:
    model = small()
    before = {name: p.clone() for name, p in [*model.named_parameters(), ("queue", model.queue)]}
    model(torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8))
    after = dict([*model.named_parameters(), ("queue", model.queue)])
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_evaluation_changes_nothing_at_all() -> None:
    model = small().eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model(torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_no_gradient_reaches_keys_or_key_encoder() -> None:
    model = small()
    logits, keys = model(torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8))
    logits.sum().backward()
    assert not keys.requires_grad
    assert all(p.grad is None for p in model.encoder_k.parameters())
    assert all(p.grad is not None for p in model.encoder_q.parameters())


def test_the_key_encoder_starts_as_the_query_encoder_and_follows_by_equation_2() -> None:
    model = small(momentum=0.9)
    theta_q, theta_k = list(model.encoder_q.parameters()), list(model.encoder_k.parameters())
    assert all(torch.equal(q, k) for q, k in zip(theta_q, theta_k))
    with torch.no_grad():
        for q in theta_q:
            q.add_(1.0)
    expected = [0.9 * k + 0.1 * q for q, k in zip(theta_q, theta_k)]
    model.update_key_encoder()
    for k, e in zip(theta_k, expected):
        torch.testing.assert_close(k, e)


def test_heads_of_v1_and_v2() -> None:
    assert isinstance(small().encoder_q.head, nn.Linear)
    mlp = small(mlp=True).encoder_q.head
    assert [type(layer) for layer in mlp] == [nn.Linear, nn.ReLU, nn.Linear]
    assert mlp[0].weight.shape == (6, 6)
    assert mlp[2].weight.shape == (4, 6)


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18", "timm/resnet18", "mobilenet_v3_small"])
def test_backbones_by_name(name: str) -> None:
    model = MoCo(name, dim=8, queue_size=16)
    logits, _ = model.eval()(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 17)


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UserError, match="resnet50"):
        MoCo("resnt50")
    with pytest.raises(UserError, match="library"):
        MoCo("keras/resnet50")


def test_a_backbone_that_is_no_backbone_is_refused() -> None:
    with pytest.raises(UserError, match=r"\(N, F\)"):
        MoCo(nn.Conv2d(3, 4, 3))


def test_the_small_stem_keeps_the_resolution() -> None:
    model = MoCo("resnet18", dim=8, queue_size=16, small_stem=True)
    stem = model.encoder_q.backbone.conv1
    assert isinstance(stem, nn.Conv2d)
    assert (stem.kernel_size, stem.stride) == ((3, 3), (1, 1))
    with pytest.raises(UserError, match="ResNets"):
        MoCo("mobilenet_v3_small", small_stem=True)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"momentum": 2.0}, {"queue_size": 0}, {"dim": 0}])
def test_what_gives_no_contrast_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        MoCo("timm/test_resnet", **wrong)  # type: ignore[arg-type]
