"""What is found among features whose neighbours, strangers and wrong labels are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moco.data.store import Store
from moco.evaluators.features import Features
from moco.runs.close_images import Album, Close, Split, suspicious_ones, untypical_ones, without_self

CLASSES = ["cat", "dog", "<cow>"]
EACH = 30  # images a class


def split(name: str, seed: int, wrong: dict[int, int], strange: int | None = None) -> Split:
    """Three tight clusters in label order, with `wrong` labels, and one image that is like no other."""
    rng = np.random.default_rng(seed)
    labels = np.arange(3).repeat(EACH)
    features = np.eye(16)[labels] + rng.normal(size=(3 * EACH, 16)) * 0.05
    if strange is not None:
        features[strange] = np.eye(16)[9] + 0.3 * np.eye(16)[labels[strange]]
    for row, label in wrong.items():
        labels[row] = label
    count, one = len(labels), np.ones(3 * EACH, np.int32)
    store = Store(
        np.zeros(3, np.uint8),
        np.zeros(count, np.int64),
        3 * one.astype(np.int64),
        one,
        one,
        labels,
        [f"{name}/{n}" for n in range(count)],
        CLASSES,
        "",
    )
    return Split(name, store, np.arange(count), Features.of(torch.from_numpy(features.astype(np.float32))))


def places(album: Album) -> list[tuple[str, int]]:
    return [*album.places]


@pytest.fixture
def train() -> Split:
    return split("train", 0, wrong={4: 2}, strange=40)


@pytest.fixture
def val() -> Split:
    return split("val", 1, wrong={70: 0, 71: 0})


def test_no_image_is_its_own_neighbour(train: Split, val: Split) -> None:
    close = Close.of(train, val)
    assert not (close.number[0] == np.arange(len(train))[:, None]).any()
    assert close.number[0].shape == close.number[1].shape == (90, 20)
    expected = (train.unit @ train.unit.T).fill_diagonal_(-2).topk(20).indices.numpy()
    assert (close.number[0] == expected).mean() > 0.99


def test_a_twin_that_takes_an_images_place_leaves_as_many_neighbours() -> None:
    similarity = np.array([[1.0, 0.9, 0.8], [1.0, 1.0, 0.5], [1.0, 0.9, 0.1]], np.float32)
    number = np.array([[0, 5, 6], [7, 1, 8], [7, 8, 9]])  # the last row's own number 2 was crowded out
    similarity, number = without_self(similarity, number)
    assert number.tolist() == [[5, 6], [7, 8], [7, 8]]
    assert similarity.tolist() == np.float32([[0.9, 0.8], [1.0, 0.5], [1.0, 0.9]]).tolist()


def test_planted_wrong_labels_are_the_suspicious_ones(train: Split, val: Split) -> None:
    album = Album()
    found = suspicious_ones(Close.of(train, val), album)
    assert {places(album)[odd.picture] for odd in found} == {("train", 4), ("val", 70), ("val", 71)}
    whys = {places(album)[odd.picture]: odd.why for odd in found}
    assert whys["val", 70].startswith("labelled cat; ") and whys["val", 70].endswith("% of its neighbours: <cow>")


def test_the_stranger_is_the_least_typical(train: Split, val: Split) -> None:
    album = Album()
    found = untypical_ones(Close.of(train, val), album)
    assert places(album)[found[0].picture] == ("train", 40)


def test_the_neighbours_are_right_as_often_as_the_labels_are(train: Split, val: Split) -> None:
    assert Close.of(train, val).right_share() == pytest.approx((180 - 3) / 180)


def test_one_image_alone_has_no_neighbours() -> None:
    lonely = split("train", 0, {})
    lonely = Split("train", lonely.store, np.array([3]), Features.of(lonely.features.values[0][3:4]))
    close = Close.of(lonely, None)
    assert close.number[0].shape == (1, 0) and close.typical(0).tolist() == [1.0]
    assert len(untypical_ones(close, Album())) == 1
