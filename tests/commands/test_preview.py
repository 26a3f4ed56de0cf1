"""`moco preview` draws the views that training sees, with what was drawn for each below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import SMALL

import moco
from moco.cli import main
from moco.config import ViewsConfig
from moco.data.dataset import open_dataset
from moco.data.sampler import Batch
from moco.reporting.preview import GAP_PX, LEAST_PX, LINE_PX
from moco.runs.preview import chosen, drawn_views, headings, said, to_bytes
from moco.runs.trained import pixel_source
from moco.views.make import TrainingViews
from moco.views.parameters import draw
from moco.views.pipelines import IMAGENET, Crops, pipeline


def test_the_picture_is_enlarged_and_has_lines_below_each_view(flat: Path, tmp_path: Path) -> None:
    out = tmp_path / "views.png"
    assert main(["preview", *SMALL, "--data", str(flat), "--out", str(out), "--rows=3"]) == 0
    picture = np.asarray(Image.open(out))
    side, step, top = LEAST_PX, LEAST_PX + GAP_PX, LINE_PX + GAP_PX  # 32 px five times; centre view and three pairs
    assert picture.shape[1] == 7 * step + GAP_PX and picture.shape[0] > 3 * (side + 2 * LINE_PX)
    tiles = [picture[top : top + side, GAP_PX + n * step : GAP_PX + n * step + side] for n in range(7)]
    assert all(tile.std() > 5 for tile in tiles) and (tiles[0] != tiles[1]).any()
    assert all((tile[::5, ::5] == tile[4::5, 4::5]).all() for tile in tiles)
    below = picture[top + side + 2 : top + side + LINE_PX, GAP_PX : GAP_PX + side]
    assert below.min() < 160 and below.max() == 255


def test_the_page_has_every_view_and_asks_nobody(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # a page of its own may be replaced
        assert main(["preview", *SMALL, "--data", str(flat), "--html", "--rows=2"]) == 0
    text = (tmp_path / "preview.html").read_text()
    assert text.count('<img src="data:image/png;base64,') == 14 and "http:" not in text and "https:" not in text
    assert text.count("crop ") >= 12 and "epoch 3, key" in text and "brightness x" in text


def test_what_is_shown_is_what_training_sees(flat: Path) -> None:
    config = moco.recipe(
        "folder-cpu", data=str(flat), **{"views.size": 32, "views.small_crops": 2, "views.small_size": 16}
    )
    source = pixel_source(open_dataset(str(flat), config.store, config.short_side).train, torch.device("cpu"))
    images = chosen(len(source), config.seed, 4)
    rows = drawn_views(config, source, images, pairs=2, small=True)
    for epoch in (0, 1):
        made = TrainingViews(source, Crops.of(config.views), config.seed)(Batch(images, epoch, epoch))
        shown = [1 + 2 * epoch, 2 + 2 * epoch, *((5, 6) if epoch == 0 else ())]
        for column, trained in zip(shown, made):
            for row, pixels in zip(rows, to_bytes(trained, IMAGENET), strict=True):
                assert (row[column].pixels == pixels).all()
    assert {len(row) for row in rows} == {7} and len(headings(2, pairs=2)) == 7


def test_what_is_said_is_what_was_drawn() -> None:
    always = ViewsConfig("v2", 32, 0.5, jitter_p=1.0, grey_p=1.0, blur_p=1.0, flip_p=1.0)
    never = ViewsConfig("crop_flip", 32, 1.0, ratio=[1.0, 1.0], flip_p=0.0)
    sizes = np.full(5, 100, np.int32)
    everything, nothing = (draw(pipeline(v), sizes, sizes, np.arange(5), 0, 0, 0) for v in (always, never))
    for n in range(5):
        assert said(nothing, n, 100 * 100) == ["crop 100%: 100 x 100 at 0, 0"]
        crop, *jitter, grey, blur, mirrored = said(everything, n, 100 * 100)
        assert 50 <= int(crop.split("%")[0].removeprefix("crop ")) <= 100
        assert [phrase.split()[0] for phrase in jitter] == [
            ("brightness", "contrast", "saturation", "hue")[factor] for factor in everything.order[n]
        ]
        assert (grey, mirrored) == ("grey", "mirrored") and blur.startswith("blur")


def test_mistakes(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["preview", *SMALL, "--data", str(flat)]
    (tmp_path / "mine.html").write_text("somebody's page")
    Image.new("RGB", (9, 9)).save(tmp_path / "cat.png")
    cat = (tmp_path / "cat.png").read_bytes()
    for words, answer in (
        (["--out", str(tmp_path / "views.jpg")], ".png"),
        (["--out", str(tmp_path / "v.png"), "--rows=0"], "--rows"),
        (["--out", str(tmp_path / "v.png"), "--html"], ".html"),
        (
            ["--out", str(tmp_path / "mine.html")],
            "mine.html is there and doesn't say that moco preview wrote it",
        ),
        (
            ["--out", str(tmp_path / "cat.png")],
            "cat.png is there and doesn't say that moco preview wrote it",
        ),
    ):
        assert main([*common, *words]) == 2
        assert answer in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "mine.html"]
    assert (tmp_path / "cat.png").read_bytes() == cat
    assert (tmp_path / "mine.html").read_text() == "somebody's page"


def test_its_own_picture_is_replaced(flat: Path, tmp_path: Path) -> None:
    command = ["preview", *SMALL, "--data", str(flat), "--out", str(tmp_path / "v.png")]
    assert main([*command, "--rows=1"]) == 0
    small = (tmp_path / "v.png").stat().st_size
    assert main([*command, "--rows=3"]) == 0
    assert (tmp_path / "v.png").stat().st_size > small
