"""`moco linear`, `moco evaluate` and `moco report` as they are typed, on a small run that was just written."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import SMALL

from moco import checkpoint, cli
from moco.config import Config, ModelConfig, RuntimeConfig, StoreConfig, TrainConfig, ViewsConfig
from moco.data.dataset import open_dataset
from moco.errors import UserError
from moco.files import locked, write_json
from moco.fresh_run import created
from moco.results import Evaluation
from moco.rundir import MARKER, RunDir
from moco.runs import linear
from moco.runs.evaluate import evaluate_checkpoint
from moco.runs.trained import build_model
from moco.tables import Row, write_csv
from moco.train.metrics import COLUMNS
from moco.train.optimizer import build_optimizer
from moco.train.state import Progress, Totals

COLOURS = {"n01440764": (200, 60, 60), "n03028079": (60, 190, 70), "n03445777": (70, 80, 200)}
TRAIN, VAL = 9, 5  # images a class
ROWS: list[Row] = [
    {"epoch": e, "loss": 4.0 - e, "loss_of_guessing": 4.2, "knn_top1": 0.3 * e, "logistic_train_top1": 0.9,
     "logistic_val_top1": 0.35 * e}
    for e in (1, 2)
]  # fmt: skip


def write_images(root: Path, classes: dict[str, tuple[int, int, int]] = COLOURS) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for name, colour in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-50, 50, (36, 40, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def save_checkpoint(run: RunDir, config: Config, seed: int, step: int, best: bool = False) -> None:
    torch.manual_seed(seed)
    model = build_model(config)
    optimizer = build_optimizer(model.encoder_q, config.optimizer)
    data = open_dataset(config.data, config.store, config.short_side).fingerprints
    content: checkpoint.Content = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {**Progress(step=step, rows=ROWS).state_dict(), "sums": Totals().state_dict()},
        "config": config.as_dict(),
        "about": {"precision": "float32", "data": data},
    }
    checkpoint.save(run.checkpoints, content, keep=3, best=best)


@dataclass(frozen=True)
class Made:
    """A run of two epochs, and the folder of images it names."""

    run: RunDir
    config: Config
    data: Path

    @property
    def path(self) -> str:
        return str(self.run.root)

    def metrics(self) -> list[dict[str, str]]:
        with (self.run.linear / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def json(self, name: str) -> Any:
        return json.loads((self.run.root / name).read_text())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("template")
    data = write_images(root / "images")
    config = Config(
        data=str(data),
        store=StoreConfig(cache=str(root / "cache")),
        views=ViewsConfig(size=32),
        model=ModelConfig(backbone="resnet18", dim=16, queue_size=64),
        train=TrainConfig(epochs=2, batch_size=8),
        runtime=RuntimeConfig(device="cpu", precision="float32", threads=1),
    )
    with created(root / "run") as run:
        run.write_config(config, {})
        write_csv(run.metrics_file, ROWS, COLUMNS)
        save_checkpoint(run, config, seed=0, step=6)
    return Made(run, config, data)


@pytest.fixture
def made(template: Made, tmp_path: Path) -> Made:
    """The template's files under a name of their own; moco replaces files, it never writes into one."""
    shutil.copytree(template.run.root, tmp_path / "run", copy_function=os.link)
    return replace(template, run=RunDir(tmp_path / "run"))


def moco(*argv: str) -> int:
    return cli.main(list(argv))


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a command that must end in exit code 2."""
    capsys.readouterr()
    assert moco(*argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moco: ")]
    assert len(lines) == 1
    return lines[0]


def test_linear_evaluate_report(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in made.run.checkpoints.iterdir()}
    assert moco("linear", made.path, "--epochs", "4", "--passes", "1", "--batch_size", "16") == 0
    said = capsys.readouterr().out
    assert f"next:  moco evaluate {made.path}" in said and "15 validation images" in said and "last checkpoint" in said
    classifier = torch.load(made.run.linear / "classifier.pt", weights_only=True)
    assert classifier["weight"].shape == (3, 512) and classifier["bias"].shape == (3,)
    assert classifier["classes"] == list(COLOURS)
    result = made.json("linear/result.json")
    assert (result["protocol"], result["checkpoint"], result["step"], result["epoch"]) == ("cached", "last", 6, 2)
    assert (result["train_images"], result["val_images"], result["held_out_images"]) == (27, 15, 3)
    assert result["proof"]["backbone_unchanged"] and [*result["proof"]["trained_tensors"]] == ["weight", "bias"]
    assert result["options"]["passes"] == 1 and len(result["grid"]) == 48 and "versions" in result["environment"]
    assert result["val_top1"] >= 0.9 and "best_on_validation_top1" not in result
    rows = made.metrics()
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["val_top1"]) for row in rows] == [False, False, False, True]  # reported once
    assert all(row["loss"] and row["train_top1"] and row["held_out_top1"] for row in rows)

    assert moco("evaluate", made.path) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("tench", "church", "golf ball", "accuracy on all images", "predicted class"))
    evaluation = made.json("evaluation.json")
    for split, count in (("train", TRAIN), ("val", VAL)):
        scores = evaluation[split]
        assert scores["images"] == 3 * count == sum(map(sum, scores["confusion"]))
        assert scores["class_images"] == dict.fromkeys(COLOURS, count)
        assert scores["top1"] == pytest.approx(sum(scores["class_top1"].values()) / 3)
    assert evaluation["val"]["top1"] == pytest.approx(result["val_top1"], abs=1e-6)
    assert evaluation["val"]["loss"] == pytest.approx(result["val_loss"], rel=1e-4)
    assert evaluation["train"]["top1"] == pytest.approx(result["train_top1"], abs=1e-6)
    assert evaluation["class_names"] == ["tench", "church", "golf ball"]

    assert moco("report", made.path) == 0
    said = capsys.readouterr().out
    names = ("linear_loss", "linear_score", "pretrain_loss", "pretrain_score")
    plots = [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert sorted(path.name for path in made.run.plots.iterdir()) == plots and all(name in said for name in plots)
    assert {path.name: path.read_bytes() for path in made.run.checkpoints.iterdir()} == before


def test_sgd_reports_last_and_best_as_such(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["linear", made.path, "--protocol", "sgd", "--epochs", "3", "--batch_size", "9", "--init", "logistic"]
    assert moco(*argv, "--schedule", "step", "--weight_decay", "0.001") == 0
    heard = capsys.readouterr()
    assert "after the last epoch" in heard.out and "best on validation: epoch" in heard.out
    assert all(f"epoch {epoch}/3" in heard.err for epoch in (1, 2, 3))
    result, rows = made.json("linear/result.json"), made.metrics()
    assert all(row["val_top1"] and row["val_loss"] and row["seconds"] for row in rows)
    assert result["val_top1"] == pytest.approx(float(rows[-1]["val_top1"]), abs=1e-6)
    best = max(float(row["val_top1"]) for row in rows)
    assert result["best_on_validation_top1"] == pytest.approx(best, abs=1e-6)
    assert result["options"]["init"] == "logistic" and result["weight_decay"] == 0.001
    assert moco("evaluate", made.path) == 0
    assert made.json("evaluation.json")["protocol"] == "sgd"
    assert made.json("evaluation.json")["val"]["top1"] == pytest.approx(result["val_top1"], abs=1e-6)


def test_evaluation_insists_on_the_backbone_of_the_classifier(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert moco("linear", made.path, "--epochs", "1", "--passes", "0") == 0
    save_checkpoint(made.run, made.config, seed=1, step=9, best=True)  # the pre-training went on
    line = fails(capsys, "evaluate", made.path)
    assert "step 6" in line and "step 9" in line and f"moco linear {made.path} --checkpoint last" in line
    assert not made.run.evaluation_file.exists()
    assert moco("linear", made.path, "--checkpoint", "best", "--epochs", "1", "--passes", "0") == 0
    assert made.json("linear/result.json")["checkpoint"] == "best"
    assert moco("evaluate", made.path) == 0
    assert made.json("evaluation.json")["checkpoint"] == "best"


def test_evaluation_insists_on_the_classes_of_the_classifier(
    made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert moco("linear", made.path, "--epochs", "1", "--passes", "0") == 0
    other = write_images(tmp_path / "other", {"n01440764": (9, 9, 9), "zebra": (200, 200, 200)})
    line = fails(capsys, "evaluate", made.path, "--data", str(other))
    assert "knows 3 classes" in line and "zebra" in line


def test_a_classifier_must_be_there_and_whole(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"run `moco linear {made.path}` first" in fails(capsys, "evaluate", made.path)
    made.run.linear.mkdir()
    (made.run.linear / "classifier.pt").write_bytes(b"half a file")
    assert "damaged" in fails(capsys, "evaluate", made.path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--protocol", "sgd", "--passes", "2"], "--passes is for --protocol cached, not sgd"),
        (["--lr", "1"], "--lr is for --protocol sgd, not cached"),
        (["--init", "zero", "--weight_decay", "0"], "--weight_decay is for --protocol sgd, not cached; --init is for"),
        (["--epochs", "0"], "--epochs is 0, give 1 or more"),
        (["--batch_size", "0", "--seed", "-1"], "--batch_size is 0, give 1 or more; --seed is -1, give 0 or more"),
        (["--passes", "-1"], "--passes is -1, give 0 or more"),
        (["--protocol", "sgd", "--lr", "0"], "--lr is 0.0, give a number above 0"),
        (["--protocol", "sgd", "--lr", "1e999"], "--lr"),
        (["--protocol", "sgd", "--weight_decay", "-1"], "--weight_decay is -1.0, give 0 or more"),
        (["--protocol", "knn"], "cached"),
        (["--checkpoint", "first"], "last"),
        (["--epochs", "many"], "epochs"),
        (["--epoch", "3"], "did you mean --epochs"),
        (["--checkpoint", "best"], "best.pt"),
        (["--data", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_options_of_linear(
    made: Made, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert expected in fails(capsys, "linear", made.path, *options)
    assert not made.run.linear.exists()


@pytest.mark.parametrize("command", ["linear", "evaluate", "report"])
def test_what_is_no_run(made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    assert "no such folder" in fails(capsys, command, str(tmp_path / "nothing"))
    assert "not a run directory" in fails(capsys, command, str(made.data))
    assert fails(capsys, command)
    shutil.rmtree(made.run.checkpoints)
    made.run.metrics_file.unlink()
    assert fails(capsys, command, made.path)


def test_unlabelled_data_has_nothing_to_classify(
    made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(made.data.rglob("*.png"))):
        shutil.copy(path, flat / f"{number}.png")
    assert "has no labels" in fails(capsys, "linear", made.path, "--data", str(flat))


def test_a_run_that_was_told_to_see_no_labels_is_classified_on_data_that_is_given(
    made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = str(tmp_path / "unlabelled")
    words = [*SMALL, "--store.labels=none", "--data", str(made.data), "--out", run]
    assert moco("pretrain", *words) == 0
    assert "has no labels (as asked)" in fails(capsys, "linear", run, *QUICK)
    assert moco("linear", run, "--data", str(made.data), *QUICK) == 0
    assert moco("evaluate", run, "--data", str(made.data)) == 0


def test_report_says_what_is_missing(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert moco("report", made.path) == 0
    said = capsys.readouterr().out
    assert said.count("no linear classification yet") == 2 and f"next:  moco linear {made.path}" in said
    assert sorted(path.name for path in made.run.plots.iterdir()) == [
        f"pretrain_{name}.{kind}" for name in ("loss", "score") for kind in ("png", "svg")
    ]
    made.run.metrics_file.write_text("epoch,loss\n")
    assert "no row yet" in fails(capsys, "report", made.path)
    made.run.metrics_file.unlink()
    assert "no metrics.csv yet" in fails(capsys, "report", made.path)


def test_a_fit_that_was_broken_off_leaves_the_earlier_one_as_it_was(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert moco("linear", made.path, "--epochs", "1", "--passes", "0") == 0
    before = contents(made.run.linear)

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moco.evaluators.classifier.Classifier.save", killed)
    assert moco("linear", made.path, "--protocol", "sgd", "--epochs", "1") == 130
    assert contents(made.run.linear) == before and hidden(made) == [".linear.lock"]


def test_help_is_quick_and_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("linear", "evaluate", "report"):
        assert moco(command, "--help") == 0
        assert f"moco {command} runs/a" in " ".join(capsys.readouterr().out.split())


QUICK = ("--epochs", "1", "--passes", "0")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def hidden(made: Made) -> list[str]:
    return sorted(path.name for path in made.run.root.glob(".linear*"))


def test_linear_is_replaced_whole_and_what_is_not_ours_stays(made: Made) -> None:
    assert moco("linear", made.path, *QUICK) == 0
    (made.run.linear / "notes.txt").write_text("mine")
    (made.run.linear / "thesis").mkdir()
    (made.run.linear / "thesis" / "classifier.pt").write_text("mine too")
    assert moco("linear", made.path, "--protocol", "sgd", "--epochs", "1") == 0
    ours = {"classifier.pt", "metrics.csv", "result.json"}
    assert set(contents(made.run.linear)) == ours | {"notes.txt", "thesis/classifier.pt"}
    assert (made.run.linear / "thesis" / "classifier.pt").read_text() == "mine too"
    about = torch.load(made.run.linear / "classifier.pt", weights_only=True)["about"]
    assert about["protocol"] == made.json("linear/result.json")["protocol"] == "sgd"
    assert made.metrics()[0]["seconds"] and hidden(made) == [".linear.lock"]


def test_a_linear_of_a_run_that_was_replaced_meanwhile_is_not_written(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = linear._fit_cached

    def meanwhile(*args: Any) -> Any:
        write_json(made.run.root / MARKER, {"format": 1, "run": "f" * 32, "saved": True})
        return original(*args)

    monkeypatch.setattr(linear, "_fit_cached", meanwhile)
    assert "was replaced meanwhile: nothing is written" in fails(capsys, "linear", made.path, *QUICK)
    assert not made.run.linear.exists()


def test_of_two_linears_at_once_the_second_is_refused(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(made.run.root / ".linear.lock", "busy"):
        assert f"another `moco linear {made.path}` is at work" in fails(capsys, "linear", made.path, *QUICK)
    assert not made.run.linear.exists()


@pytest.mark.parametrize("command", ["linear", "evaluate"])
def test_the_hints_can_be_run(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_images(tmp_path / "my other :cat: images")
    spaced = made.run.root.rename(tmp_path / "my :cat: run")
    write_csv(RunDir(spaced).metrics_file, [{"epoch": 1, "loss": 3.0}], COLUMNS)
    assert f"run `moco linear '{spaced}'` first" in fails(capsys, "evaluate", str(spaced))
    assert moco("linear", str(spaced), "--data", str(data), *QUICK) == 0
    if command == "evaluate":
        capsys.readouterr()
        assert moco("evaluate", str(spaced), "--data", str(data)) == 0
    said = capsys.readouterr().out
    (hint,) = [line.removeprefix("next:  ") for line in said.splitlines() if line.startswith("next:")]
    words = shlex.split(hint)
    assert words[:3] == ["moco", {"linear": "evaluate", "evaluate": "report"}[command], str(spaced)]
    assert command == "evaluate" or words[3:] == ["--data", str(data)]
    assert moco(*words[1:]) == 0


def test_the_data_that_is_blamed_is_the_data_that_was_given(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moco("linear", made.path, *QUICK) == 0
    flat = tmp_path / "flat pictures"
    flat.mkdir()
    for number, path in enumerate(sorted(made.data.rglob("*.png"))):
        shutil.copy(path, flat / f"{number}.png")
    for command in ("linear", "evaluate"):
        line = fails(capsys, command, made.path, "--data", str(flat))
        assert f"--data '{flat}' has no labels" in line and str(made.data) not in line
    single = tmp_path / "single"
    for name in COLOURS:
        (single / name).mkdir(parents=True)
        shutil.copy(made.data / "train" / name / "0.png", single / name)
    line = fails(capsys, "linear", made.path, "--data", str(single))
    assert "has no labels" not in line and str(single) in line


def test_changed_images_of_the_run_are_said_and_missing_ones_name_the_way_out(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(made.data, tmp_path / "copy")
    config = replace(made.config, data=str(copy))
    made.run.config_file.unlink()  # the file has a second name in the template
    made.run.environment_file.unlink()
    made.run.write_config(config, {})
    assert moco("linear", made.path, *QUICK) == 0
    assert "not those that the run was trained on" not in capsys.readouterr().err
    path = next((copy / "train").rglob("*.png"))
    Image.new("RGB", (40, 36)).save(path)
    assert moco("evaluate", made.path) == 0
    assert capsys.readouterr().err.count("not those that the run was trained on") == 1
    assert moco("evaluate", made.path, "--data", str(copy)) == 0
    assert "not those that the run was trained on" not in capsys.readouterr().err
    shutil.rmtree(copy)
    line = fails(capsys, "linear", made.path)
    assert made.path in line and "--data DIR" in line


def test_class_names_reach_the_terminal_as_letters(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("\x1b[31mred\x1b]0;title\x07", ":cat:", "[bold]x")
    data = write_images(tmp_path / "odd", dict.fromkeys(names, (9, 99, 200)))
    assert moco("linear", made.path, "--data", str(data), *QUICK) == 0
    assert moco("evaluate", made.path, "--data", str(data)) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x07" not in said.out + said.err
    assert "\\x1b[31mred" in said.out and ":cat:" in said.out and "[bold]x" in said.out
    line = fails(capsys, "evaluate", made.path)
    assert "\x1b" not in line and "\\x1b[31mred" in line
    assert made.json("evaluation.json")["classes"] == sorted(names)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_output_that_knows_few_letters_is_no_reason_to_fail(made: Made, tmp_path: Path, encoding: str) -> None:
    data = write_images(tmp_path / "bilder", {"vögel": (9, 9, 200), "кот": (200, 9, 9), "犬": (9, 200, 9)})
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    for words in (["linear", made.path, "--data", str(data), *QUICK], ["evaluate", made.path, "--data", str(data)]):
        done = subprocess.run([sys.executable, "-m", "moco", *words], check=False, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr.decode(encoding)
        if words[0] == "evaluate":
            assert "\\u043a\\u043e\\u0442" in done.stdout.decode(encoding)


def test_very_many_classes_keep_the_file_small(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert moco("linear", made.path, *QUICK) == 0
    monkeypatch.setattr("moco.results.DENSE_CLASSES", 2)
    assert moco("evaluate", made.path) == 0
    scores = made.json("evaluation.json")["val"]
    assert "confusion" not in scores and sum(count for _, _, count in scores["confusion_pairs"]) == 3 * VAL
    assert Evaluation.load(made.run.evaluation_file).val.images == 3 * VAL


def test_named_evaluators_on_a_checkpoint(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluate_checkpoint(made.path)
    assert set(found) == {"knn_top1", "logistic_train_top1", "logistic_val_top1"} and found["knn_top1"] > 0.8
    assert evaluate_checkpoint(made.path, ["knn"]) == {"knn_top1": found["knn_top1"]}
    with pytest.raises(UserError, match="unknown evaluator 'knm': did you mean knn"):
        evaluate_checkpoint(made.path, ["knm"])
    own = {"width": lambda measured, options: [("width", float(measured.train.features.width))]}
    monkeypatch.setattr("moco.evaluators.monitors.EVALUATORS", own)
    assert evaluate_checkpoint(made.path, ["width"]) == {"width": 512.0}


def test_a_classifier_of_other_data_is_kept_beside_the_runs_own(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(write_images(tmp_path / "other", {"red": (200, 9, 9), "blue": (9, 9, 200)}))
    assert moco("linear", made.path, *QUICK) == 0
    own = contents(made.run.linear)
    assert f"{made.run.linear} holds the classifier of" in fails(capsys, "linear", made.path, "--data", other, *QUICK)
    assert moco("linear", made.path, "--data", other, "--name", "colours", *QUICK) == 0
    said = capsys.readouterr().out
    (hint,) = [line.removeprefix("next:  ") for line in said.splitlines() if line.startswith("next:")]
    assert hint == f"moco evaluate {made.path} --data {other} --name colours"
    assert moco(*shlex.split(hint)[1:]) == 0
    place = made.run.root / "linear-colours"
    assert set(contents(place)) == {"classifier.pt", "metrics.csv", "result.json", "evaluation.json"}
    assert made.json("linear-colours/evaluation.json")["classes"] == ["blue", "red"]
    assert contents(made.run.linear) == own and not made.run.evaluation_file.exists()
    assert moco("linear", made.path, "--data", other, "--name", "colours", *QUICK) == 0
    assert not (place / "evaluation.json").exists()  # it was the earlier classifier's
    assert "give this one a --name" in fails(capsys, "linear", made.path, "--name", "colours", *QUICK)
    assert "--name '../x'" in fails(capsys, "linear", made.path, "--name", "../x", *QUICK)
    assert "--name weeds` first" in fails(capsys, "evaluate", made.path, "--name", "weeds")


def test_a_run_that_is_overwritten_takes_its_named_classifiers_with_it(made: Made) -> None:
    assert moco("linear", made.path, "--name", "mine", *QUICK) == 0
    (made.run.root / "linear-mine" / "notes.txt").write_text("kept")
    copy = shutil.copytree(made.run.linear_called("mine"), made.run.root / "linear-a_copy")
    copied = contents(copy)
    assert [place.name for place in made.run.named_linears] == ["linear-mine"]
    with created(made.run.root, overwrite=True) as anew:
        assert contents(made.run.root / "linear-mine") == {"notes.txt": b"kept"}
        assert contents(copy) == copied
        shutil.copy(copy / "result.json", made.run.root / "linear-mine")
        assert anew.named_linears == []  # of the run that was here before
