"""The figures of a labels' curve, its JSON, and the sentence that it comes to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moco.errors import UserError
from moco.label_curves import LabelCurve, LabelPoint, LabelsResult, interval, sentence, share_to_reach

SHARES = (0.01, 0.1, 1.0)


def curve(name: str, *top1: list[float]) -> LabelCurve:
    return LabelCurve(name, [LabelPoint(s, round(100 * s), t, [0.1] * len(t)) for s, t in zip(SHARES, top1)])


TRAINED = curve("frozen", [0.50, 0.52], [0.70, 0.72], [0.80])
RANDOM = curve("random", [0.20, 0.22], [0.40, 0.42], [0.90])
RESULT = LabelsResult("last", 6, 2, "/data", {"train": "ab"}, 0, 2, 100, 50, ["cat", "dog"], [TRAINED, RANDOM], 1.5)


def test_a_result_comes_back_as_it_was_and_says_its_means(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "labels.json")
    assert LabelsResult.load(tmp_path / "labels.json") == RESULT
    written = json.loads((tmp_path / "labels.json").read_text())
    assert written["sentence"] == RESULT.sentence
    assert written["curves"][0]["points"][0]["mean"] == pytest.approx(0.51)
    assert written["curves"][0]["points"][2]["half_width"] is None


@pytest.mark.parametrize("content", ["{}", "[]", '{"curves": [{"name": "frozen"}]}', "half a fi"])
def test_what_is_no_result_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json"):
        LabelsResult.load(tmp_path / "x.json")


def test_the_interval_is_students() -> None:
    assert interval([0.4]) is None
    assert interval([0.4, 0.6]) == pytest.approx(12.706 * 0.1, rel=1e-4)  # t(1) * s / sqrt(2), s = 0.1414
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.7764 * 1.5811 / 5**0.5, rel=1e-4)


def test_a_share_is_read_off_between_two_points() -> None:
    assert share_to_reach(RANDOM, 0.41 + 0.49 / 2) == pytest.approx(10**-0.5)  # half way between 10 % and all
    assert share_to_reach(RANDOM, 0.1) == 0.01
    assert share_to_reach(RANDOM, 0.95) is None


@pytest.mark.parametrize(
    ("random", "said"),
    [
        (RANDOM, "with 10 % of the labels the pre-trained backbone does what random weights need 40.9 % for"),
        (curve("random", [0.2, 0.2], [0.4, 0.4], [0.6]), "do not get there with 100 % of them (60 %)"),
        (curve("random", [0.2, 0.2], [0.8, 0.82], [0.9]), "pre-training does not help here"),
        (curve("random", [0.2, 0.2], [0.70, 0.71], [0.9]), "can't be told apart"),
    ],
)
def test_the_sentence_says_what_the_curves_say(random: LabelCurve, said: str) -> None:
    assert said in sentence(TRAINED, random)


def test_without_ten_percent_the_nearest_share_is_spoken_of() -> None:
    few = replace(TRAINED, points=[TRAINED.points[0], TRAINED.points[2]])
    other = replace(RANDOM, points=[RANDOM.points[0], RANDOM.points[2]])
    assert sentence(few, other).startswith("with 1 % of the labels")
