"""Each epoch is a permutation, a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data.sampler import Sampler
from moco.errors import UserError

COUNTS = st.integers(1, 400)


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.data(), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_an_epoch_is_part_of_a_permutation(count: int, data: st.DataObject, seed: int, epoch: int) -> None:
    batch = data.draw(st.integers(1, count))
    sampler = Sampler(count, batch, seed)
    order = sampler.order(epoch)
    assert order.dtype == np.int64
    assert order.shape == (count // batch, batch) == (sampler.steps_per_epoch, batch)
    seen = order.ravel()
    assert len(np.unique(seen)) == len(seen)  # no image twice
    assert seen.min() >= 0
    assert seen.max() < count
    if count % batch == 0:
        assert np.array_equal(np.sort(seen), np.arange(count))
    assert np.array_equal(order, Sampler(count, batch, seed).order(epoch))


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 200), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_seed_and_epoch_matter_and_the_batch_does_not(count: int, seed: int, epoch: int) -> None:
    order = Sampler(count, count, seed).order(epoch).ravel()
    assert not np.array_equal(order, Sampler(count, count, seed).order(epoch + 1).ravel())
    assert not np.array_equal(order, Sampler(count, count, (seed + 1) % 2**63).order(epoch).ravel())
    assert np.array_equal(order[: count // 7 * 7], Sampler(count, 7, seed).order(epoch).ravel())


def test_every_image_is_left_out_equally_often() -> None:
    left = np.zeros(10)
    for epoch in range(500):
        left[np.setdiff1d(np.arange(10), Sampler(10, 4, 0).order(epoch))] += 1
    # 2 of 10 are left out in each epoch: binomial, mean 100, standard deviation 9
    assert np.abs(left - 100).max() < 5 * 9


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.integers(1, 100))
def test_batch_larger_than_the_data(count: int, more: int) -> None:
    with pytest.raises(UserError, match=f"larger than the data .{count} images.: give --train.batch_size {count}"):
        Sampler(count, count + more, 0)
