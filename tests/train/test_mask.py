"""Keys that know their image: an image's own earlier keys are no negatives of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco import MoCo
from moco.config import OptimizerConfig, RuntimeConfig
from moco.data.sampler import Batch
from moco.model.moco import NO_IMAGE, info_nce
from moco.runtime import Runtime
from moco.train.optimizer import build_optimizer
from moco.train.parts import Parts
from moco.train.step import MoCoStep, StepStats, train_step


def built(splits: int = 1, mask_own: bool = True) -> MoCo:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return MoCo(backbone, 4, 12, momentum=0.5, temperature=0.2, bn_splits=splits, mask_own=mask_own)


def run(model: MoCo, shown: Tensor | None, steps: int = 4, symmetric: bool = False) -> list[StepStats]:
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=2))
    step = MoCoStep(
        model, build_optimizer(model, OptimizerConfig(lr=0.2)), runtime, lambda loss: None, 7, symmetric, shown
    )
    seen = []
    for number in range(steps):
        torch.manual_seed(100 + number)
        views = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
        seen.append(step(views, Batch(np.arange(4) + 4 * (number % 2), 0, number)))
    return seen


def test_own_keys_are_left_out_of_the_loss() -> None:
    """Against the loss written out, image by image, over the negatives that are left."""
    model = built()
    model.queue_images.copy_(torch.tensor([0, 1, 0, 2, 5, NO_IMAGE, 1, 3, 3, 3, 7, 9]))
    images = torch.tensor([0, 1, 2, 8])
    im_q, im_k = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    keys = model.keys(im_k)
    plain = model.logits(im_q, keys).detach()
    masked = model.logits(im_q, keys, images)
    each = []
    for row, image in zip(plain, images.tolist()):
        kept = [row[0].exp(), *(v.exp() for v, own in zip(row[1:], model.queue_images.tolist()) if own != image)]
        each.append(-math.log(float(row[0].exp() / sum(kept))))
    assert info_nce(masked).item() == pytest.approx(np.mean(each), rel=1e-5)
    assert torch.equal(masked[3], plain[3])  # nothing of image 8 is in the queue


def test_the_queue_keeps_the_images_beside_the_keys() -> None:
    model = built()
    run(model, torch.arange(8), steps=4)
    assert model.queue_images.tolist() == [4, 5, 6, 7, 4, 5, 6, 7, 0, 1, 2, 3]
    symmetric = built()
    run(symmetric, torch.arange(8), steps=1, symmetric=True)
    assert symmetric.queue_images.tolist()[:9] == [0, 1, 2, 3, 0, 1, 2, 3, NO_IMAGE]


def test_a_group_counts_as_one_image() -> None:
    model = built()
    run(model, torch.tensor([0, 0, 2, 3, 0, 5, 6, 7]), steps=2)
    assert model.queue_images.tolist()[:8] == [0, 0, 2, 3, 0, 5, 6, 7]


def test_off_is_the_papers_step_to_the_bit_and_so_is_its_state_dict() -> None:
    off, plain = built(mask_own=False), built(mask_own=False)
    run(off, None)
    optimizer = build_optimizer(plain, OptimizerConfig(lr=0.2))
    runtime = Runtime(RuntimeConfig("cpu", "float32", threads=2))
    for number in range(4):
        torch.manual_seed(100 + number)
        views = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
        train_step(Parts(plain, runtime), plain, optimizer, views, None, False, lambda loss: None)
    assert off.state_dict().keys() == plain.state_dict().keys() == built().state_dict().keys() - {"queue_images"}
    assert all(torch.equal(a, b) for a, b in zip(off.state_dict().values(), plain.state_dict().values()))


def test_it_changes_the_loss_once_an_image_comes_again() -> None:
    on, off = run(built(), torch.arange(8)), run(built(), None)
    assert torch.equal(on[0].loss, off[0].loss) and on[2].loss < off[2].loss
    assert all(math.isfinite(s.negative.item()) for s in on)


def test_an_older_models_keys_are_nobodys() -> None:
    model = built()
    model.queue_images.fill_(3)
    model.load_state_dict(built(mask_own=False).state_dict())
    assert (model.queue_images == NO_IMAGE).all()


def test_parts_know_the_images_of_their_rows() -> None:
    """One thread or two, and the queue as one piece has it."""
    model = built(splits=2)
    run(model, torch.arange(8))
    assert model.queue_images.tolist() == [4, 5, 6, 7, 4, 5, 6, 7, 0, 1, 2, 3]
    own = model.queue_images == 4
    logits = model.eval().logits(torch.rand(1, 3, 8, 8), torch.rand(1, 4), torch.tensor([4]))
    assert torch.equal(logits[0, 1:].isneginf(), own)
