"""A part of many images, where all would be too many: the same part at any time, on any machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moco.randomness import Purpose, permutation


def sample(count: int, most: int) -> NDArray[np.int64]:
    """Ascending image numbers: all of 0..count-1 if they are not more than `most`, else `most` of them."""
    if count <= most:
        return np.arange(count)
    return np.sort(permutation(count, 0, Purpose.SAMPLE)[:most])
