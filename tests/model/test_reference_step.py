"""Twelve optimizer steps of the reference MoCo v2, reproduced quantity by quantity."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco import MoCo
from moco.config import OptimizerConfig, RuntimeConfig
from moco.runtime import Runtime
from moco.train.optimizer import build_optimizer
from moco.train.parts import Parts
from moco.train.step import train_step

REFERENCE = (
    Path(os.environ.get("MOCO_REFERENCE", Path(__file__).parents[3] / "shared" / "reference")) / "moco_v2_step.npz"
)
TOLERANCE = 1e-5  # float32, another order of the same sums


class TinyBackbone(nn.Module):
    """The reference file's encoder below its head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images)).relu()
        return self.bn2(self.conv2(x)).relu().mean((2, 3))


def ours(name: str) -> str:
    """The reference's parameter name in our model."""
    encoder, _, rest = name.partition(".")
    if rest.startswith("fc."):
        return f"{encoder}.head.{rest.removeprefix('fc.')}"
    return f"{encoder}.backbone.{rest}" if rest else name


def state(data: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    found = {}
    for key, value in data.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            tensor = torch.from_numpy(np.array(value))
            found[ours(name)] = (
                tensor.T.contiguous() if name == "queue" else tensor.reshape(-1) if name == "queue_ptr" else tensor
            )
    return found


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs moco_v2_step.npz (MOCO_REFERENCE or ../shared/reference)")
def test_every_quantity_of_every_step_is_the_references() -> None:
    data = dict(np.load(REFERENCE))
    cfg = {key.removeprefix("cfg/"): value.item() for key, value in data.items() if key.startswith("cfg/")}
    model = MoCo(TinyBackbone(), int(cfg["dim"]), int(cfg["K"]), cfg["m"], cfg["T"], mlp=bool(cfg["mlp"]))
    model.load_state_dict(state(data, "init/"))
    model.train()
    runtime = Runtime(RuntimeConfig(device="cpu", precision="float32"))
    optimizer = build_optimizer(model, OptimizerConfig(lr=cfg["lr"], momentum=0.9, weight_decay=cfg["wd"]))

    def close(name: str, mine: Tensor) -> None:
        np.testing.assert_allclose(mine.detach().numpy(), data[name], rtol=0, atol=TOLERANCE, err_msg=name)

    seen: dict[str, Tensor] = {}
    computed = model.logits
    model.logits = lambda im_q, k, images: seen.setdefault("logits", computed(im_q, k, images))  # type: ignore[method-assign]
    parts = Parts(model, runtime)
    for step in range(int(cfg["steps"])):
        im_q, im_k = (torch.from_numpy(data[f"step{step}/{name}"]) for name in ("im_q", "im_k"))
        stats = train_step(parts, model, optimizer, (im_q, im_k), None, False, lambda loss: None)
        close(f"step{step}/logits", seen.pop("logits"))
        close(f"step{step}/loss", stats.loss)
        close(f"step{step}/queue", model.queue.T)
        assert model.queue_ptr.item() == data[f"step{step}/queue_ptr"].item()
    final = state(data, "final/")
    assert final.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), final[name].numpy(), rtol=0, atol=TOLERANCE, err_msg=name)
