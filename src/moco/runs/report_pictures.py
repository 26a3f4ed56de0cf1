"""What a run's frozen backbone makes of its images: map, neighbours, mistakes, odd ones; and what it learned from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from moco.data.store import Store
from moco.errors import printable
from moco.evaluators.classifier import Classifier
from moco.evaluators.knn import knn_predict
from moco.evaluators.proof import fingerprint
from moco.evaluators.sample import sample
from moco.randomness import Purpose, permutation
from moco.reporting.contents import Confusion, FeatureMaps, Looked, Neighbours, Picture, Views
from moco.reporting.embedding_map import NAMES, Method, laid_out
from moco.reporting.thumbnails import thumbnails, whole
from moco.rundir import RunDir
from moco.runs.close_images import Album, Close, Split, suspicious_ones, untypical_ones
from moco.runs.evaluate import readable
from moco.runs.feature_maps import feature_maps
from moco.runs.linear import CLASSIFIER
from moco.runs.preview import chosen, drawn_views
from moco.runs.trained import TrainedRun, open_trained, pixel_source
from moco.threads import Threads

MOST_IMAGES = 20_000  # of a split that are looked at; always the same
MOST_DOTS = 4_000  # of them on the map
BUDGET_BYTES = 7_000_000  # of all thumbnails together, as base64
QUERIES, SHOWN_NEIGHBOURS = 12, 8
VIEW_ROWS, VIEW_PAIRS, VIEW_PX = 6, 3, 128
MAPS = 8  # images whose feature maps are shown


def look(
    run: str | os.PathLike[str], checkpoint: str | None, data: str | None, method: Method
) -> tuple[Looked, Confusion | None]:
    """Everything that the page shows in pictures, and the confusion where there are labels.

    Raises `UserError` where the checkpoint or the data can't be opened.
    """
    file = RunDir.open(run).linear / CLASSIFIER
    classifier = Classifier.load(file) if file.is_file() else None
    which = checkpoint or (classifier.about["checkpoint"] if classifier else "last")
    trained = open_trained(run, which, data)
    stores, look_at = trained.data, _looker(trained)
    with ThreadPoolExecutor(1, "map") as aside:  # t-SNE keeps one core busy: the training images' features the others
        val = None if stores.val is None else look_at("val", stores.val)
        train = None if val is not None else look_at("train", stores.train)
        shown = val or train
        assert shown is not None
        rows = np.searchsorted(shown.numbers, sample(len(shown.store), MOST_DOTS))
        layout = aside.submit(laid_out, shown.unit[torch.from_numpy(rows).to(shown.unit.device)].cpu().numpy(), method)
        train = train or look_at("train", stores.train)
        close = Close.of(train, val)
        places, used = layout.result()
    album, limits = Album(), _limits(train, val, len(rows))
    dots = [(album.number(shown, row), float(x), float(y)) for row, (x, y) in zip(rows.tolist(), places)]
    labelled = bool(train.store.classes)
    predicted, by = _predicted(trained, train, shown, classifier) if labelled and shown is not train else (None, "")
    confusion = None if predicted is None else _confusion(shown, predicted, by, album)
    neighbours = _neighbours(train, shown, close, album)
    untypical, suspicious = untypical_ones(close, album), suspicious_ones(close, album) if labelled else []
    pictures = _pictures(album, {s.name: s for s in (train, shown)}, predicted, shown, trained)
    right = close.right_share() if labelled else None
    looked = Looked(
        classes=[printable(name) for name in readable(train.store.classes)],
        pictures=pictures,
        dots=dots,
        map_by=NAMES[used],
        map_split=shown.name,
        train_images=len(train.store),
        val_images=len(val.store) if val else 0,
        neighbours=neighbours,
        untypical=untypical,
        suspicious=suspicious,
        knn_top1=right,
        views=_views(trained),
        maps=_maps(trained, shown, neighbours, album),
        limits=limits,
    )
    return looked, confusion


def _looker(trained: TrainedRun) -> Callable[[str, Store], Split]:
    """A function of (name, store) that looks at a split."""
    frozen = trained.frozen

    def split(name: str, store: Store) -> Split:
        numbers = sample(len(store), MOST_IMAGES)
        return Split(
            name,
            store,
            numbers,
            frozen.features(pixel_source(store, frozen.runtime.device), images=numbers, title=f"features, {name}"),
        )

    return split


def _limits(train: Split, val: Split | None, dots: int) -> list[str]:
    said = [
        f"Of {len(split.store):,} images of {split.name} {len(split):,} were looked at, always the same."
        for split in (train, val)
        if split is not None and len(split) < len(split.store)
    ]
    shown = (val or train).store
    return said if dots == len(shown) else [*said, f"The map shows {dots:,} of {len(shown):,} images, always the same."]


def _predicted(
    trained: TrainedRun, train: Split, shown: Split, classifier: Classifier | None
) -> tuple[NDArray[np.int64], str]:
    """(int64 (N,), whose): the linear classifier's classes if it belongs to this backbone and data, else kNN's."""
    fits = (
        classifier is not None
        and classifier.classes == train.store.classes
        and classifier.about["backbone_sha256"] == fingerprint(trained.frozen.backbone)
    )
    if classifier is not None and fits:
        there = classifier.to(shown.features.device)
        found = torch.cat([there.logits(block).argmax(1) for _, block in shown.features.blocks()])
        return found.cpu().numpy(), f"linear classification ({classifier.about['protocol']})"
    options = trained.config.monitor
    found = knn_predict(train.labelled(), shown.features, options.knn_k, options.knn_temperature)
    return found.cpu().numpy(), f"kNN, k = {options.knn_k}"


def _confusion(shown: Split, predicted: NDArray[np.int64], by: str, album: Album) -> Confusion:
    pairs = [*zip(shown.labels.tolist(), predicted.tolist())]
    pictures: dict[tuple[int, int], list[int]] = {}
    for row, pair in enumerate(pairs):
        if (shown.name, row) in album.places:
            pictures.setdefault(pair, []).append(album.number(shown, row))
    return Confusion(by, len(pairs), Counter(pairs), pictures)


def _neighbours(train: Split, shown: Split, close: Close, album: Album) -> list[Neighbours]:
    """A dozen queries, of as many classes as there are."""
    place = close.splits.index(shown)
    order = permutation(len(shown), 0, Purpose.SAMPLE, 1)
    seen: Counter[int] = Counter()
    turn = []  # how many of its class came before each
    for row in order.tolist():
        label = int(shown.labels[row])
        turn.append(seen[label])
        seen[label] += 1
    chosen = order[np.argsort(turn, kind="stable")][:QUERIES]
    return [
        Neighbours(
            album.number(shown, row),
            [
                (album.number(train, int(number)), float(similarity))
                for similarity, number in zip(close.similarity[place][row], close.number[place][row])
            ][:SHOWN_NEIGHBOURS],
        )
        for row in sorted(chosen.tolist(), key=lambda row: int(shown.labels[row]))
    ]


def _pictures(
    album: Album, splits: dict[str, Split], predicted: NDArray[np.int64] | None, shown: Split, trained: TrainedRun
) -> list[Picture]:
    wanted: Sequence[tuple[str, int]] = [*album.places]

    def pixels(place: int) -> NDArray[np.uint8]:
        name, row = wanted[place]
        return splits[name].store.image(int(splits[name].numbers[row]))

    workers: Threads = trained.frozen.runtime.workers
    made, _ = thumbnails(len(wanted), pixels, BUDGET_BYTES, workers.map)
    return [
        Picture(
            thumbnail=made[place],
            name=printable(splits[name].store.names[int(splits[name].numbers[row])]),
            split=name,
            label=int(splits[name].labels[row]),
            predicted=int(predicted[row]) if predicted is not None and name == shown.name else -1,
        )
        for place, (name, row) in enumerate(wanted)
    ]


def _maps(trained: TrainedRun, shown: Split, neighbours: list[Neighbours], album: Album) -> FeatureMaps:
    """Of the first few query images."""
    wanted = [*album.places]
    rows = [wanted[found.query][1] for found in neighbours[:: max(1, len(neighbours) // MAPS)][:MAPS]]
    pairs, cells = feature_maps(trained.frozen, shown.store, shown.numbers[rows])
    return FeatureMaps([(whole(view, VIEW_PX), whole(drawn, VIEW_PX)) for view, drawn in pairs], cells)


def _views(trained: TrainedRun) -> Views:
    config = trained.config
    store = trained.data.train
    drawn = drawn_views(
        config,
        pixel_source(store, torch.device("cpu")),
        chosen(len(store), config.seed, VIEW_ROWS),
        VIEW_PAIRS,
        config.views.early_epochs or 0,  # of the full size
    )
    rows = [[(whole(view.pixels, VIEW_PX), ", ".join(view.said)) for view in row] for row in drawn]
    return Views(rows, config.views.size)
