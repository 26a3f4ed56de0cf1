"""Every format, read back by the library that it is for, gives the run's features; or nothing is written."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import moco
from moco.cli import main
from moco.exchange.formats import FORMATS
from moco.exchange.outgoing import Format


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(5, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def expected(run: Path, images: Tensor) -> Tensor:
    backbone, _ = moco.load_backbone(run)
    with torch.inference_mode():
        return backbone(images)


def features(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.eval()(images)


def headless() -> nn.Module:
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network


def test_torchvision_and_timm_load_it_strictly(run: Path, images: Tensor) -> None:
    network = headless()
    network.load_state_dict(torch.load(moco.export(run, "torchvision").path, weights_only=True), strict=True)
    assert torch.equal(features(network, images), expected(run, images))
    network = timm.create_model("resnet18", num_classes=0)
    network.load_state_dict(torch.load(moco.export(run, "timm").path, weights_only=True), strict=True)
    assert torch.equal(features(network, images), expected(run, images))


def test_safetensors_say_what_they_are(run: Path, images: Tensor) -> None:
    path = moco.export(run, "safetensors", license="mit").path
    network = headless()
    network.load_state_dict(load_file(path), strict=True)
    assert torch.equal(features(network, images), expected(run, images))
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    assert told["backbone"] == "resnet18" and told["license"] == "mit"
    assert len(told["data_fingerprint"]) > 8 and "knn_top1" in told and '"queue_size": 32' in told["recipe"]


def test_hf_is_a_folder_that_timm_loads(run: Path, images: Tensor) -> None:
    path = moco.export(run, "hf").path
    network = timm.create_model(f"local-dir:{path}", pretrained=True)
    assert torch.equal(features(network, images), expected(run, images))
    config = timm.data.resolve_model_data_config(network)
    assert config["input_size"] == (3, 40, 40)
    tested = timm.data.resolve_model_data_config(network, use_test_size=True)
    assert tested["input_size"] == (3, 40, 40) and tested["crop_pct"] == config["crop_pct"]
    assert not network.pretrained_cfg["origin_url"] and "1911.05722" in str(network.pretrained_cfg["paper_ids"])
    assert "library_name: timm" in (path / "README.md").read_text()
    assert len({(path / name).stat().st_mode for name in ("config.json", "model.safetensors", "README.md")}) == 1


def test_onnx_takes_any_batch_and_raw_pixels(run: Path, images: Tensor) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(moco.export(run, "onnx").path))
    for count in (1, 5):
        (found,) = session.run(None, {"images": images[:count].numpy()})
        np.testing.assert_allclose(found, expected(run, images[:count]).numpy(), atol=1e-4)
    baked = moco.export(run, "onnx", run.parent / "raw.onnx", preprocessing=True).path
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    name = onnxruntime.InferenceSession(str(baked)).get_inputs()[0].name
    (found,) = onnxruntime.InferenceSession(str(baked)).run(None, {name: pixels})
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalised = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    np.testing.assert_allclose(found, expected(run, normalised).numpy(), atol=1e-4)


def test_detectron2_has_the_converters_names(run: Path) -> None:
    content = pickle.loads(moco.export(run, "detectron2").path.read_bytes())
    assert content["__author__"] == "MOCO" and content["matching_heuristics"] is True
    names = set(content["model"])
    assert {"stem.conv1.weight", "stem.conv1.norm.weight", "res2.0.conv1.weight", "res3.0.shortcut.norm.bias"} <= names
    backbone, _ = moco.load_backbone(run)
    ours = backbone.state_dict()["layer4.1.conv2.weight"].numpy()
    np.testing.assert_array_equal(content["model"]["res5.1.conv2.weight"], ours)


def test_official_is_the_authors_layout(run: Path, images: Tensor) -> None:
    """Loaded as their `main_lincls.py` does: the encoder's names without their prefix, the head left out."""
    content = torch.load(moco.export(run, "official").path, weights_only=True)
    assert content["arch"] == "resnet18" and content["epoch"] == 2
    state = content["state_dict"]
    assert state["module.queue"].shape == (16, 32) and state["module.queue_ptr"].shape == (1,)
    prefix = "module.encoder_q."
    kept = {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix) and not n.startswith(prefix + "fc")}
    network = torchvision.models.resnet18()
    assert set(network.load_state_dict(kept, strict=False).missing_keys) == {"fc.weight", "fc.bias"}
    network.fc = nn.Identity()  # type: ignore[assignment]
    assert torch.equal(features(network, images), expected(run, images))
    assert {"module.encoder_q.fc.0.weight", "module.encoder_k.fc.2.bias"} <= set(state)


@pytest.mark.parametrize("name", ["torchvision", "timm", "safetensors", "official"])
def test_the_printed_lines_load_it(name: str, run: Path) -> None:
    lines = moco.export(run, name).usage
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True)


def test_what_differs_is_not_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from moco.exchange.timm import Timm

    right = Timm.features
    monkeypatch.setattr(Timm, "features", lambda self, *args: right(self, *args) + 1)
    assert main(["export", str(run), "--format", "timm", "--out", str(run.parent / "out.pth")]) == 2
    assert "features" in capsys.readouterr().err
    assert not (run.parent / "out.pth").exists()
    assert list(run.parent.glob(".*")) == []


def test_nothing_of_others_is_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.pth").write_text("mine")
    assert main(["export", str(run), "--format", "timm", "--out", str(tmp_path / "mine.pth")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine.pth").read_text() == "mine"
    moco.export(run, "timm")
    moco.export(run, "timm")  # its own export is


def made(labelled: Path, out: Path, **model: object) -> Path:
    options = {"queue_size": 32, "dim": 16, "bn_splits": 1, **model}
    config = moco.recipe(
        "folder-cpu", data=str(labelled), model=options, views={"size": 32}, train={"epochs": 1, "batch_size": 8},
        schedule={"warmup_epochs": 0}, runtime={"precision": "float32"}, monitor={"baseline": False},
    )  # fmt: skip
    moco.pretrain(config, out)
    return out


def test_what_a_format_cant_name_is_refused_with_one_that_can(labelled: Path, tmp_path: Path) -> None:
    small = made(labelled, tmp_path / "small", small_stem=True)
    for name in ("torchvision", "timm", "official", "detectron2", "hf"):
        with pytest.raises(moco.UserError, match=r"small_stem.*safetensors"):
            moco.export(small, name)
    assert moco.export(small, "safetensors").difference == 0
    other = made(labelled, tmp_path / "other", backbone="timm/test_resnet")
    with pytest.raises(moco.UserError, match="--format timm would do"):
        moco.export(other, "torchvision")
    headed = made(labelled, tmp_path / "headed", head_batchnorm=True)
    with pytest.raises(moco.UserError, match="MoCo v1's head and v2's, not this one; --format torchvision would do"):
        moco.export(headed, "official")


def test_a_licence_is_said_or_refused(run: Path) -> None:
    assert "license: mit" in (moco.export(run, "hf", license="mit").path / "README.md").read_text()
    for name in ("torchvision", "timm", "official", "onnx", "detectron2"):
        with pytest.raises(moco.UserError, match=f"{name} has no place for a licence"):
            moco.export(run, name, license="mit")


def test_an_unknown_format_names_the_known(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--format", "tim"]) == 2
    assert "did you mean timm?" in capsys.readouterr().err
    assert all(
        issubclass(type(__import__("moco.exchange.formats", fromlist=["x"]).find_format(n)), Format) for n in FORMATS
    )
