"""Feature maps as colours: which map is taken, and what its components show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from moco.config import RuntimeConfig, StoreConfig
from moco.data.dataset import open_dataset
from moco.evaluators.frozen import Frozen
from moco.model.backbone import build_backbone
from moco.runs.feature_maps import FEWEST_CELLS, SHOWN_PX, components, deepest_map, feature_maps
from moco.runtime import Runtime


def frozen(backbone: nn.Module, size: int = 64) -> Frozen:
    return Frozen(backbone, size, Runtime(RuntimeConfig(device="cpu", precision="float32", threads=1)))


def test_the_deepest_map_that_is_fine_enough_is_taken() -> None:
    backbone = build_backbone("timm/test_resnet", 64, False)
    found = deepest_map(frozen(backbone), torch.randn(2, 3, 256, 256))
    assert found is not None and len(found) == 2 and FEWEST_CELLS <= found.shape[-1] < 32
    coarse = deepest_map(frozen(backbone), torch.randn(2, 3, 32, 32))
    assert coarse is not None and coarse.shape[-1] >= 2  # none is fine enough: the finest of all


def test_a_network_without_places_has_no_map() -> None:
    assert deepest_map(frozen(nn.Sequential(nn.Flatten(), nn.Linear(48, 4))), torch.randn(2, 3, 4, 4)) is None


def test_two_kinds_of_places_get_two_colours_in_every_image() -> None:
    maps = torch.zeros(3, 8, 6, 6)
    maps[:, 0], maps[0, 1, :, :3], maps[1:, 1, 2:4] = 1.0, 2.0, 2.0
    red = np.stack(components(maps))[..., 0].astype(int)
    kind = maps[:, 1].numpy() > 0
    assert abs(int(red[kind].mean()) - int(red[~kind].mean())) > 200
    assert red[kind].std() < 1 and red[~kind].std() < 1


def test_fewer_than_three_channels_are_black_in_the_rest() -> None:
    (only,) = components(torch.rand(1, 2, 5, 5))
    assert only.shape == (5, 5, 3) and only[..., 2].max() == 0


def test_a_network_of_one_size_is_looked_at_in_it(flat: Path) -> None:
    store = open_dataset(str(flat), StoreConfig(), 64).train
    transformer = frozen(build_backbone("timm/test_vit", 32, False), 32)
    pairs, _ = feature_maps(transformer, store, np.arange(2))
    assert all(view.shape == drawn.shape == (SHOWN_PX, SHOWN_PX, 3) for view, drawn in pairs)
    convolutions = replace(frozen(build_backbone("timm/test_resnet", 32, False), 48), crop_size=32)
    _, cells = feature_maps(convolutions, store, np.arange(2))
    assert cells == feature_maps(replace(convolutions, crop_size=None, size=32), store, np.arange(2))[1]
