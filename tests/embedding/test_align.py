"""Crops, mirrored and recoloured pictures are proposed by their windows, confirmed by their pixels; others aren't."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from moco.embedding.align import align
from moco.embedding.nearest import nearest
from moco.embedding.windows import Proposals, propose

SIZE = 64
COPY = 0.85


def photograph(seed: int) -> Image.Image:
    """Clouds of every size in colour: as smooth as a photograph, and like no other."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (n, n, 3)).astype(np.uint8)).resize((256, 256), 3) for n in (4, 9, 20, 50)
    ]
    mixed = sum(np.asarray(layer).astype(float) * share for layer, share in zip(layers, (0.4, 0.3, 0.2, 0.1)))
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))  # type: ignore[union-attr]


def cut(image: Image.Image, share: float) -> Image.Image:
    edge = round(256 * share)
    return image.crop((edge, edge, 256 - edge, 256 - edge))


ALTERED = {
    "crop 5 %": (lambda i: cut(i, 0.05), False),
    "crop 20 %": (lambda i: cut(i, 0.2), False),
    "off the centre": (lambda i: i.crop((0, 70, 180, 250)), False),
    "mirrored": (lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT), True),
    "mirrored crop": (lambda i: cut(i, 0.1).transpose(Image.Transpose.FLIP_LEFT_RIGHT), True),
    "channels swapped and darker": (lambda i: Image.fromarray(np.asarray(i)[..., [1, 2, 0]] // 2), False),
}


def thumbnails(images: list[Image.Image]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)) for image in images])


@pytest.mark.parametrize("kind", ALTERED)
def test_a_copy_is_found_and_nothing_else(kind: str) -> None:
    alter, mirrored = ALTERED[kind]
    images = [photograph(seed) for seed in range(12)]
    pictures = thumbnails([*images, alter(images[3])])
    proposals = Proposals.joined([propose(pictures, 3, 0.5), Proposals.of_pairs(np.array([[3, 12]]))]).distinct()
    found = align(pictures, proposals)
    good = found.detail >= COPY
    assert good.any()
    pairs = {frozenset(pair) for pair in zip(proposals.whole[good].tolist(), proposals.part[good].tolist())}
    assert pairs == {frozenset((3, 12))}
    assert set(proposals.mirrored[good].tolist()) == {mirrored}


def test_the_window_is_where_the_crop_was() -> None:
    image = photograph(0)
    pictures = thumbnails([image, image.crop((26, 51, 230, 230)), photograph(1)])
    proposals = propose(pictures, 2, 0.5)
    found = align(pictures, proposals)
    best = found.detail.argmax()
    assert (proposals.whole[best], proposals.part[best]) == (0, 1)
    np.testing.assert_allclose(found.window[best] * 256, (26, 51, 204, 179), atol=2)


def test_plain_pictures_and_none_at_all() -> None:
    plain = np.full((3, SIZE, SIZE, 3), 90, np.uint8)
    assert len(propose(plain, 2, 0.5)) == 0
    assert not (align(plain, Proposals.of_pairs(np.array([[0, 1]]))).detail >= COPY).any()
    assert len(align(plain, propose(plain, 2, 0.5)).detail) == 0


def test_nearest_by_both_libraries() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 16)).astype(np.float32)
    queries = 3 * rows[[7, 400]]
    blocks = [rows[:123], rows[123:]]
    by_torch, by_faiss = (nearest(queries, blocks, 5, library) for library in ("torch", "faiss"))
    assert by_torch[1][:, 0].tolist() == [7, 400]
    np.testing.assert_array_equal(by_torch[1], by_faiss[1])
    np.testing.assert_allclose(by_torch[0], by_faiss[0], atol=1e-5)
