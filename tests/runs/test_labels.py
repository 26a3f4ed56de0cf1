"""`moco labels` on a small run: curves, table, sentence, plot, JSON; the same figures every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SMALL
from tests.runs.test_finetune import stop_after

import moco
from moco.cli import main
from moco.evaluators.draws import Amount, draw
from moco.label_curves import LabelsResult
from moco.results import FinetuneResult
from moco.rundir import RunDir
from moco.runs.labels import draw_labels
from moco.runs.preparing_tuning import initial_backbone


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels") / "run"
    words = [*SMALL, "--train.epochs=1", "--schedule.warmup_epochs=0", "--monitor.baseline=false"]
    assert main(["pretrain", *words, "--data", str(labelled), "--out", str(out)]) == 0
    return out


def test_the_command_writes_what_it_prints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["labels", str(run), "--draws", "2", "--shares", "10,50,100"]) == 0
    said = capsys.readouterr().out
    result = LabelsResult.load(run / "labels.json")
    assert [c.name for c in result.curves] == ["frozen", "random", "pixels"]
    assert [(p.images, len(p.top1)) for p in result.curves[0].points] == [(2, 2), (12, 2), (24, 1)]
    assert all(0 <= score <= 1 for c in result.curves for p in c.points for score in p.top1)
    assert result.sentence in said.replace("\n", " ")
    assert "10 validation images" in said and "pre-trained, frozen" in said and f"{run}/labels.json" in said
    assert (run / "plots" / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_again_to_the_bit_from_python(run: Path) -> None:
    first, second = (moco.labels(run, moco.LabelsOptions(draws=2, shares="20,100")) for _ in range(2))
    assert first.curves == second.curves


def test_random_weights_are_those_that_the_run_began_with(run: Path) -> None:
    config = moco.open_run(run).config
    one, other = (initial_backbone(config, config.seed) for _ in range(2))
    assert all(bool((a == b).all()) for a, b in zip(one.parameters(), other.parameters()))
    trained, _ = moco.load_backbone(run)
    assert not all(bool((a == b).all()) for a, b in zip(one.parameters(), trained.parameters()))


def test_fine_tuned_and_from_scratch_on_the_same_draws_are_taken_where_they_are_done(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["labels", str(run), "--draws", "2", "--shares", "10", "--finetune", "--finetune_epochs", "2"]
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert main(command) == 75
    assert "the same `moco labels` goes on" in capsys.readouterr().err
    assert main(command) == 0
    result = LabelsResult.load(run / "labels.json")
    assert [c.name for c in result.curves[3:]] == ["finetuned", "scratch"]
    assert [(p.images, len(p.top1)) for p in result.curves[3].points] == [(2, 2)]
    assert "; fine-tuned it reaches" in capsys.readouterr().out.replace("\n", " ")
    done = FinetuneResult.load(run / "labels-finetune" / "finetune-scratch-10pct-draw1" / "result.json")
    assert result.curve("scratch").points[0].top1[1] == done.last.top1
    monkeypatch.setattr("moco.runs.labels.finetune", lambda *_, **__: pytest.fail("trained again"))
    assert main(command) == 0
    assert LabelsResult.load(run / "labels.json").curves == result.curves
    moved = run.with_name("moved")
    run.rename(moved)
    assert main(["labels", str(moved), *command[2:]]) == 0  # in a folder that was moved, too
    moved.rename(run)
    marker = run / ".moco-run.json"
    own = marker.read_text()
    marker.write_text(own.replace(RunDir(run).identity() or "", "0" * 32))  # as after --overwrite
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        main(command)
    marker.write_text(own)


def test_all_labels_are_drawn_once() -> None:
    classes = np.repeat([0, 1], 10)
    drawn = draw_labels(classes, [0.5, 1.0], moco.LabelsOptions(draws=3, seed=7))
    assert [len(images) for images in drawn.images] == [3, 1]
    assert np.array_equal(drawn.images[0][2], draw(classes, Amount(share=0.5), 7, 2))


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--draws", "0"], "--draws is 0, give 1 or more"),
        (["--shares", "0,10"], "give percents above 0, at most 100"),
        (["--shares", "some"], "give percents joined by commas"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_a_mistake_is_one_line(run: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["labels", str(run), *words]) == 2
    assert answer in capsys.readouterr().err


def test_without_labels_it_says_what_is_missing(run: Path, flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["labels", str(run), "--data", str(flat)]) == 2
    assert "class folders" in capsys.readouterr().err
