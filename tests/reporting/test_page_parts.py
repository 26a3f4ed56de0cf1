"""Thumbnails, map, charts, summary: the parts of a page, held to numbers."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moco.label_curves import LabelCurve, LabelPoint, LabelsResult
from moco.reporting.charts import figures, grouped, labels_figure, map_figure
from moco.reporting.contents import Confusion, Contents, RunFacts
from moco.reporting.embedding_map import laid_out
from moco.reporting.page import MOST_CLASSES, render
from moco.reporting.summary import duration, sentences, verdict
from moco.reporting.thumbnails import SIDES_PX, thumbnail, thumbnails
from moco.results import FinetuneResult, LinearResult, SplitScores
from moco.tables import Row

CONFIG = {
    "data": "/photos", "seed": 0, "model.backbone": "resnet18", "model.mlp": True, "model.queue_size": 4096,
    "model.temperature": 0.2, "views.size": 64, "views.pipeline": "v2", "train.epochs": 3,
}  # fmt: skip


def rows(*knn: float | None) -> list[Row]:
    return [
        {"epoch": n + 1, "loss": 8.0 - n, "loss_of_guessing": math.log(4097), "knn_top1": value, "seconds": 60.0}
        for n, value in enumerate(knn)
    ]


def run(name: str = "a", **changes: Any) -> RunFacts:
    config = CONFIG | changes.pop("config", {})
    values = {"rows": rows(0.2, None, 0.5), "environment": {"processor": "a CPU", "cores": 2}, "state": "finished"}
    return RunFacts(name=name, path=f"runs/{name}", config=config, **{**values, **changes})


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def noise(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).integers(0, 256, (90, 120, 3), np.uint8)


def each(function: Any, numbers: Any) -> list[str]:
    return [function(number) for number in numbers]


def test_thumbnails_keep_to_their_budget_by_their_size() -> None:
    ample, side = thumbnails(20, noise, 10_000_000, each)
    assert side == SIDES_PX[0] and decoded(ample[3]).size == (side, side) and decoded(ample[3]).format == "WEBP"
    for budget in (30_000, 60_000):
        made, side = thumbnails(20, noise, budget, each)
        assert sum(map(len, made)) <= budget and len(made) == 20 and side < SIDES_PX[0]
    assert thumbnails(0, noise, 1000, each)[0] == []


def test_a_thumbnail_is_the_middle_square() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = (250, 120, 10)
    shown = np.asarray(decoded(thumbnail(pixels, 32)).convert("RGB")).astype(int)
    assert np.abs(shown[4:-4, 4:-4] - (250, 120, 10)).max() < 30


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_a_map_puts_what_is_alike_together_and_is_always_the_same(method: Any) -> None:
    if method == "umap":
        pytest.importorskip("umap", reason="umap-learn is not installed")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16)) * 4
    features = (centres.repeat(20, 0) + rng.normal(size=(60, 16)) * 0.3).astype(np.float32)
    places, used = laid_out(features, method)
    assert used == method and places.shape == (60, 2)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(60) * 1e9
    assert (distance.argmin(1) // 20 == np.arange(60) // 20).all()
    assert (laid_out(features, method)[0] == places).all()


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (12, 8), (5, 1)])
def test_too_few_images_for_a_neighbourhood_are_laid_out_by_pca(shape: tuple[int, int]) -> None:
    places, used = laid_out(np.random.default_rng(0).normal(size=shape).astype(np.float32), "auto")
    assert used == "pca" and places.shape == (shape[0], 2) and np.isfinite(places).all()


def test_runs_of_other_seeds_are_one_group_and_others_are_not() -> None:
    runs = [run("a"), run("b", config={"seed": 1, "data": "/elsewhere"}), run("c", config={"model.temperature": 0.1})]
    assert [[r.name for r in group.runs] for group in grouped(runs)] == [["a", "b"], ["c"]]
    other_data = replace(runs[1], environment={"data": {"train": "other"}})
    assert len(grouped([runs[0], other_data])) == 2


def test_the_mean_is_drawn_where_every_run_has_a_value() -> None:
    runs = [run("a"), run("b", config={"seed": 1}, rows=rows(0.4, 0.6))]
    _, figure = figures(runs, {})["knn"]
    curve = next(trace for trace in figure["data"] if trace["meta"] == "curve")
    assert (curve["x"], curve["y"]) == ([1.0], pytest.approx([30.0]))
    band = next(trace for trace in figure["data"] if trace["meta"] == "spread")
    half = 100 * 0.2 / math.sqrt(2)
    assert band["y"] == pytest.approx([30 + half, 30 - half], rel=1e-5)


def test_levels_are_those_to_compare_with() -> None:
    one = run(baseline={"raw_pixels_knn_top1": 0.3, "random_backbone_knn_top1": 0.25})
    drawn = figures([one], {"knn_top1": 0.8})
    named = {t["name"]: t["y"] for t in drawn["knn"][1]["data"] if t["meta"] == "level"}
    assert named == {
        "raw pixels: 30": [30.0, 30.0], "untrained backbone: 25": [25.0, 25.0],
        "the published run at its end: 80": [80.0, 80.0],
    }  # fmt: skip
    assert any(t["name"].startswith("guessing, log(1+K): 8.318") for t in drawn["loss"][1]["data"])


def test_a_column_of_somebodys_own_evaluator_has_a_chart_and_nan_is_no_point() -> None:
    own = run(rows=[{"epoch": 1, "loss": math.nan, "colours": 3.0}, {"epoch": 2, "loss": 5.0, "colours": 4.0}])
    drawn = figures([own], {})
    assert drawn["own-0"][0] == "colours" and drawn["own-0"][1]["data"][0]["y"] == [3.0, 4.0]
    assert drawn["loss"][1]["data"][0]["x"] == [2.0]


def test_names_are_escaped_for_plotly() -> None:
    drawn = figures([run("<a href='http://x'>a")], {})["loss"][1]["data"]
    assert drawn[0]["name"] == "&lt;a href='http://x'&gt;a"
    dots = map_figure([(0, 0.0, 0.0), (7, 1.0, 1.0)], [1, 0], ["<b>", "c"])["data"]
    assert [(trace["name"], trace["customdata"]) for trace in dots] == [("&lt;b&gt;", [7]), ("c", [0])]


@pytest.mark.parametrize(
    ("changes", "word", "why"),
    [
        ({"warnings": [(3, "collapse: one point")]}, "look again", "In the last epoch (3): collapse: one point."),
        ({"warnings": [(2, "not learning")]}, "healthy", "In epoch 2 it still said: not learning."),
        ({}, "healthy", "No sign of collapse, guessing or a leak in 3 epochs."),
        ({"baseline": {"random_backbone_knn_top1": 0.55}}, "too early to say", "no better than the backbone before"),
        ({"baseline": {"random_backbone_knn_top1": 0.49}}, "healthy", "hardly above the untrained backbone"),
        ({"rows": []}, "too early to say", "No epoch has ended yet."),
    ],
)
def test_the_verdict(changes: dict[str, Any], word: str, why: str) -> None:
    found = verdict(run(**changes))
    assert found.word == word and why in found.why
    assert found.good is {"healthy": True, "look again": False}.get(word)


def test_the_summary_in_words() -> None:
    told = " ".join(sentences(run(baseline={"raw_pixels_knn_top1": 0.3, "random_backbone_knn_top1": 0.25}), 9469))
    for words in ("a resnet18 at 64 px", "9,469 images of /photos", "3 of 3 epochs in 3 min", "a CPU, 2 cores"):
        assert words in told
    assert "kNN names 50.0 % of the validation images rightly; raw pixels give 30.0 %" in told
    assert "no linear classification yet" in told
    zoomed = run(config={**run().config, "views.eval_zoom": 1.5})
    assert "a resnet18 at 64 px (evaluated at 96 px)" in " ".join(sentences(zoomed, 0))
    assert "needs labels" in " ".join(sentences(run(rows=rows(None)), 0))
    assert [duration(s) for s in (12, 600, 36_000)] == ["12 s", "10 min", "10.0 h"]


def test_too_early_is_said_as_such() -> None:
    found = verdict(run(health=(None, "too early", "no sign of trouble yet")))
    assert found.good is None and found.why == "No sign of trouble yet."


def labels_result() -> LabelsResult:
    def curve(name: str, *top1: list[float]) -> LabelCurve:
        return LabelCurve(name, [LabelPoint(s, int(1000 * s), t) for s, t in zip((0.1, 1.0), top1)])

    curves = [curve("frozen", [0.5, 0.6], [0.8]), curve("random", [0.2, 0.3], [0.4])]
    return LabelsResult("last", 10, 1, "/photos", {}, 0, 2, 1000, 100, ["a", "b"], curves, 1.0)


def test_the_labels_curve_has_means_intervals_and_numbers_of_images() -> None:
    assert labels_figure([run()]) is None
    one = labels_figure([run(labels=labels_result())])
    two = labels_figure([run(labels=labels_result()), run("<b>", labels=labels_result())])
    assert one is not None and two is not None
    frozen, random = one["data"]
    assert (frozen["name"], random["name"]) == ("pre-trained, frozen", "random weights, frozen")
    assert (frozen["x"], frozen["y"], frozen["customdata"]) == ([10.0, 100.0], [55.0, 80.0], [100, 1000])
    assert frozen["error_y"]["array"][0] > 0 and frozen["error_y"]["array"][1] == 0
    assert one["layout"]["xaxis"]["ticktext"] == ["10", "100"]
    assert two["data"][2]["name"] == "&lt;b&gt;: pre-trained, frozen"


def test_what_few_labels_give_is_on_the_page() -> None:
    scores = SplitScores(8, 1.0, ["a", "b"], [(0, 0, 3), (0, 1, 2), (1, 0, 1), (1, 1, 2)])
    tuned = FinetuneResult(
        "runs/a", "last", 10, "scratch", {"labels": "10%"}, 12, [6, 6], 8, 7, 70, 0.9, scores, scores, 5, None, {},
        ["a", "b"], ["a", "b"],
    )  # fmt: skip
    made = run(labels=labels_result(), finetuned=[("finetune-<10", tuned)])
    text = render(Contents([made], None, "No pictures.", None, [], {}, "today", "1"))
    assert 'id="chart-labels"' in text and "With few labels" in text and "finetune-&lt;10" in text
    assert "12 (10%)" in text and "62.50 %" in text and "random weights" in text
    bare = render(Contents([run()], None, "No pictures.", None, [], {}, "today", "1"))
    assert "With few labels" not in bare and "chart-labels" not in bare.split("<script>")[0]


def test_figures_of_other_data_name_it() -> None:
    scores = SplitScores(8, 1.0, ["a", "b"], [(0, 0, 3), (0, 1, 2), (1, 0, 1), (1, 1, 2)])
    theirs = {"train": "2", "val": "2"}
    tuned = FinetuneResult(
        "runs/a", "last", 10, "run", {"labels": "10%"}, 12, [6, 6], 8, 7, 70, 0.9, scores, scores, 5, "/tuned<", theirs,
        ["a", "b"], ["a", "b"],
    )  # fmt: skip
    linear = LinearResult(
        "cached", "last", 10, 3, "x", {}, 0.1, 0.0, 1.0, 0.75, 0.5, 1.0, 20, 8, ["a", "b"], "/linear", 1.0, {}, theirs
    )
    labels = replace(labels_result(), data="/few", data_sha256=theirs)
    made = run(
        environment={"data": {"train": "1", "val": "1"}}, finetuned=[("ft", tuned)], named=[linear], labels=labels
    )
    text = render(Contents([made], None, "No pictures.", None, [], {}, "today", "1"))
    for words in ("ft (labels of /tuned&lt;)", "a, labels of /few:", "Linear classification of /linear (cached, last"):
        assert words in text
    own = replace(made, environment={"data": theirs})
    plain = render(Contents([own], None, "No pictures.", None, [], {}, "today", "1"))
    assert not any(data in plain for data in ("/tuned", "/few", "/linear"))


def page_of(confusion: Confusion, classes: list[str]) -> str:
    return render(Contents([run()], None, "No pictures.", confusion, classes, {}, "today", "1"))


def test_very_many_classes_are_a_list_of_mistakes() -> None:
    classes = [f"class-{n}" for n in range(MOST_CLASSES + 1)]
    counts = {(n, n): 5 for n in range(len(classes))} | {(3, 4): 9, (8, 2): 2}
    many = page_of(Confusion("kNN", sum(counts.values()), counts), classes)
    assert "the commonest mistakes" in many and many.index("class-3</td>") < many.index("class-8</td>")
    few = page_of(Confusion("kNN", 5, {(0, 0): 5}), classes[:1])
    assert "the commonest mistakes" not in few and "true class by row" in few


def test_names_that_are_no_text_and_names_that_are_html() -> None:
    text = page_of(Confusion("kNN", 1, {(0, 1): 1}), ["\udcff", "</script><script>alert(1)</script>"])
    assert "<script>alert" not in text and "\\udcff" in text
    text.encode()


def test_the_library_is_the_one_that_was_published() -> None:
    """npm's plotly.js-basic-dist-min 4.1.1, byte for byte: it can be checked against the registry."""
    file = resources.files("moco").joinpath("reporting", "vendor", "plotly-basic.min.js").read_bytes()
    assert hashlib.sha256(file).hexdigest() == "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
    assert b"</script" not in file
