"""A small run of a real ResNet-18, and checkpoints in other people's layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

import moco


@pytest.fixture(scope="session")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of ResNet-18 at 32 px."""
    out = tmp_path_factory.mktemp("trained") / "run"
    config = moco.recipe(
        "folder-cpu", data=str(labelled), model={"queue_size": 32, "dim": 16, "bn_splits": 1},
        views={"size": 32, "eval_zoom": 1.25}, train={"epochs": 2, "batch_size": 8},
        runtime={"precision": "float32", "threads": 1},
    )  # fmt: skip
    moco.pretrain(config, out)
    return out
