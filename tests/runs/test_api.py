"""The Python layer: the README's example as it stands there, lazily imported, silenced, and with its types."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import write_pictures
from torch import nn

import moco
from moco.data.dataset import open_dataset
from moco.evaluators.frozen import Frozen
from moco.runs.splits import open_splits
from moco.runs.trained import pixel_source
from moco.runtime import Runtime

README = Path(__file__).parents[2] / "README.md"
TINY = {
    "model.backbone": "timm/test_resnet", "model.queue_size": 32, "model.dim": 16, "views.size": 32,
    "views.eval_zoom": 1.25, "train.batch_size": 8, "train.epochs": 1, "schedule.warmup_epochs": 0,
    "runtime.precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> moco.Run:
    config = moco.recipe("folder-cpu", data=str(labelled), **TINY)
    return moco.pretrain(config, tmp_path_factory.mktemp("api") / "run")


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains, resumes, loads the backbone and gets features of two files in at most ten lines."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    write_pictures(tmp_path / "photos", 12)
    for number, name in enumerate("ab"):
        (tmp_path / "photos" / f"{number:03}.jpg").rename(tmp_path / "photos" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    original = moco.recipe
    monkeypatch.setattr(moco, "recipe", lambda name, **changes: original(name, **changes, **TINY), raising=False)
    names: dict[str, object] = {}
    exec(code, names)
    features = names["features"]
    assert isinstance(features, torch.Tensor)
    assert features.shape[0] == 2 and features.isfinite().all()


def test_importing_costs_nothing_until_it_is_used() -> None:
    code = "import sys, moco; assert not {'torch', 'numpy', 'rich', 'yaml'} & set(sys.modules), sorted(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_stub_has_every_name_and_each_is_there() -> None:
    tree = ast.parse(Path(moco.__file__).with_suffix(".pyi").read_text())
    stubbed = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert stubbed | {"__version__"} == set(moco.__all__) == set(dir(moco))
    assert all(callable(getattr(moco, name)) for name in stubbed if name)
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        moco.pretrian  # type: ignore[attr-defined]  # noqa: B018


def test_a_command_and_a_package_of_one_name_stay_apart(run: moco.Run) -> None:
    """`moco.evaluate` and `moco.bench` are functions, whatever has been imported."""
    assert callable(moco.evaluate) and callable(moco.bench)


def test_a_run_stands_for_its_path_and_knows_its_figures(run: moco.Run) -> None:
    assert moco.open_run(run).config == run.config
    assert [row["step"] for row in run.metrics] == [3]
    result = moco.linear(run)
    assert 0 <= result.val_top1 <= 1
    assert moco.evaluate(run).val.top1 == pytest.approx(result.val_top1)


def test_the_backbone_without_the_data_gives_what_evaluation_measures(
    run: moco.Run, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(str(labelled), run.config.store, run.config.short_side)
    names = data.val.names[:3]  # type: ignore[union-attr]
    monkeypatch.setattr("moco.runs.trained.open_dataset", lambda *_: pytest.fail("the data was opened"))
    backbone, preprocess = moco.load_backbone(run)
    assert isinstance(backbone, nn.Module) and not backbone.training
    files = [labelled / name for name in names]
    with torch.no_grad():
        features = backbone(preprocess(files))
    assert preprocess.size == 40
    frozen = Frozen(backbone, 40, Runtime(run.config.runtime))
    measured = frozen.features(pixel_source(data.val, torch.device("cpu")))  # type: ignore[arg-type]
    torch.testing.assert_close(features, measured.values[0][:3])
    assert preprocess([]).shape == (0, 3, 40, 40)
    opened = Image.open(files[0])
    for mode in ("CMYK", "YCbCr", "HSV", "L", "P", "I", "F", "RGBA", "RGBa"):
        assert preprocess(opened.convert("RGBA" if mode == "RGBa" else "RGB").convert(mode)).shape == (1, 3, 40, 40)
    upright = Image.new("RGB", (60, 60), "red")
    upright.paste("blue", (0, 0, 60, 30))
    for mode in ("RGB", "CMYK"):  # turned as its file says, whatever it is converted to
        exif = Image.Exif()
        exif[0x0112] = 3
        upright.rotate(180).convert(mode).save(tmp_path / "turned.tif", exif=exif)
        with Image.open(tmp_path / "turned.tif") as turned:
            torch.testing.assert_close(preprocess(turned), preprocess(upright.convert(mode)))
    grey = opened.convert("L").convert("LA")
    torch.testing.assert_close(preprocess(grey.convert("La")), preprocess(grey))
    torch.testing.assert_close(preprocess(opened.convert("P").convert("PA")), preprocess(opened.convert("P")))
    for same in (opened, np.asarray(opened), [opened], str(files[0])):
        torch.testing.assert_close(preprocess(same), preprocess(files[:1]))


def test_a_caller_can_silence_it(run: moco.Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    with moco.listening(moco.Silent()):
        moco.preview(run.config, tmp_path / "views.png", rows=2)
        moco.linear(run)
    told = capsys.readouterr()
    assert told.out == told.err == ""
    assert (tmp_path / "views.png").is_file()


def test_mistakes_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(moco.UserError, match="no such folder"):
        moco.open_run(tmp_path / "nowhere")
    with pytest.raises(moco.UserError, match=r"give a name that ends in \.png"):
        moco.preview(moco.recipe("shapes", data="shapes"), tmp_path / "views.jpg")
    with pytest.raises(moco.UserError, match="--rounds is 0"):
        moco.bench(moco.recipe("shapes", data="shapes"), rounds=0)


def test_a_runs_own_normalisation_is_that_of_its_evaluation(labelled: Path, tmp_path: Path) -> None:
    """It once trained on one scale and was measured on ImageNet's."""
    own = {"views.mean": [0.1, 0.2, 0.3], "views.std": [0.5, 0.6, 0.7]}
    run = moco.pretrain(moco.recipe("folder-cpu", data=str(labelled), **TINY, **own), tmp_path / "run")
    _, preprocess = moco.load_backbone(run)
    file = next((labelled / "val").rglob("*.jpg"))
    views = preprocess(file)
    plain = type(preprocess)(preprocess.size, preprocess.short_side, preprocess.ranges)(file)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    mine, mine_std = (torch.tensor(own[f"views.{n}"])[:, None, None] for n in ("mean", "std"))
    torch.testing.assert_close(views * mine_std + mine, plain * std + mean, atol=1e-5, rtol=0)
    assert open_splits(run, "last", None).frozen.scaling == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def test_a_picture_that_is_no_rgb_array_is_refused(run: moco.Run) -> None:
    _, preprocess = moco.load_backbone(run)
    picture = np.zeros((30, 40, 3), np.uint8)
    assert preprocess(picture).shape == (1, 3, preprocess.size, preprocess.size)
    assert preprocess(np.stack([picture] * 2)).shape[0] == 2
    for wrong in (picture[..., 0], picture.transpose(2, 0, 1), picture.astype(np.float32), [picture[..., 0]]):
        with pytest.raises(moco.UserError, match=r"uint8 RGB array \(H, W, 3\)"):
            preprocess(wrong)


@pytest.mark.parametrize("change", [{"encoder": "foo"}, {"labels": "foo"}])
def test_features_of_an_unknown_kind_are_refused(change: dict[str, str], run: moco.Run, tmp_path: Path) -> None:
    with pytest.raises(moco.UserError, match="foo"):
        moco.embed(run, "shapes", tmp_path / "e.npy", **change)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_report_of_no_runs_is_refused() -> None:
    with pytest.raises(moco.UserError, match="at least one run"):
        moco.report([])
