"""Weights from elsewhere become runs; round trips to the bit; strangers' code is never run."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import moco
from moco import checkpoint
from moco.cli import main
from moco.config import RuntimeConfig


def content_of(run: Path) -> dict[str, Any]:
    return dict(checkpoint.load_for_evaluation(run / "checkpoints", "last"))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def test_run_official_run_is_the_same_to_the_bit(trained: Path, tmp_path: Path) -> None:
    file = moco.export(trained, "official", tmp_path / "official.pth.tar").path
    moco.import_weights(file, tmp_path / "again")
    before, after = content_of(trained), content_of(tmp_path / "again")
    for part in ("model", "optimizer", "state", "step"):
        assert same(before[part], after[part]), part


def test_what_came_back_goes_on_as_the_run_would(trained: Path, tmp_path: Path) -> None:
    file = moco.export(trained, "official", tmp_path / "official.pth.tar").path
    moco.import_weights(file, tmp_path / "again", data=moco.open_run(trained).config.data)
    whole = Path(shutil.copytree(trained, tmp_path / "whole"))
    for run in (whole, tmp_path / "again"):
        assert main(["pretrain", "--resume", str(run), "--train.epochs=3", "--runtime.threads=1"]) == 0
    assert same(content_of(whole)["model"], content_of(tmp_path / "again")["model"])


def test_of_another_optimizer_all_but_its_state_comes_back(trained: Path, tmp_path: Path) -> None:
    config = moco.open_run(trained).config
    out = tmp_path / "adamw"
    asked = {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "train.epochs": 1, "schedule.warmup_epochs": 0}
    adamw = moco.recipe("folder-cpu", data=config.data, views=config.views, model=config.model, runtime=config.runtime,
                        train=config.train, **asked)  # fmt: skip
    moco.pretrain(adamw, out)
    file = moco.export(out, "official", tmp_path / "official.pth.tar").path
    moco.import_weights(file, tmp_path / "again")
    again = moco.open_run(tmp_path / "again").config
    assert (again.views, again.model, again.optimizer) == (adamw.views, adamw.model, adamw.optimizer)
    assert same(content_of(out)["model"], content_of(tmp_path / "again")["model"])


def test_where_it_ran_is_no_part_of_what_leaves(trained: Path, tmp_path: Path) -> None:
    run = moco.open_run(trained)
    assert run.config.runtime.threads == 1
    moco.import_weights(moco.export(trained, "safetensors", tmp_path / "a.safetensors").path, tmp_path / "again")
    assert moco.open_run(tmp_path / "again").config.runtime == RuntimeConfig()


def official(arch: str, mlp: bool, dim: int = 8, queue: int = 24, module: str = "module.") -> dict[str, Any]:
    """A checkpoint as the authors' script writes it, built from its documented layout."""
    torch.manual_seed(3)
    state: dict[str, Tensor] = {}
    parameters = 0
    for encoder in ("encoder_q", "encoder_k"):
        network = getattr(torchvision.models, arch)(num_classes=dim)
        if mlp:
            width = network.fc.in_features
            network.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), network.fc)
        state |= {f"{module}{encoder}.{name}": tensor for name, tensor in network.state_dict().items()}
        parameters += sum(1 for _ in network.parameters())
    state[f"{module}queue"] = nn.functional.normalize(torch.randn(dim, queue), dim=0)
    state[f"{module}queue_ptr"] = torch.tensor([8])
    shapes = [p.shape for p in network.parameters()]
    momenta = {number: {"momentum_buffer": 1e-3 * torch.randn(shape)} for number, shape in enumerate(shapes)}
    group = {
        "lr": 0.003, "momentum": 0.9, "dampening": 0, "weight_decay": 1e-4, "nesterov": False,
        "params": list(range(parameters)),
    }  # fmt: skip
    return {"epoch": 5, "arch": arch, "state_dict": state, "optimizer": {"state": momenta, "param_groups": [group]}}


def test_the_authors_resnet50_imports_evaluates_and_resumes(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = official("resnet50", mlp=True)
    torch.save(stored, tmp_path / "moco_v2.pth.tar")
    command = ["import", str(tmp_path / "moco_v2.pth.tar"), "--out", str(tmp_path / "run"), "--size", "64"]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "MoCo v2 of facebookresearch/moco, resnet50, epoch 5" in said
    assert "took backbone, head, key encoder, queue of 24 keys, optimizer; left nothing" in said
    model = content_of(tmp_path / "run")["model"]
    state = stored["state_dict"]
    assert torch.equal(
        model["encoder_k.backbone.layer4.2.conv3.weight"], state["module.encoder_k.layer4.2.conv3.weight"]
    )
    assert torch.equal(model["encoder_q.head.2.weight"], state["module.encoder_q.fc.2.weight"])
    assert torch.equal(model["queue"], state["module.queue"].T)
    assert model["queue_ptr"].item() == 8
    config = moco.open_run(tmp_path / "run").config
    assert (config.model.dim, config.model.queue_size, config.views.size) == (8, 24, 64)
    assert moco.linear(tmp_path / "run", data=str(labelled)).val_images == 10
    resume = ["pretrain", "--resume", str(tmp_path / "run"), "--data", str(labelled), "--train.epochs", "6"]
    assert main([*resume, "--runtime.threads=1"]) == 0
    assert [row["epoch"] for row in moco.open_run(tmp_path / "run").metrics] == [1, 2, 3, 4, 5, 6]


def test_v1_has_a_linear_head(tmp_path: Path) -> None:
    torch.save(official("resnet18", mlp=False), tmp_path / "v1.pth.tar")
    run = moco.import_weights(tmp_path / "v1.pth.tar", tmp_path / "run")
    assert (run.config.model.mlp, run.config.views.pipeline, run.config.model.temperature) == (False, "v1", 0.07)
    backbone, _ = moco.load_backbone(run)
    assert backbone(torch.randn(2, 3, 64, 64)).shape == (2, 512)


@pytest.mark.parametrize("kind", ["torchvision", "timm", "prefixed", "stripped"])
def test_backbones_alone(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet18") if kind == "timm" else torchvision.models.resnet18()
    state = network.state_dict()
    stored: dict[str, Any] = state
    if kind == "prefixed":
        stored = {"state_dict": {f"backbone.{n}": t for n, t in state.items() if not n.startswith("fc.")}}
    if kind == "stripped":
        stored = {n: t for n, t in state.items() if not n.startswith("fc.")}
    torch.save(stored, tmp_path / "weights.pth")
    run = moco.import_weights(tmp_path / "weights.pth", tmp_path / "run")
    backbone, _ = moco.load_backbone(run)
    assert torch.equal(backbone.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


HEAD_NAMES = {"lightly": "projection_head.layers.2.weight", "solo-learn": "projector.2.weight"}
HEAD_WIDTH = {"lightly": 512, "solo-learn": 2048}  # solo-learn's own default is wider than a ResNet-18


def lightning(style: str) -> dict[str, Any]:
    """The tensors' names in lightly's benchmark modules and in solo-learn's."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    bare = {n: t for n, t in network.state_dict().items() if not n.startswith("fc.")}
    width = HEAD_WIDTH[style]
    head = {"0.weight": torch.randn(width, 512), "0.bias": torch.zeros(width), "2.weight": torch.randn(16, width),
            "2.bias": torch.zeros(16)}  # fmt: skip
    if style == "lightly":
        order = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"]
        numbered = {f"{order.index(n.split('.')[0])}.{n.split('.', 1)[1]}": t for n, t in bare.items()}
        state = {f"backbone.{n}": t for n, t in numbered.items()} | {
            f"projection_head.layers.{n}": t for n, t in head.items()
        }
        state |= {f"backbone_momentum.{n}": t for n, t in numbered.items()}
        state |= {f"projection_head_momentum.layers.{n}": t for n, t in head.items()}
    else:
        state = {f"backbone.{n}": t for n, t in bare.items()} | {f"projector.{n}": t for n, t in head.items()}
        state |= {f"momentum_backbone.{n}": t for n, t in bare.items()} | {
            f"momentum_projector.{n}": t for n, t in head.items()
        }
        state["queue"] = nn.functional.normalize(torch.randn(2, 16, 24), dim=1)
    return {"epoch": 3, "state_dict": state, "pytorch-lightning_version": "2.5.0", "_first": bare["conv1.weight"]}


@pytest.mark.parametrize("style", ["lightly", "solo-learn"])
def test_lightning_checkpoints(style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = lightning(style)
    first = stored.pop("_first")
    torch.save(stored, tmp_path / "last.ckpt")
    assert main(["import", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "run")]) == 0
    assert style in capsys.readouterr().err
    model = content_of(tmp_path / "run")["model"]
    assert torch.equal(model["encoder_q.backbone.conv1.weight"], first)
    assert torch.equal(model["encoder_k.backbone.conv1.weight"], first)
    assert torch.equal(model["encoder_q.head.2.weight"], stored["state_dict"][HEAD_NAMES[style]])
    assert moco.open_run(tmp_path / "run").config.model.head_width == (None if style == "lightly" else 2048)


@pytest.mark.parametrize(("processed", "epoch", "done"), [(4, 3, 4), (3, 3, 3), (None, 3, 4)])
def test_the_epochs_of_a_lightning_checkpoint(processed: int | None, epoch: int, done: int, tmp_path: Path) -> None:
    """Lightning's `epoch` is of the epoch that ends, or, where all have ended, their number."""
    stored = lightning("lightly") | {"epoch": epoch}
    stored.pop("_first")
    if processed is not None:
        stored["loops"] = {"fit_loop": {"epoch_progress": {"current": {"processed": processed}}}}
    torch.save(stored, tmp_path / "some.ckpt")
    assert len(moco.import_weights(tmp_path / "some.ckpt", tmp_path / "run").metrics) == done


def test_what_has_no_place_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torchvision.models.resnet18().state_dict()
    torch.save({**state, "layer5.conv.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    assert main(["import", str(tmp_path / "odd.pth"), "--out", str(tmp_path / "run"), "--backbone", "resnet18"]) == 2
    assert "layer5.conv.weight" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL_PLACE"],)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_strangers_code_is_not_run(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVIL_PLACE", str(tmp_path / "evil"))
    file = tmp_path / "weights.pth"
    if writer == "torch":
        torch.save({"state_dict": Evil()}, file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": Evil()}))
    assert main(["import", str(file), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "mkdir" in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "evil").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing"])
def test_a_damaged_file_is_a_line(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    match damage:
        case "cut":
            file.write_bytes(file.read_bytes()[:100_000])
        case "empty":
            file.write_bytes(b"")
        case "text":
            file.write_text("not weights at all")
        case _:
            file.unlink()
    assert main(["import", str(file), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "bug" not in error
    assert not (tmp_path / "run").exists()


def test_only_backbones_cant_be_resumed_and_say_how_to_go_on(
    tmp_path: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    moco.import_weights(tmp_path / "weights.pth", tmp_path / "run", size=32)
    capsys.readouterr()
    assert main(["pretrain", "--resume", str(tmp_path / "run"), "--data", str(labelled)]) == 2
    assert "--model.init" in capsys.readouterr().err


def test_starting_from_a_run_begins_where_it_left(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kNN before the first step is the run's at its end."""
    run = moco.open_run(trained)
    options = ["--recipe", str(trained / "config.yaml"), "--model.init", str(trained), "--train.epochs=2"]
    assert main(["pretrain", *options, "--out", str(tmp_path / "run")]) == 0
    assert "starting from" in capsys.readouterr().err
    before = json.loads((tmp_path / "run" / "baseline.json").read_text())
    assert before["start_knn_top1"] == run.metrics[-1]["knn_top1"]


def test_a_run_that_started_from_a_file_resumes_without_it(trained: Path, tmp_path: Path) -> None:
    file = moco.export(trained, "torchvision", tmp_path / "weights.pth").path
    options = ["--recipe", str(trained / "config.yaml"), "--model.init", str(file), "--train.epochs=2"]
    assert main(["pretrain", *options, "--out", str(tmp_path / "run")]) == 0
    file.unlink()
    assert main(["pretrain", "--resume", str(tmp_path / "run"), "--train.epochs=3"]) == 0


def test_a_wrong_start_is_a_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--recipe", str(trained / "config.yaml"), "--model.init", str(trained), "--model.backbone=resnet34"]
    assert main(["pretrain", *options, "--out", str(tmp_path / "run")]) == 2
    assert "--model.backbone resnet18" in capsys.readouterr().err
    options[3] = str(tmp_path / "nothing.pth")
    assert main(["pretrain", *options, "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_backbone_that_nobody_recognises_says_which_it_is(
    trained: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = moco.open_run(trained).config
    model = dataclasses.replace(config.model, backbone="timm/test_resnet")
    moco.pretrain(dataclasses.replace(config, model=model), tmp_path / "other")
    capsys.readouterr()
    options = ["--recipe", str(trained / "config.yaml"), "--model.init", str(tmp_path / "other")]
    assert main(["pretrain", *options, "--out", str(tmp_path / "run")]) == 2
    assert "holds timm/test_resnet, not resnet18: give --model.backbone timm/test_resnet" in capsys.readouterr().err


def test_parts_that_do_not_fit_what_a_file_says_it_is_are_a_line(trained: Path, tmp_path: Path) -> None:
    file = moco.export(trained, "official", tmp_path / "official.pth.tar").path
    whole = torch.load(file, weights_only=True)
    spoilt = [
        {**whole, "moco": {**whole["moco"], "state": {}}},
        {**whole, "state_dict": {**whole["state_dict"], "module.queue_ptr": torch.zeros(2, dtype=torch.long)}},
        {
            **whole,
            "state_dict": {**whole["state_dict"], "module.queue": whole["state_dict"]["module.queue"] * torch.nan},
        },
    ]
    for number, content in enumerate(spoilt):
        torch.save(content, file)
        with pytest.raises(moco.UserError, match=r"official\.pth\.tar"):
            moco.import_weights(file, tmp_path / f"run-{number}")
        assert not (tmp_path / f"run-{number}").exists()
