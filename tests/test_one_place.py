"""A preset, an evaluator and a pixel source are each added in one place, and a real run takes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import moco
from moco import presets
from moco.cli import main
from moco.config import MonitorConfig
from moco.evaluators import monitors
from moco.evaluators.monitors import Measured
from moco.views.make import evaluation_view
from moco.views.ragged import Ragged
from moco.views.source import Source
from tests.conftest import SMALL


def test_a_preset(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.PRESETS, "satellite", {"flip_p": 0.5, "jitter": (0.2, 0.2, 0.0, 0.0), "jitter_p": 0.5})
    words = [*SMALL, "--views.pipeline=satellite", "--data", str(labelled), "--out", str(tmp_path / "run")]
    assert main(["pretrain", *words]) == 0
    assert moco.open_run(tmp_path / "run").config.views.pipeline == "satellite"


def test_an_evaluator(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spread(measured: Measured, options: MonitorConfig) -> Iterable[tuple[str, float]]:
        yield "feature_std", measured.val.features.values.std().item()

    monkeypatch.setitem(monitors.EVALUATORS, "spread", spread)
    words = [*SMALL, "--data", str(labelled), "--out", str(tmp_path / "run"), "--monitor.baseline=false"]
    assert main(["pretrain", *words]) == 0
    assert all(row["feature_std"] for row in moco.open_run(tmp_path / "run").metrics[-1:])  # in metrics.csv too


class Inverted:
    """The negative of another source's pictures."""

    def __init__(self, source: Source) -> None:
        self.source, self.heights, self.widths, self.device = source, source.heights, source.widths, source.device

    def take(self, images: NDArray[np.int64]) -> Ragged:
        batch = self.source.take(images)
        return Ragged(255 - batch.pixels, batch.offsets, batch.heights, batch.widths)

    def ahead(self, images: NDArray[np.int64]) -> None:
        self.source.ahead(images)

    def __len__(self) -> int:
        return len(self.source)


def test_a_pixel_source() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 3 * 20 * 20 * 2, np.uint8))
    size = np.full(2, 20, np.int32)
    plain = Ragged(pixels, np.array([0, 1200]), size, size)
    there, inverted = (evaluation_view(source, np.array([1, 0]), 16) for source in (plain, Inverted(plain)))
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(there * std + mean, 1 - (inverted * std + mean), atol=1e-5, rtol=0)
