"""The evaluators of a pre-training run, as callables that know nothing of the loop."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from moco.config import Config
from moco.data.dataset import Dataset
from moco.evaluate.features import extract, features_of
from moco.evaluate.health import spread
from moco.evaluate.knn import knn_top1
from moco.evaluate.logistic import fit_logistic
from moco.model.moco import MoCo
from moco.runs.trained import labels_of, pixel_source
from moco.runtime import Runtime
from moco.views.make import Source, evaluation_view

THUMBNAIL = 32  # px; the side at which raw pixels are compared


class LabelMonitor:
    """kNN and logistic regression on the backbone's features of a labelled data set."""

    def __init__(self, config: Config, data: Dataset, train: Source, backbone: nn.Module, runtime: Runtime) -> None:
        assert data.val is not None
        self.config, self.runtime, self.backbone = config, runtime, backbone
        self.train, self.val = train, pixel_source(data.val, runtime.device)
        self.train_labels = labels_of(data.train, runtime.device)
        self.val_labels = labels_of(data.val, runtime.device)
        self.classes = len(data.classes)

    def __call__(self) -> Iterable[tuple[str, float]]:
        """The monitor's columns for the backbone as it is now."""
        train, val = self._features()
        yield "knn_top1", self._knn(train, val)
        if self.config.monitor.logistic:
            fitted = fit_logistic(train, self.train_labels, self.classes)
            yield "logistic_train_top1", fitted.top1(train, self.train_labels)
            yield "logistic_val_top1", fitted.top1(val, self.val_labels)

    def baseline(self) -> dict[str, float]:
        """What kNN reaches without learning: on raw thumbnails, and on the backbone as initialised."""
        pixels = [self._pixels(source) for source in (self.train, self.val)]
        centre = pixels[0].mean(0)
        return {
            "raw_pixels_knn_top1": self._knn(*(p - centre for p in pixels)),
            "random_backbone_knn_top1": self._knn(*self._features()),
        }

    def _features(self) -> tuple[Tensor, Tensor]:
        size = self.config.views.size
        train, val = (features_of(self.backbone, source, size, self.runtime) for source in (self.train, self.val))
        return train, val

    def _pixels(self, source: Source) -> Tensor:
        size = min(THUMBNAIL, self.config.views.size)
        flat = nn.Flatten()
        return extract(flat, len(source), lambda images: evaluation_view(source, images, size), self.runtime)

    def _knn(self, bank: Tensor, queries: Tensor) -> float:
        monitor = self.config.monitor
        return knn_top1(bank, self.train_labels, queries, self.val_labels, monitor.knn_k, monitor.knn_temperature)


def queue_health(model: MoCo, keys_enqueued: int) -> Iterable[tuple[str, float]]:
    """Health columns from the keys in the queue: no labels and no extra forward pass."""
    size = len(model.queue)
    filled = min(keys_enqueued, size)
    std, rank = spread(model.queue[:filled])
    yield "embedding_std", std
    yield "effective_rank", rank
    yield "queue_fill", filled / size
