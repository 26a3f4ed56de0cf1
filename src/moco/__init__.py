"""Momentum Contrast (MoCo v1/v2): from a folder of images to a tested backbone.

`moco.MoCo` is the model for people who bring their own loop; it is imported on first use, so that
the command line answers before torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["MoCo", "__version__"]

if TYPE_CHECKING:
    from moco.model.moco import MoCo


def __getattr__(name: str) -> Any:
    if name == "MoCo":
        from moco.model.moco import MoCo

        return MoCo
    raise AttributeError(f"module 'moco' has no attribute {name!r}")
