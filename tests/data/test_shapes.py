"""The built-in data set: the same bytes everywhere, and a class that pixels don't give away."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from moco.data import shapes

GOLDEN = {
    ("train", 0): "c85e4f1f9ea7174236d1c29b834d998d86a67c5d904c74211e9e0d9cc71ae1f6",
    ("train", 1237): "89dc37c788d585bc1fc71d54ee2efab2b0eae05b633eece6fec4705b5ad1ca56",
    ("val", 0): "7e26f95686396fcdfad32f7f5bdda0bd06a8c26dcc917c5fa1f92952575beaa8",
    ("val", 999): "1401a42969cc677911e082820ff43375190e29a2bb94b9c2f58c56bb15eb9fff",
}


@pytest.mark.parametrize(("split", "index"), GOLDEN)
def test_pictures_are_the_same_bytes_everywhere(split: str, index: int) -> None:
    assert hashlib.sha256(shapes.make_image(split, index).tobytes()).hexdigest() == GOLDEN[split, index]


def test_a_picture_depends_on_nothing_drawn_before_or_beside_it() -> None:
    alone = [shapes.make_image("train", i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda i: shapes.make_image("train", i), reversed(range(40))))
    np.testing.assert_array_equal(alone, threaded[::-1])


def test_pictures_are_rgb_bytes_of_64_pixels_with_the_full_range_in_use() -> None:
    images = _pictures("val", 50)
    assert images.dtype == np.uint8 and images.shape == (50, 64, 64, 3)
    assert images.min() < 20 and images.max() > 235


def test_classes_are_ten_and_balanced_in_both_splits() -> None:
    assert len(set(shapes.CLASSES)) == 10
    for count in shapes.SIZES.values():
        assert set(np.bincount([shapes.label_of(i) for i in range(count)], minlength=10)) == {count // 10}


def test_no_two_pictures_are_alike_within_or_across_the_splits() -> None:
    prints = {shapes.make_image(split, i).tobytes() for split in shapes.SIZES for i in range(200)}
    assert len(prints) == 400


def test_raw_pixels_do_not_give_the_class_away() -> None:
    """Weighted k-nearest neighbours (k = 20, cosine) on mean-removed pixels stays near chance, 10 %."""
    train, val = _pixels("train", 1500), _pixels("val", 300)
    similarity = val @ train.T  # (300, 1500)
    nearest = np.argsort(-similarity, axis=1)[:, :20]
    votes = np.zeros((300, 10))
    weights = np.exp(np.take_along_axis(similarity, nearest, 1) / 0.1)
    np.add.at(votes, (np.arange(300)[:, None], nearest % 10), weights)
    accuracy = (votes.argmax(1) == np.arange(300) % 10).mean()
    assert accuracy <= 0.35


def _pictures(split: str, count: int) -> NDArray[np.uint8]:
    return np.stack([shapes.make_image(split, i) for i in range(count)])


def _pixels(split: str, count: int) -> NDArray[np.float64]:
    """Unit rows of mean-removed pixels, (count, 12288)."""
    flat = _pictures(split, count).reshape(count, -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)
