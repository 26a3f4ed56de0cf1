"""`moco finetune` on a small run: it learns, resumes to the bit, begins where it says, reports last and best."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import SMALL

import moco
from moco import checkpoint
from moco.cli import main
from moco.model.batchnorm import SplitBatchNorm2d
from moco.results import FinetuneResult
from moco.rundir import RunDir
from moco.runs.finetune_options import FinetuneOptions, Tuning, default_name
from moco.runs.preparing_tuning import initial_backbone, prepare_tuning
from moco.train.steps import Seen
from moco.train.training import Training

COLOURS = {"red": (200, 60, 60), "green": (60, 190, 70), "blue": (70, 80, 200)}
IMAGES = {"red": 20, "green": 12, "blue": 6}
QUICK = ["--batch_size", "8", "--epochs", "3", "--every_epochs", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours: 20, 12 and 6 of train, 5 of validation each."""
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(IMAGES[name] if split == "train" else 5):
                pixels = (np.array(colour) + rng.integers(-50, 50, (36, 40, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finetune") / "run"
    words = [*SMALL, "--train.epochs=1", "--schedule.warmup_epochs=0", "--monitor.baseline=false"]
    assert main(["pretrain", *words, "--runtime.threads=1", "--data", str(data), "--out", str(out)]) == 0
    return out


def table(place: Path) -> list[dict[str, str]]:
    rows = csv.DictReader((place / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_s")} for row in rows]


def test_it_learns_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    capsys.readouterr()
    assert main(["finetune", str(run), "--labels", "50%", "--batch_size", "8", "--epochs", "12"]) == 0
    said = capsys.readouterr().out
    place = run / "finetune-50pct"
    result = FinetuneResult.load(place / "result.json")
    assert (result.images, result.class_images, result.classes) == (19, [3, 6, 10], ["blue", "green", "red"])
    assert (result.epochs, result.steps, result.val_images) == (12, 24, 15)
    assert result.last.top1 > 0.8  # guessing: a third
    assert result.best.top1 >= result.last.top1
    assert result.last.class_images == [5, 5, 5]
    assert f"{100 * result.last.top1:.2f} % of 15 validation images after the last epoch" in said
    assert "by validation: optimistic" in said and f"{place} holds" in said and "--from scratch --labels 50%" in said
    assert table(place)[-1]["val_top1"] and table(place)[-1]["views_top1"]
    assert before == {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}  # the run as it was
    result.save(place / "copy.json")
    assert FinetuneResult.load(place / "copy.json") == result


def test_the_network_without_the_data_says_what_evaluation_says(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FinetuneOptions(epochs=6, batch_size=8, lr=0.003, head_lr=0.03, every_epochs=1)
    result = moco.finetune(run, options, out=tmp_path / "out")
    monkeypatch.setattr("moco.runs.trained.open_dataset", lambda *_: pytest.fail("the data was opened"))
    for which, scores in (("last", result.last), ("best", result.best)):
        network, preprocess, classes = moco.load_finetuned(tmp_path / "out", which)
        right = 0
        for path in sorted((data / "val").rglob("*.png")):
            with torch.no_grad():
                right += classes[int(network(preprocess(path)).argmax())] == path.parent.name
        assert right == scores.correct


def tensors(place: Path) -> dict[str, torch.Tensor]:
    content = checkpoint.load(place / "checkpoints" / "last.pt")
    found = dict(content["model"])
    for index, entry in content["optimizer"]["state"].items():
        found |= {f"{index}.{name}": value for name, value in entry.items() if isinstance(value, torch.Tensor)}
    return found


def stop_after(step: int, patch: pytest.MonkeyPatch) -> None:
    """A real SIGTERM after the given step."""
    original = Training.step

    def stepped(self: Training, images: np.ndarray) -> Seen:
        stats = original(self, images)
        if self.progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return stats

    patch.setattr(Training, "step", stepped)


@pytest.mark.parametrize(
    ("words", "stops"),
    [(["--balance", "sampling", "--optimizer", "adamw"], (1, 7)), (["--balance", "loss", "--from", "scratch"], (4,))],
)
def test_stopped_and_resumed_is_the_same_to_the_bit(
    words: list[str], stops: Iterable[int], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", str(run), *QUICK, *words]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "stopped"
    command = [*command, "--out", str(out)]
    for step in stops:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(step, patch)
            assert main(command) == 75
        assert f"go on with: moco finetune --resume {out}" in capsys.readouterr().err
        assert checkpoint.load(out / "checkpoints" / "last.pt")["step"] == step
        command = ["finetune", "--resume", str(out)]
    assert main(command) == 0
    expected, found = tensors(tmp_path / "whole"), tensors(out)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert table(out) == table(tmp_path / "whole")
    (out / "result.json").unlink()  # as if killed between the last checkpoint and the result
    assert main(command) == 0
    both = [FinetuneResult.load(place / "result.json") for place in (tmp_path / "whole", out)]
    assert both[0] == both[1]


@pytest.mark.parametrize("source", ["run", "scratch"])
def test_it_begins_where_it_says(run: Path, tmp_path: Path, source: str) -> None:
    still = FinetuneOptions(epochs=1, batch_size=38, lr=1e-12, head_lr=1e-12, weight_decay=0, seed=3)
    moco.finetune(run, still, source, out=tmp_path / "out")
    content = checkpoint.load(tmp_path / "out" / "checkpoints" / "last.pt")
    config = moco.open_run(run).config
    begun = moco.load_backbone(run)[0] if source == "run" else initial_backbone(config, 3)
    for name, parameter in begun.named_parameters():
        torch.testing.assert_close(content["model"][f"backbone.{name}"], parameter.detach(), atol=1e-9, rtol=1e-6)


def test_best_is_reported_as_such(run: Path, tmp_path: Path) -> None:
    """The scores of `best` are those of the checkpoint of that epoch, also where it is not the last."""
    options = FinetuneOptions(epochs=4, batch_size=8, lr=0.05, head_lr=0.5, every_epochs=1)
    result = moco.finetune(run, options, out=tmp_path / "out")
    scores = [float(row["val_top1"]) for row in table(tmp_path / "out")]
    assert result.last.top1 == pytest.approx(scores[-1])
    assert result.best.top1 == pytest.approx(max(scores))
    assert scores.index(max(scores)) + 1 == result.best_epoch


def test_what_is_left_open_is_decided_by_the_data() -> None:
    few = FinetuneOptions().decided("run", 100, 1000)
    assert (few.epochs, few.batch_size, few.lr, few.head_lr) == (500, 64, 0.05, 0.2)
    many = FinetuneOptions(lr=0.3).decided("scratch", 100_000, 1000)
    assert (many.epochs, many.lr, many.head_lr, many.every_epochs) == (30, 0.3, 0.05, 1)
    assert few.every_epochs == 34  # 1000 forward passes against 3 x 100 an epoch, a tenth at most
    assert FinetuneOptions(batch_size=64).decided("run", 10, 10).batch_size == 10


def test_a_tuning_comes_back_as_it_was(run: Path) -> None:
    base = moco.open_run(run).config
    tuning = Tuning("/runs/a", "last", "run", base, None, FinetuneOptions(labels="1%").decided("run", 20, 10))
    assert Tuning.from_dict(tuning.as_dict()) == tuning
    with pytest.raises(moco.UserError, match="no fine-tuning that this version"):
        Tuning.from_dict({"run": 3})


def test_classes_with_fewer_images_than_asked_for_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", str(run), "--labels", "15-per-class", *QUICK, "--out", str(tmp_path / "some")]
    assert main(words) == 0
    assert "--labels 15-per-class: classes with fewer images give all they have (2 of 3)" in capsys.readouterr().err
    assert FinetuneResult.load(tmp_path / "some" / "result.json").class_images == [6, 12, 15]


def test_names_tell_fine_tunings_apart() -> None:
    assert default_name("run", FinetuneOptions(labels="10%")) == "finetune-10pct"
    options = FinetuneOptions(labels="20-per-class", draw=2, seed=1)
    assert default_name("scratch", options) == "finetune-scratch-20-per-class-draw2-seed1"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--labels", "some"], "--labels is 'some', give a share of every class"),
        (["--from", "heaven"], "--from is 'heaven', valid: run, scratch"),
        (["--epochs", "0", "--lr", "-1"], "--epochs is 0, give 1 or more; --lr is -1"),
        (["--scale_min", "2"], "--scale_min is 2"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--resume", "x"], "leave out everything else"),
        (["--checkpoint", "9"], "the checkpoint of epoch 9 was not kept"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_made(
    run: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there = sorted(path.name for path in run.iterdir())
    capsys.readouterr()
    assert main(["finetune", str(run), *words]) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("moco: ") and answer in complaint
    assert sorted(path.name for path in run.iterdir()) == there


def test_what_is_there_is_not_overwritten_unasked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", str(run), *QUICK, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert main(command) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert main(["finetune", "--resume", str(run)]) == 2
    assert "is no directory of `moco finetune`" in capsys.readouterr().err
    assert main(["finetune"]) == 2
    assert "which run?" in capsys.readouterr().err


def test_neither_a_run_nor_a_fine_tuning_overwrites_the_other(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    kept = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert main(["finetune", str(copy), *QUICK, "--out", str(copy), "--overwrite"]) == 2
    assert "holds a pre-training, which no fine-tuning overwrites: give another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == kept
    place = tmp_path / "tuned"
    moco.finetune(copy, FinetuneOptions(epochs=1, batch_size=38), out=place)
    assert main(["pretrain", *SMALL, "--data", str(data), "--out", str(place), "--overwrite"]) == 2
    assert "holds a fine-tuning, which no pre-training overwrites" in capsys.readouterr().err
    assert (place / "result.json").is_file()


def test_a_fine_tuning_goes_on_from_the_step_that_it_began_at(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is trained on in the meantime."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    began = checkpoint.load(copy / "checkpoints" / "last.pt")["step"]
    command = ["finetune", str(copy), *QUICK, "--out", str(tmp_path / "a")]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(4, patch)
        assert main(command) == 75
    shutil.copytree(tmp_path / "a", tmp_path / "unsaved")
    for path in (tmp_path / "unsaved" / "checkpoints").iterdir():
        path.unlink()
    marker = tmp_path / "unsaved" / ".moco-run.json"
    marker.write_text(marker.read_text().replace("true", "false"))
    (tmp_path / "unsaved" / "metrics.csv").unlink(missing_ok=True)
    assert main(["pretrain", "--resume", str(copy), "--train.epochs=2"]) == 0
    assert moco.resume_finetune(tmp_path / "a").run_step == began
    capsys.readouterr()
    assert main(["finetune", "--resume", str(tmp_path / "unsaved")]) == 2
    assert f"the run was trained on since this fine-tuning began at its step {began}" in capsys.readouterr().err


def test_data_that_was_given_by_a_relative_path_is_found_from_anywhere(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    command = ["finetune", str(run), *QUICK, "--data", data.name, "--out", str(tmp_path / "a")]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(4, patch)
        assert main(command) == 75
    assert main(["submit", *command, "--dry-run"]) == 0  # it is the same fine-tuning
    monkeypatch.chdir(tmp_path)
    assert moco.resume_finetune(tmp_path / "a").epochs == 3


def test_batch_norm_is_over_the_whole_batch(data: Path, tmp_path: Path) -> None:
    """However the run's was split: a batch of labelled images is small."""
    words = [*SMALL, "--train.epochs=1", "--schedule.warmup_epochs=0", "--monitor.baseline=false"]
    split = [word for word in words if "bn_splits" not in word] + ["--model.bn_splits=4"]
    assert main(["pretrain", *split, "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    tuning = Tuning.from_dict(
        Tuning(
            str(tmp_path / "run"), "last", "run", moco.open_run(tmp_path / "run").config, None, FinetuneOptions()
        ).as_dict()
    )
    model = prepare_tuning(tuning).model
    assert {module.splits for module in model.modules() if isinstance(module, SplitBatchNorm2d)} == {1}


def test_a_fine_tuning_of_a_run_that_was_replaced_is_not_gone_on_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(4, patch)
        assert main(["finetune", str(copy), *QUICK, "--out", str(tmp_path / "a")]) == 75
    marker = copy / ".moco-run.json"
    marker.write_text(marker.read_text().replace(RunDir(copy).identity() or "", "0" * 32))
    capsys.readouterr()
    assert main(["finetune", "--resume", str(tmp_path / "a")]) == 2
    assert "is another run than the one that this fine-tuning began from" in capsys.readouterr().err
