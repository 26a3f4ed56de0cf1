"""Results write and read their own JSON, and stay small for very many classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moco.errors import UserError
from moco.results import Evaluation, LinearResult, SplitScores

NAMES = ["cat", "dog", "owl"]
SCORES = SplitScores(5, 0.25, NAMES, [(0, 0, 2), (0, 1, 1), (1, 1, 1), (1, 2, 1)])
EVALUATION = Evaluation("last", 6, 2, "cached", "/data", NAMES, NAMES, SCORES, SCORES, {"python": "3"})
LINEAR = LinearResult(
    "sgd", "best", 6, 2, "ab", {"epochs": 3}, 0.5, 0.0, 1.0, 0.9, 0.8, 0.7, 27, 15, NAMES, "/data", 1.5, {},
    best_on_validation_top1=0.85, best_on_validation_epoch=2,
)  # fmt: skip


def test_the_figures_of_a_split() -> None:
    assert SCORES.correct == 3 and SCORES.top1 == 3 / 5
    assert SCORES.class_images == [3, 2, 0] and SCORES.class_top1 == [2 / 3, 1 / 2, None]
    assert SCORES.matrix() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("dense", [2, 3])
def test_an_evaluation_comes_back_as_it_was(tmp_path: Path, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moco.results.DENSE_CLASSES", dense)
    EVALUATION.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == EVALUATION
    val = json.loads((tmp_path / "evaluation.json").read_text())["val"]
    assert val.get("confusion", val.get("confusion_pairs")) == (
        SCORES.matrix() if dense == 3 else [list(pair) for pair in SCORES.confusion]
    )


def test_ten_thousand_classes_are_a_small_file(tmp_path: Path) -> None:
    names = [f"n{number:08}" for number in range(10_000)]
    pairs = sorted({(i, i, 3) for i in range(10_000)} | {(i, (i * 7 + 1) % 10_000, 2) for i in range(10_000)})
    scores = SplitScores(50_000, 1.0, names, pairs)
    replace(EVALUATION, classes=names, class_names=names, train=scores, val=scores).save(tmp_path / "e.json")
    assert (tmp_path / "e.json").stat().st_size < 3_000_000  # the two matrices alone would be 600 MB
    assert Evaluation.load(tmp_path / "e.json").val.confusion == pairs


def test_a_linear_result_comes_back_as_it_was_and_leaves_out_what_does_not_apply(tmp_path: Path) -> None:
    LINEAR.save(tmp_path / "result.json")
    assert LinearResult.load(tmp_path / "result.json") == LINEAR
    assert "grid" not in json.loads((tmp_path / "result.json").read_text())


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"train": 1, "val": []}', "half a fi"])
def test_what_is_no_result_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    for record in (Evaluation, LinearResult):
        with pytest.raises(UserError, match=r"x\.json"):
            record.load(tmp_path / "x.json")
