"""Tiny runs that were really trained, for what looks at runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import write_pictures

import moco

TINY = {
    "model.backbone": "timm/test_resnet", "model.queue_size": 32, "model.dim": 16, "views.size": 32,
    "train.batch_size": 8, "train.epochs": 2, "schedule.warmup_epochs": 0, "runtime.precision": "float32",
    "runtime.threads": 1, "model.bn_splits": 1,
}  # fmt: skip
BAD_NAME = "<script>alert(1)<"  # a folder's name can't have a slash
CLASSES = (BAD_NAME, 'b "quoted" & <b>bold<', "cat")


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 x 12 train and 3 x 6 validation pictures; two classes with names that would be HTML if nobody escaped them."""
    root = tmp_path_factory.mktemp("three")
    for c, name in enumerate(CLASSES):
        write_pictures(root / "train" / name, 12, 100 * c)
        write_pictures(root / "val" / name, 6, 100 * c + 50)
    return root


@pytest.fixture(scope="session")
def trained(three_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[moco.Run]:
    """Two runs that differ in their seed alone, and one of another temperature; the first has a linear classifier."""
    root = tmp_path_factory.mktemp("runs")
    changes = ({"seed": 0}, {"seed": 1}, {"seed": 0, "model.temperature": 0.1})
    with moco.listening(moco.Silent()):
        runs = [
            moco.pretrain(moco.recipe("folder-cpu", data=str(three_classes), **TINY, **more), root / f"run-{n}")
            for n, more in enumerate(changes)
        ]
        moco.linear(runs[0])
        moco.evaluate(runs[0])
    return runs
