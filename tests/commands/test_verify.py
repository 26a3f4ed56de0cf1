"""`moco verify`: it agrees with a run that is what it says, and finds what was altered."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL

import moco
from moco import checkpoint
from moco.cli import main
from moco.config import TRACKERS

OPTIONS = [*SMALL, "--train.epochs=3", "--checkpoint.every_epochs=1", "--optimizer.name=muon", "--optimizer.lr=0.01"]


@pytest.fixture(scope="module")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["pretrain", *OPTIONS, "--data", str(labelled), "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def steps_of(run: Path) -> list[int]:
    return sorted(int(p.stem.removeprefix("step-")) for p in checkpoint.numbered(run / "checkpoints"))


def test_a_run_is_what_it_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    assert main(["verify", str(run)]) == 0
    first, second, third = steps_of(run)
    said = capsys.readouterr().out
    assert f"steps {second + 1} to {third}: {third - second} losses as recorded" in said
    assert f"tensors of step {third} to the bit" in said
    found = moco.verify(run, begin=0)
    assert (found.first, found.last, found.differences, found.problems) == (1, first, [], [])
    assert found.losses == first and found.tensors > 10
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before


def test_a_short_stretch_compares_losses_alone(run: Path) -> None:
    found = moco.verify(run, steps=1)
    assert (found.losses, found.tensors, found.worst, found.problems) == (1, 0, 0.0, [])


def test_a_stretch_that_another_machine_trained_is_compared_as_such(run: Path) -> None:
    """The checkpoint at its end says where it was trained, not the one that it begins at."""
    last = checkpoint.numbered(run / "checkpoints")[0]
    content = torch.load(last, weights_only=True)
    content["about"]["processor"] = "Another 9000"
    content["model"] = {n: t + 1e-6 if t.is_floating_point() else t for n, t in content["model"].items()}
    for path in (last, *checkpoint.named(run / "checkpoints")):
        path.unlink()
        torch.save(content, path)
    found = moco.verify(run)
    assert found.last == content["step"] and found.problems == []
    assert len(found.differences) == 1 and "on Another 9000" in found.differences[0]


def test_no_tracker_is_needed_to_verify_or_to_go_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = next((name for name in TRACKERS if find_spec(name) is None), None)
    if missing is None:
        pytest.skip("every tracker is installed")
    written = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(written.replace("log: null", f"log: {missing}"))
    assert moco.verify(run, steps=1).problems == []
    assert main(["pretrain", "--resume", str(run), "--train.epochs=4"]) == 0
    assert f'{missing}]": the run goes on without it' in capsys.readouterr().err.replace("'", '"')


def alter_loss(run: Path) -> str:
    lines = (run / "steps.csv").read_text().splitlines()
    cells = lines[-1].split(",")
    lines[-1] = ",".join([*cells[:3], str(float(cells[3]) * 0.999), *cells[4:]])
    (run / "steps.csv").write_text("\n".join(lines) + "\n")
    return "the loss of 1 of"


def alter_weight(run: Path) -> str:
    content = checkpoint.load(checkpoint.numbered(run / "checkpoints")[0])
    next(t for n, t in content["model"].items() if n.endswith("weight")).mul_(1.0001)
    path = checkpoint.numbered(run / "checkpoints")[0]
    torch.save({"format": checkpoint.FORMAT, **content}, path)
    return "tensors at step"


def alter_metrics(run: Path) -> str:
    text = (run / "metrics.csv").read_text().splitlines()
    column = text[0].split(",").index("knn_top1")
    cells = text[1].split(",")
    cells[column] = "0.99"
    (run / "metrics.csv").write_text("\n".join([text[0], ",".join(cells), *text[2:]]) + "\n")
    return "metrics.csv, epoch 1: knn_top1"


def alter_config(run: Path) -> str:
    text = (run / "config.yaml").read_text()
    assert "weight_decay: 0.0005" in text
    (run / "config.yaml").write_text(text.replace("weight_decay: 0.0005", "weight_decay: 0.0002"))
    return "optimizer.weight_decay was 0.0005, now 0.0002"


def alter_last(run: Path) -> str:
    return _another(run / "checkpoints/last.pt")


def alter_best(run: Path) -> str:
    return _another(run / "checkpoints/best.pt")


def _another(path: Path) -> str:
    """A file of its own in the place of a second name, with other weights."""
    content = checkpoint.load(path)
    for name, tensor in content["model"].items():
        if name.startswith("encoder_q.backbone") and tensor.is_floating_point():
            tensor.fill_(0.123)
    path.unlink()
    torch.save({"format": checkpoint.FORMAT, **content}, path)
    return f"{path.name} says that it is of step"


def add_an_epoch(run: Path) -> str:
    rows = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join([*rows, rows[-1].replace("3,", "4,", 1)]) + "\n")
    return "metrics.csv has 4 epochs, the newest checkpoint 3"


def remove_metrics(run: Path) -> str:
    (run / "metrics.csv").unlink()
    return "metrics.csv has 0 epochs, the newest checkpoint 3"


def forget_losses(run: Path) -> str:
    head, *rows = (run / "steps.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    (run / "steps.csv").write_text("\n".join([head, *(",".join([*c[:3], "nan", *c[4:]]) for c in cells)]) + "\n")
    return "the loss of"


@pytest.mark.parametrize(
    "alter",
    [
        alter_loss, alter_weight, alter_metrics, alter_config, alter_last, alter_best, add_an_epoch, remove_metrics,
        forget_losses,
    ],
)  # fmt: skip
def test_what_was_altered_is_found(alter: object, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = alter(run)  # type: ignore[operator]
    assert main(["verify", str(run)]) == 1
    assert expected in capsys.readouterr().err


def test_steps_of_before_more_epochs_were_asked_for_are_no_proof(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *_, last = steps_of(run)
    assert main(["pretrain", "--resume", str(run), "--train.epochs=4"]) == 0
    capsys.readouterr()
    assert main(["verify", str(run), "--begin", "0"]) == 2
    assert "its epochs were changed afterwards; give --begin" in capsys.readouterr().err
    assert moco.verify(run, begin=last).problems == []
    assert moco.verify(run).losses == steps_of(run)[-1] - last


def test_steps_without_a_record_are_not_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in an imported run: what was recorded begins in the middle."""
    head, *rows = (run / "steps.csv").read_text().splitlines()
    _, second, third = steps_of(run)
    (run / "steps.csv").write_text("\n".join([head, *rows[second : second + 1], *rows[third - 1 :]]) + "\n")
    found = moco.verify(run)
    assert (found.first, found.last, found.losses) == (second + 1, third, 2)
    (run / "steps.csv").write_text("\n".join([head, *rows[third - 1 :]]) + "\n")
    assert main(["verify", str(run), "--begin", "0"]) == 2
    assert "no checkpoint that recorded steps (steps.csv) follow: nothing to compare" in capsys.readouterr().err


def test_a_run_that_is_replayed_from_a_checkpoint_needs_no_first_weights(
    trained: Path, labelled: Path, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(moco.load_backbone(trained)[0].state_dict(), file)
    out = tmp_path / "second"
    options = [*OPTIONS, "--data", str(labelled), "--out", str(out), f"--model.init={file}"]
    assert main(["pretrain", *options]) == 0
    file.unlink()
    assert moco.verify(out).problems == []


def test_a_start_that_was_written_anew_is_named(
    trained: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "weights.pth", tmp_path / "second"
    weights = moco.load_backbone(trained)[0].state_dict()
    torch.save(weights, file)
    options = [*OPTIONS, "--data", str(labelled), "--out", str(out), f"--model.init={file}"]
    assert main(["pretrain", *options, "--checkpoint.keep=1"]) == 0
    assert main(["pretrain", "--resume", str(out), "--train.epochs=4"]) == 0
    assert 0 not in steps_of(out)
    assert moco.verify(out, steps=1, begin=0).problems == []
    torch.save({name: value * 2 for name, value in weights.items()}, file)
    assert main(["verify", str(out), "--begin", "0"]) == 1
    assert f"{file} holds other weights than it began with" in capsys.readouterr().err


def test_nothing_to_compare_with_is_a_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run), "--begin", "1"]) == 2
    assert "--begin is 1, checkpoints with recorded steps after them: [0," in capsys.readouterr().err
    (run / "steps.csv").unlink()
    assert main(["verify", str(run)]) == 2
    assert "steps.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["pretrain", "--resume", "RUN", "--train.epochs=4"], ["linear", "RUN"], ["export", "RUN", "--format", "timm"]],
)
def test_an_edited_configuration_is_not_gone_on_with(
    run: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = alter_config(run)
    assert main([str(run) if word == "RUN" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert f"config.yaml was edited: in its checkpoint {expected}: put it back" in said


def test_groups_that_were_written_anew_are_named(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"train/cat/{n:03}.jpg" for n in range(4)]
    Path("groups.json").write_text(json.dumps({"exact_duplicates": [names[:2]], "near_duplicates": []}))
    options = [*OPTIONS, "--data", str(labelled), "--model.mask_own=true", "--model.mask_groups=groups.json"]
    assert main(["pretrain", *options, "--out", "run"]) == 0
    monkeypatch.chdir(tmp_path.parent)  # found from anywhere
    assert moco.verify(tmp_path / "run").problems == []
    (tmp_path / "groups.json").write_text(json.dumps({"exact_duplicates": [names], "near_duplicates": []}))
    assert main(["verify", str(tmp_path / "run")]) == 1
    assert "groups.json has other groups than it was trained with" in capsys.readouterr().err
    assert main(["pretrain", "--resume", str(tmp_path / "run"), "--train.epochs=4"]) == 2
    assert "has other groups than when this run began" in capsys.readouterr().err
