"""The page of real runs: what is on it, what is escaped, and what it does in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.runs.conftest import BAD_NAME, CLASSES, TINY

import moco
from moco.errors import UserError
from moco.results import Evaluation

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)


class Page(HTMLParser):
    """Text, and every tag with its attributes, as a browser's parser sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags = "", []  # type: ignore[var-annotated]
        self.feed(path.read_text())

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] not in ("script", "style"):
            self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(("/" + tag, {}))


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'id="report-data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


@pytest.fixture(scope="module")
def page(trained: list[moco.Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moco.report(trained, tmp_path_factory.mktemp("page") / "page.html", map="pca").page


def test_it_is_one_file_that_asks_nobody_for_anything(page: Path) -> None:
    tags = Page(page).tags
    links = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith(("data:", "#")) for link in links if link)
    assert page.stat().st_size < 10_000_000
    assert [tag for tag, _ in tags].count("script") == 3  # the data, the library, the glue


def test_what_users_name_is_escaped(page: Path) -> None:
    found = Page(page)
    assert BAD_NAME in found.text and BAD_NAME not in page.read_text()
    assert data_of(page)["classes"] == sorted(CLASSES)
    names = [trace["name"] for trace in data_of(page)["map"]["data"]]
    assert all("<" not in name for name in names)  # plotly reads some tags in names


def test_the_summary_and_the_curves_have_the_runs_figures(page: Path, trained: list[moco.Run]) -> None:
    text = " ".join(Page(page).text.split())
    score = Evaluation.load(trained[0].folder.evaluation_file).val
    assert f"{100 * score.top1:.2f} % of 18 validation images" in text
    assert "on 36 images of" in text and "moco pretrain --recipe" in text and "git commit" in text
    loss = data_of(page)["charts"]["chart-loss"]["data"]
    lines = [trace for trace in loss if trace["meta"] == "curve"]
    assert [line["name"] for line in lines] == ["run-0, run-1 (mean of 2 seeds)", "run-2"]
    first, second, third = ([row["loss"] for row in run.metrics] for run in trained)
    assert lines[0]["y"] == pytest.approx([(a + b) / 2 for a, b in zip(first, second)], rel=1e-5)
    assert lines[1]["y"] == pytest.approx(third, rel=1e-5)
    band = next(trace for trace in loss if trace["meta"] == "spread")
    half = [abs(a - b) / 2**0.5 for a, b in zip(first, second)]
    middle = lines[0]["y"]
    assert band["y"] == pytest.approx(
        [*(m + h for m, h in zip(middle, half)), *reversed([m - h for m, h in zip(middle, half)])], rel=1e-4
    )


def test_the_confusion_is_that_of_the_evaluation_and_its_cells_hold_those_pictures(
    page: Path, trained: list[moco.Run]
) -> None:
    data = data_of(page)
    matrix = Evaluation.load(trained[0].folder.evaluation_file).val.matrix()
    found = [[len(data["cells"].get(f"{t}-{p}", [])) for p in range(3)] for t in range(3)]
    assert found == matrix
    for key, numbers in data["cells"].items():
        for number in numbers:
            _, name, split, label, predicted = data["pictures"][number]
            assert (f"{label}-{predicted}", split) == (key, "val") and name.split("/")[1] == data["classes"][label]


def test_pictures_are_the_images_that_they_are_said_to_be(page: Path, three_classes: Path) -> None:
    data = data_of(page)
    assert sum(len(trace["x"]) for trace in data["map"]["data"]) == 18
    for thumbnail, name, *_ in data["pictures"][::7]:
        shown = Image.open(io.BytesIO(base64.b64decode(thumbnail))).convert("RGB")
        own = Image.open(three_classes / name).convert("RGB").crop((4, 0, 44, 40)).resize(shown.size)
        assert np.abs(np.asarray(shown, float) - np.asarray(own, float)).mean() < 25


def test_without_its_data_the_page_has_no_pictures_and_says_so(
    trained: list[moco.Run], three_classes: Path, tmp_path: Path
) -> None:
    moved = three_classes.with_name("moved")
    three_classes.rename(moved)
    try:
        made = moco.report(trained[0], tmp_path / "page.html")
    finally:
        moved.rename(three_classes)
    text = Page(made.page).text
    assert made.notes[0].startswith("There are no pictures here") and made.notes[0] in " ".join(text.split())
    assert "By linear classification (cached)" in text and BAD_NAME in text  # evaluation.json is still there
    assert "Nearest neighbours" not in text


def test_without_labels_there_is_everything_that_needs_none(flat: Path, tmp_path: Path) -> None:
    run = moco.pretrain(moco.recipe("folder-cpu", data=str(flat), **TINY), tmp_path / "run")
    made = moco.report(run, map="pca")
    assert made.page == run.path / "report.html"
    text = Page(made.page).text
    for heading in ("Map of the training images", "Nearest neighbours", "Least typical images", "What training saw"):
        assert heading in text
    assert "Perhaps mislabelled" not in text and "What is taken for what" not in text and "✓" not in text
    data = data_of(made.page)
    assert "chart-knn" not in data["charts"] and "chart-loss" in data["charts"]
    assert len(data["map"]["data"][0]["x"]) == 24


def test_only_a_page_of_ours_is_replaced(trained: list[moco.Run], tmp_path: Path) -> None:
    theirs = tmp_path / "index.html"
    theirs.write_text("<html>mine</html>")
    with pytest.raises(UserError, match="doesn't say that moco report wrote it"):
        moco.report(trained[1], theirs)
    assert theirs.read_text() == "<html>mine</html>"
    with pytest.raises(UserError, match=r"ends in \.html"):
        moco.report(trained[1], tmp_path / "page.pdf")
    with pytest.raises(UserError, match="--map is 'som'"):
        moco.report(trained[1], map="som")  # type: ignore[arg-type]


# In a browser.


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page in the browser, with everything that it complained of or asked for."""

    def __init__(self, chromium: Any, path: Path, width: int = 1100, scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        phone = width < 640
        context = chromium.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, is_mobile=phone, has_touch=phone
        )
        self.page = context.new_page()
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#map .points path", state="attached")

    def asked(self) -> list[str]:
        return [url for url in self.requests if not url.startswith("data:")]


def test_in_a_browser_it_draws_and_asks_for_nothing(chromium: Any, page: Path) -> None:
    opened = Opened(chromium, page)
    assert opened.complaints == [] and opened.asked() == [page.as_uri()]
    charts = data_of(page)["charts"]
    assert len(charts) >= 9
    for name in charts:
        drawn = opened.page.locator(f"#{name} .scatterlayer path.js-line").evaluate_all(
            "all => all.map(one => one.getAttribute('d'))"
        )
        assert drawn and all(len(d) > 5 for d in drawn)
    broken = "all => all.filter(one => !one.complete || !one.naturalWidth).length"
    assert opened.page.locator("img[data-picture], .views img").evaluate_all(broken) == 0


def test_pointing_at_a_dot_shows_its_image(chromium: Any, page: Path) -> None:
    opened, data = Opened(chromium, page), data_of(page)
    dot = opened.page.locator("#map .points path").first
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    image = opened.page.locator("#map-card img")
    image.wait_for(state="visible")
    number = data["map"]["data"][0]["customdata"][0]
    assert image.get_attribute("src") == f"data:image/webp;base64,{data['pictures'][number][0]}"
    assert image.evaluate("one => one.decode().then(() => one.naturalWidth)") >= 24
    assert data["pictures"][number][1] in opened.page.locator("#map-card figcaption").inner_text()
    assert opened.complaints == []


def test_a_cell_opens_the_pictures_behind_it(chromium: Any, page: Path) -> None:
    opened, data = Opened(chromium, page), data_of(page)
    for key, numbers in data["cells"].items():
        opened.page.locator(f'[data-cell="{key}"]').click()
        shown = opened.page.locator("#gallery img").evaluate_all("all => all.map(one => one.src)")
        assert shown == [f"data:image/webp;base64,{data['pictures'][number][0]}" for number in numbers]
        opened.page.keyboard.press("Escape")
        assert not opened.page.locator("#gallery").is_visible()
    assert opened.complaints == []


def test_a_phone_needs_no_scrolling_sideways(chromium: Any, page: Path) -> None:
    opened = Opened(chromium, page, width=390)
    assert opened.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]") == [
        390,
        390,
    ]
    opened.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390


CONTRASTS = """() => {
  const channels = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = (one) => !one ? [255, 255, 255, 1]
    : over(channels(getComputedStyle(one).backgroundColor), behind(one.parentElement));
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (c) => weights.reduce((sum, weight, i) => sum + weight * linear(c[i] / 255), 0);
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const words = [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
    if (!words || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(one.tagName) || !one.getClientRects().length) continue;
    const style = getComputedStyle(one), svg = one.namespaceURI.endsWith("svg");
    const under = behind(svg ? one.closest(".plot") : one);
    const [a, b] = [light(over(channels(svg ? style.fill : style.color), under)), light(under)];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), words.slice(0, 40)]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_what_is_behind_it(chromium: Any, page: Path, scheme: str) -> None:
    opened = Opened(chromium, page, scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = opened.page.evaluate(CONTRASTS)
    assert len(found) > 200
    assert found[0][0] >= 4.5, found[:5]
    behind = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (behind == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_chart_keeps_its_room_when_the_window_changes(chromium: Any, page: Path) -> None:
    opened = Opened(chromium, page)
    opened.page.set_viewport_size({"width": 700, "height": 844})
    opened.page.wait_for_timeout(600)
    outside = """all => all.filter((one) => {
      const [plot, drawn] = [one.getBoundingClientRect(), one.querySelector(".main-svg").getBoundingClientRect()];
      return drawn.bottom > plot.bottom + 1 || drawn.right > plot.right + 1;
    }).length"""
    assert opened.page.locator(".plot").evaluate_all(outside) == 0


def test_it_prints(chromium: Any, page: Path) -> None:
    opened = Opened(chromium, page)
    assert opened.page.pdf(format="A4")[:5] == b"%PDF-"
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.page.locator("nav").is_visible()
