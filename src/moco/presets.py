"""The augmentations by name: what each is in numbers. A new one is a row here, and nothing else.

v1: "Momentum Contrast for Unsupervised Visual Representation Learning", section 3.3 (technical details).
v2: "Improved Baselines with Momentum Contrastive Learning", section 2 (aug+: blur as in SimCLR).
The keys are fields of `ViewsConfig`, which override them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moco.errors import UserError, nearest

# What a preset that doesn't name a field has: a crop and a flip.
PLAIN: Mapping[str, Any] = {
    "ratio": (3 / 4, 4 / 3),
    "jitter": (0.0, 0.0, 0.0, 0.0),
    "jitter_p": 0.0,
    "grey_p": 0.0,
    "grey_first": False,
    "blur_p": 0.0,
    "blur_sigma": (0.1, 2.0),
    "solarise_p": 0.0,
    "flip_p": 0.5,
}
PRESETS: dict[str, Mapping[str, Any]] = {
    "v1": {"jitter": (0.4, 0.4, 0.4, 0.4), "jitter_p": 1.0, "grey_p": 0.2, "grey_first": True},
    "v2": {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8, "grey_p": 0.2, "blur_p": 0.5},
    "v2_no_blur": {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8, "grey_p": 0.2},
    "crop_flip": {},
}


def preset(name: str) -> dict[str, Any]:
    """Every field of the preset `name`. Raises `UserError` with the nearest names where there is none."""
    if name not in PRESETS:
        raise UserError(f"views.pipeline is {name!r}: {nearest(name, PRESETS)}")
    return {**PLAIN, **PRESETS[name]}
