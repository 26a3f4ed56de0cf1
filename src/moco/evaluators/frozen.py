"""A frozen backbone with its view: what every evaluator starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moco.config import ViewsConfig
from moco.console import progress
from moco.evaluators.features import Features, LabelledFeatures
from moco.randomness import Purpose
from moco.runtime import Runtime
from moco.views.make import evaluation_view, random_view
from moco.views.pipelines import IMAGENET, Pipeline, Scaling, scaling
from moco.views.source import Source

BATCH = 256
CHUNK = 32  # images that a thread of the CPU takes at a time: each holds the activations of so many
CROP_SCALE = (0.08, 1.0)  # of the image's area, as in supervised training (MoCo v1 section 4.1)
View = Callable[[Source, NDArray[np.int64]], Tensor]  # image numbers (n,) -> float32 (n, 3, size, size)


@dataclass(frozen=True)
class Labelled:
    """Images with labels int64 (N,), on the device, and the C class names."""

    images: Source
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Frozen:
    """A backbone that is looked at and never moved.

    Attributes:
        backbone: (N, 3, H, W) -> (N, F).
        size: side of its centre views, pixels.
        runtime: where it computes, and in which precision.
        scaling: how its views are normalised.
        crop_size: side of its augmented views; default `size`.
    """

    backbone: nn.Module
    size: int
    runtime: Runtime
    scaling: Scaling = IMAGENET
    crop_size: int | None = None

    @classmethod
    def of(cls, backbone: nn.Module, views: ViewsConfig, runtime: Runtime) -> Frozen:
        """With the views that a configuration names."""
        return cls(backbone, views.centre_size, runtime, scaling(views), views.size)

    def centre(self, source: Source, images: NDArray[np.int64]) -> Tensor:
        """The view that everything is measured on."""
        return evaluation_view(source, images, self.size, self.scaling)

    def crop(self, seed: int, number: int) -> View:
        """The augmented view of a linear classification's pass `number`: random resized crop and flip."""
        pipeline = Pipeline(self.crop_size or self.size, scale=CROP_SCALE, mean=self.scaling.mean, std=self.scaling.std)

        def view(source: Source, images: NDArray[np.int64]) -> Tensor:
            return random_view(source, images, pipeline, seed, number, 0, Purpose.PROBE_VIEW)

        return view

    def batches(
        self,
        source: Source,
        view: View | None = None,
        images: NDArray[np.int64] | None = None,
        title: str | None = None,
        batch_size: int = BATCH,
    ) -> Iterator[tuple[int, Tensor]]:
        """(place of the first, features float32 (n, F) on the device) of `view` of `images`, in their order.

        By default the centre view of all images. The last batch may be smaller; no image is left out. `title` names the
        bar to show, if any. Of several processes each computes some batches, and all get all of them.
        """
        view = self.centre if view is None else view
        images = np.arange(len(source)) if images is None else images
        with _shown(title, len(images)) as show:
            for group in _groups(range(0, len(images), batch_size), self.runtime.ranks.world):
                self.runtime.between_batches()
                each = [images[first : first + batch_size] for first in group]
                for first, chosen, features in zip(group, each, self._shared(source, view, each)):
                    yield first, features
                    show(first + len(chosen))

    def _shared(self, source: Source, view: View, each: list[NDArray[np.int64]]) -> list[Tensor]:
        """Features of each of these batches, one a process at most; the first is the largest."""
        ranks = self.runtime.ranks
        own = self.compute(source, view, each[ranks.rank]) if ranks.rank < len(each) else None
        if ranks.world == 1:
            assert own is not None
            return [own]
        width = self.runtime.any(0 if own is None else own.shape[1])
        padded = torch.zeros(len(each[0]), width, device=self.runtime.device)
        if own is not None:
            padded[: len(own)] = own
        gathered = self.runtime.gather(padded).split(len(each[0]))
        return [features[: len(images)] for features, images in zip(gathered, each)]

    def compute(self, source: Source, view: View, images: NDArray[np.int64]) -> Tensor:
        """Features float32 (n, F) of `view` of `images` (n,), all at once.

        On the CPU each thread takes `CHUNK` of them at a time: the same bits for any number of threads.
        """
        size = CHUNK if self.runtime.device.type == "cpu" else max(len(images), 1)

        def some(first: int) -> Tensor:
            return self.piece(source, view, images[first : first + size])

        with evaluating(self.backbone):
            return torch.cat(self.runtime.workers.map(some, range(0, len(images), size)))

    def piece(self, source: Source, view: View, images: NDArray[np.int64]) -> Tensor:
        """Features float32 (n, F) of `view` of `images` (n,) by the calling thread, in evaluation mode."""
        with torch.no_grad(), self.runtime.autocast():  # both belong to a thread
            pixels = view(source, images).contiguous(memory_format=torch.channels_last)
            return self.backbone(pixels).float()

    def features(
        self,
        source: Source,
        views: View | Sequence[View] | None = None,
        images: NDArray[np.int64] | None = None,
        title: str | None = None,
        batch_size: int = BATCH,
    ) -> Features:
        """Features of each of `views` of `images`; the arguments are those of `batches`."""
        chosen: Sequence[View | None] = [views] if views is None or callable(views) else views
        made: Features | None = None
        for number, view in enumerate(chosen):
            told = title if len(chosen) == 1 or title is None else f"{title}, view {number + 1}/{len(chosen)}"
            for first, features in self.batches(source, view, images, told, batch_size):
                if made is None:
                    count = len(source) if images is None else len(images)
                    made = Features.empty(len(chosen), count, features.shape[1], features.device)
                made.put(number, first, features)
        assert made is not None, "no image, no features"
        return made

    def measured(self, split: Labelled, title: str | None = None) -> LabelledFeatures:
        """The centre views' features of `split`."""
        return LabelledFeatures(self.features(split.images, title=title), split.labels, split.classes)


def _groups(firsts: range, size: int) -> Iterator[range]:
    return (firsts[start : start + size] for start in range(0, len(firsts), size))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """`module` in evaluation mode, without gradients; the mode of each of its parts is put back afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def _shown(title: str | None, count: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of images done: it moves the bar called `title`, if there is one."""
    if title is None:
        yield lambda done: None
        return
    with progress(title, count, "images/s") as bar:
        yield bar.update
