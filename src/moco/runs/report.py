"""The report of one or several runs: a page that holds everything it shows, and the plots as files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moco import __version__
from moco.config import Config
from moco.config_check import flat
from moco.console import say
from moco.data.catalog import DATASETS
from moco.errors import UserError, printable
from moco.evaluators.verdict import Setting, told, verdict
from moco.files import expanded, read_json, write_text
from moco.label_curves import LabelsResult
from moco.reporting.contents import Confusion, Contents, Looked, RunFacts
from moco.reporting.embedding_map import METHODS, Method, umap_is_there
from moco.reporting.ours import check_ours
from moco.reporting.page import GENERATOR, render
from moco.reporting.plots import write_plots
from moco.results import Evaluation, FinetuneResult, LinearResult
from moco.rundir import RunDir
from moco.runs.listing import state_of
from moco.runs.report_pictures import look
from moco.runs.trained import open_run
from moco.tables import Row, read_csv


@dataclass(frozen=True)
class Report:
    """What `report` wrote.

    Attributes:
        page: the HTML file.
        plots: the plots as files.
        notes: a sentence for each thing that was left out.
    """

    page: Path
    plots: list[Path]
    notes: list[str]


def report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    map: Method = "auto",
    checkpoint: str | None = None,
    data: str | None = None,
) -> Report:
    """Write the page and the plots of `runs`. The pictures are those of the first.

    Args:
        runs: a run's path or a run, or several.
        out: the page; default `report.html` in the first run. Only a page of this program is replaced.
        map: how the map is laid out: `umap`, `tsne`, `pca`, or `auto` (UMAP where it is installed, else t-SNE).
        checkpoint: whose features; default the one that the linear classifier was trained on, else `last`.
        data: images to look at instead of those that the run was trained on.

    Raises:
        UserError: no such run or no epoch yet, an `out` that is somebody else's file, a map that can't be made.
    """
    paths = [runs] if isinstance(runs, str | os.PathLike) else [*runs]
    if not paths:
        raise UserError("give at least one run to report on")
    folders = [RunDir.open(path) for path in paths]
    page = folders[0].report_file if out is None else expanded(os.fspath(out), "--out")
    _check_options(page, paths, map)
    facts = [_facts(folder, paths[n]) for n, folder in enumerate(folders)]
    plots, notes = [], []
    for folder in folders:
        written, missing = _plots(folder)
        plots += written
        notes += [f"{os.fspath(folder.root)}: {sentence}" if len(folders) > 1 else sentence for sentence in missing]
    looked, confusion, why_not = _looked(paths[0], checkpoint, data, map)
    if looked is None and facts[0].evaluation is not None:
        confusion = _from_evaluation(facts[0].evaluation)
    classes = _classes(looked, facts[0])
    contents = Contents(
        runs=facts,
        looked=looked,
        no_pictures=why_not,
        confusion=confusion,
        classes=classes,
        published=_published(facts[0]),
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        train_images=_learnt_from(facts[0], None if data else looked),
    )
    write_text(page, render(contents))
    return Report(page, plots, [*filter(None, [why_not]), *notes])


def _learnt_from(run: RunFacts, looked: Looked | None) -> int:
    """How many images the run learnt from, by its own data `looked` at or classified; 0 where neither was."""
    if looked is not None:
        return looked.train_images
    return run.linear.train_images if run.linear and run.linear.data == run.config["data"] else 0


def _check_options(page: Path, paths: Sequence[str | os.PathLike[str]], method: str) -> None:
    """Raises `UserError` before anything is computed."""
    if not paths:
        raise UserError("no run to report on: give at least one run directory")
    if method not in METHODS:
        raise UserError(f"--map is {method!r}, give {', '.join(METHODS)}")
    if method == "umap" and not umap_is_there():
        raise UserError("--map umap needs the package umap-learn: install it, or take --map tsne")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {page}: give a name that ends in .html")
    check_ours(page, GENERATOR)


def _plots(folder: RunDir) -> tuple[list[Path], list[str]]:
    config = folder.read_config()
    model = config.model
    about = f"{model.backbone}, {config.views.size} px, queue {model.queue_size:,}, T {model.temperature:g}"
    title = f"{folder.root.resolve().name}  ({about})"
    return write_plots(title, folder.metrics_file, folder.linear / "metrics.csv", folder.plots)


def _facts(folder: RunDir, given: str | os.PathLike[str]) -> RunFacts:
    """One run in figures. Raises `UserError` for one without an ended epoch, or that can't be read."""
    if not folder.metrics_file.is_file():
        raise UserError(f"nothing to plot in {os.fspath(given)}: no metrics.csv yet, has the first epoch ended?")
    run = open_run(given)
    rows = read_csv(folder.metrics_file)
    if not rows:
        raise UserError(f"nothing to plot: {folder.metrics_file} has no row yet")
    linear, table = folder.linear / "result.json", folder.linear / "metrics.csv"
    return RunFacts(
        name=printable(folder.root.resolve().name),
        path=os.fspath(given),
        config=flat(run.config),
        rows=rows,
        environment=folder.read_environment(),
        state=state_of(folder, run.config, rows)[0],
        warnings=_warnings(rows, run.config),
        health=_health(rows, run.config),
        linear_rows=read_csv(table) if table.is_file() else [],
        linear=LinearResult.load(linear) if linear.is_file() else None,
        named=[LinearResult.load(place / "result.json") for place in folder.named_linears],
        evaluation=Evaluation.load(folder.evaluation_file) if folder.evaluation_file.is_file() else None,
        finetuned=_finetuned(folder),
        labels=LabelsResult.load(folder.labels_file) if folder.labels_file.is_file() else None,
        baseline=read_json(folder.baseline_file, "baseline") if folder.baseline_file.is_file() else {},
    )


def _finetuned(folder: RunDir) -> list[tuple[str, FinetuneResult]]:
    """The fine-tunings in the run's directory that have ended."""
    places = sorted(file.parent for file in folder.root.glob(f"*/{folder.finetune_file.name}"))
    found, own = [], folder.identity()
    for place in map(RunDir, places):
        if not place.result_file.is_file():
            continue
        if _begun_from(place) in (own, None):
            found.append((printable(place.root.name), FinetuneResult.load(place.result_file)))
        else:
            say(f"{place.root} was fine-tuned from another run that was here before: left out")
    return found


def _begun_from(place: RunDir) -> str | None:
    """The number of the run that a fine-tuning began from; None for one of before it was noted."""
    return place.read_environment().get("run")


def _health(rows: list[Row], config: Config) -> tuple[bool | None, str, str]:
    if config.model.queue_size is None:
        return True, "", ""
    found = verdict(rows, Setting.of(config))
    return found.good, found.sign, found.sentence


def _warnings(rows: list[Row], config: Config) -> list[tuple[int, str]]:
    if config.model.queue_size is None:
        return []
    setting = Setting.of(config)
    said = [(int(row["epoch"] or 0), told(rows[: n + 1], setting)[1]) for n, row in enumerate(rows)]
    return [(epoch, sentence) for epoch, sentence in said if sentence is not None]


def _looked(
    run: str | os.PathLike[str], checkpoint: str | None, data: str | None, method: Method
) -> tuple[Looked | None, Confusion | None, str]:
    """(pictures, confusion, why there are none): without its data or checkpoint a run still has its figures."""
    try:
        return *look(run, checkpoint, data, method), ""
    except UserError as error:
        if data is not None or checkpoint is not None:  # then this is what was asked for
            raise
        return None, None, f"There are no pictures here: {error}."


def _from_evaluation(evaluation: Evaluation) -> Confusion:
    counts = {(true, predicted): count for true, predicted, count in evaluation.val.confusion}
    return Confusion(f"linear classification ({evaluation.protocol})", evaluation.val.images, counts)


def _classes(looked: Looked | None, first: RunFacts) -> list[str]:
    if looked is not None:
        return looked.classes
    found = first.evaluation.class_names if first.evaluation else []
    return [printable(name) for name in found]


def _published(first: RunFacts) -> dict[str, float]:
    """What is known of a published run on the same classes."""
    classes = first.linear.classes if first.linear else []
    for entry in DATASETS.values():
        if entry.published and sorted(entry.class_names) == sorted(classes):
            return dict(entry.published)
    return {}
