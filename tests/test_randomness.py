"""Philox4x32-10 against its authors' known answers, and draws that depend on nothing but their names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.randomness import Purpose, generator, permutation, philox4x32, torch_seed, uniforms

SEEDS = st.integers(0, 2**63 - 1)
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    """Random123's kat_vectors, philox4x32 10."""
    words = np.array(counter, np.uint64)
    assert philox4x32(words, *key).tolist() == list(expected)
    many = np.repeat(words[:, None], 3, 1)[:, :, None]
    assert philox4x32(many, *key)[:, 2, 0].tolist() == list(expected)
    assert words.tolist() == list(counter)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(0, 2**31), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20), st.integers(1, 13))
def test_a_row_depends_on_its_item_alone(seed: int, epoch: int, items: list[int], count: int) -> None:
    rows = uniforms(count, seed, Purpose.VIEW, 1, epoch, np.array(items, np.int64))
    assert rows.shape == (len(items), count)
    assert rows.dtype == np.float64
    assert rows.min() >= 0
    assert rows.max() < 1
    for row, item in zip(rows, items, strict=True):
        assert np.array_equal(row, uniforms(count, seed, Purpose.VIEW, 1, epoch, np.array([item]))[0])
    assert np.array_equal(rows, uniforms(count + 5, seed, Purpose.VIEW, 1, epoch, np.array(items))[:, :count])


def test_every_coordinate_counts() -> None:
    items = np.arange(50)
    base = (8, 5, Purpose.VIEW, 0, 3)
    others = [
        (8, 6, Purpose.VIEW, 0, 3),
        (8, 5 + 2**32, Purpose.VIEW, 0, 3),
        (8, 5, Purpose.PROBE_VIEW, 0, 3),
        (8, 5, Purpose.VIEW, 1, 3),
        (8, 5, Purpose.VIEW, 0, 4),
    ]
    drawn = [uniforms(*arguments, items) for arguments in (base, *others)]
    flat = np.concatenate([rows.ravel() for rows in drawn])
    # 2,400 draws of 32 bits: a repeat by chance has probability 7e-4, and the seeds are fixed
    assert len(np.unique(flat)) == len(flat)


def test_uniform() -> None:
    rows = uniforms(10, 0, Purpose.VIEW, 0, 0, np.arange(20_000))
    # mean of 200,000: standard deviation 6.5e-4; correlation between columns of 20,000: 7e-3
    assert abs(rows.mean() - 0.5) < 5 * 6.5e-4
    assert abs(rows.var() - 1 / 12) < 1e-3
    correlation = np.corrcoef(rows, rowvar=False) - np.eye(10)
    assert np.abs(correlation).max() < 5 * 7e-3
    histogram = np.histogram(rows, 16, (0, 1))[0]
    assert np.abs(histogram - 12_500).max() < 5 * np.sqrt(12_500)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 300), st.integers(0, 2**40))
def test_permutation(seed: int, n: int, epoch: int) -> None:
    order = permutation(n, seed, Purpose.ORDER, epoch)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, permutation(n, seed, Purpose.ORDER, epoch))


def test_purposes_and_counters_never_share_a_stream() -> None:
    places = [(seed, purpose, *c) for seed in (0, 1) for purpose in Purpose for c in ((), (1,), (0, 1), (0, 0, 1))]
    first = [generator(*place).integers(2**63) for place in places]
    assert len(set(first)) == len(places)
    assert generator(0, Purpose.ORDER).random() == generator(0, Purpose.ORDER, 0, 0).random()


def test_torch_seed() -> None:
    seeds = {torch_seed(seed, purpose, step) for seed in range(3) for purpose in Purpose for step in range(3)}
    assert len(seeds) == 9 * len(Purpose)
    assert all(0 <= seed < 2**62 for seed in seeds)
