"""One random view in numbers: what a configuration asks for, at its size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from moco.config import ViewsConfig
from moco.presets import preset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PAPER_SIZE = 224  # px; the size that the paper's blur is stated for


class Scaling(NamedTuple):
    """What is subtracted from each channel, and what it is divided by then; pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Scaling(IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class Pipeline:
    """One random view, in the order: crop, (grey), jitter, grey, blur, solarise, flip, normalise.

    Attributes:
        size: side of the view, pixels.
        scale: smallest and largest crop as a share of the area.
        ratio: narrowest and widest crop, width / height.
        jitter: largest change of brightness, contrast, saturation (factors) and hue (turns).
        jitter_p, grey_p, blur_p, solarise_p, flip_p: probability of each.
        grey_first: grey before the jitter (v1) instead of after it (v2).
        blur_sigma: smallest and largest sigma in pixels at `size`.
    """

    size: int
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    grey_p: float = 0.0
    grey_first: bool = False
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise_p: float = 0.0
    flip_p: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Crops:
    """Which pipeline makes which view of an image, by the epoch: a run's views.

    Attributes:
        full: of views 0 and 1.
        early: of those in the first `early_epochs` epochs, if not None.
        small: of the `small_crops` views after them.
    """

    full: Pipeline
    early: Pipeline | None = None
    early_epochs: int = 0
    small: Pipeline | None = None
    small_crops: int = 0

    @classmethod
    def of(cls, config: ViewsConfig) -> Crops:
        """Those that a recipe names."""
        early = small = None
        if config.early_size is not None:
            early = pipeline(replace(config, size=config.early_size))
        if config.small_size is not None:
            low, high = config.small_scale
            small = replace(pipeline(replace(config, size=config.small_size)), scale=(low, high))
        return cls(pipeline(config), early, config.early_epochs or 0, small, config.small_crops)

    def at(self, epoch: int, view: int) -> Pipeline:
        """What makes this view in this epoch, both from 0."""
        if view > 1:
            assert self.small is not None
            return self.small
        return self.full if self.early is None or epoch >= self.early_epochs else self.early

    @property
    def small_views(self) -> tuple[int, ...]:
        """The numbers of the small ones."""
        return tuple(range(2, 2 + self.small_crops))


def scaling(config: ViewsConfig) -> Scaling:
    """The normalisation that a recipe names, of training and evaluation views alike."""
    made = pipeline(config)
    return Scaling(made.mean, made.std)


def pipeline(config: ViewsConfig) -> Pipeline:
    """The pipeline that a recipe names, at its size. Blur's sigma, stated at 224 px, scales with the size."""
    fields = preset(config.pipeline)
    given = {name: getattr(config, name) for name in (*fields, "mean", "std") if getattr(config, name) is not None}
    fields |= {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    zoom = config.size / PAPER_SIZE
    low, high = fields.pop("blur_sigma")
    return Pipeline(size=config.size, scale=(config.scale_min, 1.0), blur_sigma=(low * zoom, high * zoom), **fields)
