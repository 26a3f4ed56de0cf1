"""The evaluators by name, and what they measure where there are very many images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import moco
from moco.config import MonitorConfig
from moco.evaluators import logistic, monitors
from moco.evaluators.frozen import Frozen
from moco.evaluators.monitors import LabelMonitor, chosen
from moco.runs.preparing import prepare


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


def test_the_key_encoder_can_be_what_is_looked_at(labelled: Path) -> None:
    """The monitors then see its backbone and no other; the training doesn't know."""
    tiny = {
        "model.backbone": "timm/test_resnet", "model.queue_size": 32, "model.dim": 16, "views.size": 32,
        "train.batch_size": 8, "train.epochs": 1, "schedule.warmup_epochs": 0, "runtime.precision": "float32",
    }  # fmt: skip
    trained = {}
    for encoder in ("query", "key"):
        config = moco.recipe("folder-cpu", data=str(labelled), **tiny, **{"monitor.encoder": encoder})
        prepared = prepare(config)
        training, monitor = prepared.training, prepared.monitors.evaluators[0]
        assert isinstance(monitor, LabelMonitor)
        training.model.train()
        training.step(training.sampler.order(0)[0])
        looked_at = {"query": training.model.encoder_q, "key": training.model.encoder_k}[encoder]
        assert monitor.frozen.backbone is looked_at.backbone
        trained[encoder] = training.model.encoder_q.state_dict()
        differ = [
            not torch.equal(q, k) for q, k in zip(*(e.parameters() for e in (training.model.encoder_q, looked_at)))
        ]
        assert any(differ) == (encoder == "key")
    assert all(torch.equal(tensor, trained["key"][name]) for name, tensor in trained["query"].items())
