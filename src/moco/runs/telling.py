"""Who a pre-training tells of itself: scalars and the views as it begins, the features for the projector at its end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moco.config import Config
from moco.config_check import flat
from moco.data.dataset import Dataset
from moco.errors import printable
from moco.evaluators.frozen import Frozen
from moco.evaluators.sample import sample
from moco.reporting.preview import Tile, sheet
from moco.rundir import RunDir
from moco.runs.preview import chosen, drawn_views, headings
from moco.runs.trained import pixel_source
from moco.sinks.projector import MOST_IMAGES, write_projector
from moco.sinks.sink import About, Sink, opened
from moco.sinks.tensorboard_sink import TensorBoard
from moco.train.training import Training
from moco.views.source import Source

VIEWS = 6  # images whose views are shown


def sinks(training: Training[Config], source: Source) -> Callable[[RunDir], Sink]:
    """Opens TensorBoard and the trackers that the configuration names; a run that begins shows them its views."""

    def opening(run: RunDir) -> Sink:
        config = training.config
        name = printable(run.root.resolve().name)
        about = About(name, run.identity() or name, run.root, flat(config))
        sink = opened(TensorBoard(run.tensorboard), config.log, about, begins=training.progress.step == 0)
        if training.progress.step == 0:
            rows = drawn_views(config, source, chosen(len(source), config.seed, VIEWS))
            tiles = [[Tile(view.pixels, view.said) for view in row] for row in rows]
            sink.picture("views", np.asarray(sheet(tiles, headings())))
        return sink

    return opening


def show_features(run: RunDir, frozen: Frozen, data: Dataset) -> None:
    """Features of some images, validation's where there are any, for TensorBoard's projector."""
    store = data.train if data.val is None else data.val
    images = sample(len(store), MOST_IMAGES)
    pixels = [store.image(int(image)) for image in images]
    source = pixel_source(store, frozen.runtime.device)
    features = frozen.features(source, images=images).values[0].float().cpu().numpy()
    words = [
        store.classes[label] if label >= 0 else store.names[image]
        for image, label in zip(images.tolist(), store.labels[images].tolist())
    ]
    if frozen.runtime.is_main:
        write_projector(run.tensorboard, features, [printable(word) for word in words], pixels)
