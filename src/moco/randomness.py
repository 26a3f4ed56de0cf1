"""Every random draw is a function of (seed, purpose, epoch, item): nothing is carried along or saved.

`uniforms` is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) over whole
arrays of counters: numpy's own Philox draws one stream at a time, which costs an object per image.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What a draw is for; two purposes never share numbers."""

    ORDER = 1
    VIEW = 2
    BN_SHUFFLE = 3
    PROBE_ORDER = 5
    PROBE_VIEW = 6
    SHAPES = 7
    INIT = 8
    DROPOUT = 9
    PREVIEW = 10
    SAMPLE = 11
    LEAK = 12
    LABEL_FREE = 13
    LABELS = 20
    LABEL_FOLDS = 21
    TUNE_ORDER = 22
    TUNE_VIEW = 23
    PACK_ORDER = 30
    CHUNK_ORDER = 31


def generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """numpy's generator at the place that (seed, purpose, up to three counters) name."""
    words = [*counters, *[0] * (3 - len(counters))]
    return np.random.Generator(np.random.Philox(key=[seed, int(purpose)], counter=[0, *words]))


def permutation(n: int, seed: int, purpose: Purpose, *counters: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1, int64 (n,)."""
    return generator(seed, purpose, *counters).permutation(n)


def torch_seed(seed: int, purpose: Purpose, *counters: int) -> int:
    """A seed for torch's own generator, derived like every other draw."""
    return int(generator(seed, purpose, *counters).integers(2**62))


def uniforms(
    count: int, seed: int, purpose: Purpose, stream: int, epoch: int, items: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for each item, float64 (len(items), count).

    Row i depends on (seed, purpose, stream, epoch, items[i]) alone: not on the batch, its size or order.
    `stream` tells the two views of an image apart. The resolution is 2**-32.
    """
    blocks = -(-count // 4)
    n = len(items)
    words = np.empty((4, n, blocks), np.uint64)
    words[0] = np.asarray(items, np.uint64)[:, None]
    words[1] = np.arange(blocks, dtype=np.uint64)[None]
    words[2] = epoch
    words[3] = (int(purpose) << 16) | stream
    drawn = philox4x32(words, seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    rows = np.moveaxis(drawn, 0, -1).reshape(n, blocks * 4)[:, :count]
    return np.multiply(rows, 2.0**-32, dtype=np.float64)


def philox4x32(counter: NDArray[np.uint64], key0: int, key1: int) -> NDArray[np.uint64]:
    """Ten rounds of Philox4x32 on 32-bit words held in uint64, (4, ...) -> (4, ...)."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0 = c0 * np.uint64(0xD2511F53)
        p1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(key0), p1 & low, (p0 >> half) ^ c3 ^ np.uint64(key1), p0 & low
        key0 = (key0 + 0x9E3779B9) & 0xFFFFFFFF
        key1 = (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])
