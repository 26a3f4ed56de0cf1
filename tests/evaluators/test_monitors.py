"""The evaluators by name, and what they measure where there are very many images."""

from __future__ import annotations

from typing import Any

import pytest

from moco.config import MonitorConfig
from moco.evaluators import logistic, monitors
from moco.evaluators.frozen import Frozen
from moco.evaluators.monitors import LabelMonitor, chosen


def test_columns_and_what_options_switch_off(frozen: Frozen, train: Any, val: Any) -> None:
    found = dict(LabelMonitor(frozen, train, val, MonitorConfig(knn_k=5))())
    assert list(found) == ["knn_top1", "logistic_train_top1", "logistic_val_top1"] and min(found.values()) > 0.8
    assert chosen(MonitorConfig(logistic=False)) == ["knn"]
    assert list(dict(LabelMonitor(frozen, train, val, MonitorConfig(knn_k=5, logistic=False))())) == ["knn_top1"]


def test_the_baseline_is_on_pixels_and_on_the_backbone(frozen: Frozen, train: Any, val: Any) -> None:
    monitor = LabelMonitor(frozen, train, val, MonitorConfig(knn_k=5))
    found = monitor.baseline()
    assert list(found) == ["raw_pixels_knn_top1", "random_backbone_knn_top1"]
    assert found["random_backbone_knn_top1"] == dict(monitor())["knn_top1"]


def test_what_is_not_of_all_images_says_so_and_is_the_same_each_time(
    frozen: Frozen, train: Any, val: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    LabelMonitor(frozen, train, val, MonitorConfig())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(monitors, "BASELINE_IMAGES", 20)
    monkeypatch.setattr(monitors, "MOST_IMAGES", 30)
    monkeypatch.setattr(logistic, "MOST_IMAGES", 30)
    monitor = LabelMonitor(frozen, train, val, MonitorConfig(knn_k=5))
    said = capsys.readouterr().err
    assert "takes 30 of 50 training images" in said and "takes 20 of 50 training images" in said
    frozen.backbone.batches.clear()  # type: ignore[operator, union-attr]
    one = monitor.baseline()
    assert sorted(frozen.backbone.batches) == [20, 23]  # type: ignore[arg-type]
    assert monitor.baseline() == one and dict(monitor()) == dict(monitor())
