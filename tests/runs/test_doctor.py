"""`moco doctor DATA --run RUN`: cropped, mirrored and recoloured copies across the splits, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.embedding.test_align import cut, photograph

import moco
from moco.cli import main
from moco.data.diagnosis import NearPair

TINY = {
    "model.backbone": "timm/test_resnet", "model.queue_size": 32, "model.dim": 16, "views.size": 32,
    "train.batch_size": 8, "train.epochs": 1, "schedule.warmup_epochs": 0, "runtime.precision": "float32",
}  # fmt: skip
COPIES = {
    "crop.jpg": ("000", lambda image: cut(image, 0.2)),
    "mirrored.jpg": ("001", lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "recoloured.jpg": ("002", lambda image: Image.fromarray(60 + np.asarray(image)[..., [1, 2, 0]] // 2)),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctor") / "data"
    for split, first, count in (("train", 0, 12), ("val", 50, 6)):
        for c, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                photograph(1000 * c + first + n).save(root / split / name / f"{n:03}.jpg", quality=92)
    return root


@pytest.fixture(scope="module")
def run(tree: Path) -> moco.Run:
    return moco.pretrain(moco.recipe("folder-cpu", data=str(tree), **TINY), tree.parent / "run")


@pytest.fixture(scope="module")
def planted(tree: Path, run: moco.Run) -> Path:
    for name, (source, alter) in COPIES.items():
        alter(Image.open(tree / f"train/cat/{source}.jpg")).save(tree / "val/cat" / name, quality=85)
    return tree


def test_copies_that_no_hash_sees_are_found(run: moco.Run, planted: Path) -> None:
    wanted = {frozenset((f"train/cat/{source}.jpg", f"val/cat/{name}")) for name, (source, _) in COPIES.items()}
    assert not wanted & {frozenset(group) for group in moco.doctor(planted).near_leaks}
    found = moco.doctor(planted, run)
    assert {frozenset(group) for group in found.near_leaks} == wanted
    pairs: dict[str, NearPair] = {Path(pair.part).name: pair for pair in found.near_pairs}
    assert {frozenset((pair.whole, pair.part)) for pair in found.near_pairs} == wanted
    np.testing.assert_allclose(pairs["crop.jpg"].window, (0.2, 0.2, 0.6, 0.6), atol=0.02)
    assert not pairs["crop.jpg"].mirrored
    assert [pair.mirrored for pair in found.near_pairs if "mirrored" in pair.whole + pair.part] == [True]
    assert found.serious == []


def test_from_the_command_line(
    run: moco.Run, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "found.json"
    assert main(["doctor", str(planted), "--run", str(run.path), "--json", str(report)]) == 0
    assert "nearly the same in train and val: train/cat/000.jpg = val/cat/crop.jpg" in capsys.readouterr().out
    pairs = json.loads(report.read_text())["near_pairs"]
    assert len(pairs) == 3 and set(pairs[0]) == {"whole", "part", "mirrored", "window", "agreement"}
    assert main(["doctor", str(planted), "--run", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_one_picture_alone(run: moco.Run, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    photograph(1).save(tmp_path / "one/a.jpg")
    assert moco.doctor(tmp_path / "one", run).near_pairs == []
