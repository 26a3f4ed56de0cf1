"""The augmentations by name: what each is in numbers.

v1: "Momentum Contrast for Unsupervised Visual Representation Learning", section 3.3 (technical details).
v2: "Improved Baselines with Momentum Contrastive Learning", section 2 (aug+: blur as in SimCLR).
"""

from __future__ import annotations

from dataclasses import dataclass

from moco.config import ViewsConfig
from moco.errors import UserError, nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PAPER_SIZE = 224  # px; the size that the paper's blur is stated for


@dataclass(frozen=True)
class Pipeline:
    """One random view, in the order: crop, (grey), jitter, grey, blur, flip, normalise.

    Attributes:
        size: side of the view, pixels.
        scale: smallest and largest crop as a share of the area.
        ratio: narrowest and widest crop, width / height.
        jitter: largest change of brightness, contrast, saturation (factors) and hue (turns).
        jitter_p, grey_p, blur_p, flip_p: probability of each.
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
    flip_p: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


_PRESETS: dict[str, dict[str, object]] = {
    "v1": {"jitter": (0.4, 0.4, 0.4, 0.4), "jitter_p": 1.0, "grey_p": 0.2, "grey_first": True},
    "v2": {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8, "grey_p": 0.2, "blur_p": 0.5},
    "v2_no_blur": {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8, "grey_p": 0.2},
    "crop_flip": {},
}


def pipeline(config: ViewsConfig) -> Pipeline:
    """The pipeline that a recipe names, at its size. Blur's sigma, stated at 224 px, scales with the size."""
    if config.pipeline not in _PRESETS:
        raise UserError(f"unknown views.pipeline {config.pipeline!r}: {nearest(config.pipeline, _PRESETS)}")
    zoom = config.size / PAPER_SIZE
    return Pipeline(
        size=config.size,
        scale=(config.scale_min, 1.0),
        blur_sigma=(0.1 * zoom, 2.0 * zoom),
        **_PRESETS[config.pipeline],  # type: ignore[arg-type]
    )
