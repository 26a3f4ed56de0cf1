"""The queue against a plain list of keys: first in, first out, for any batch size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moco.errors import UserError
from moco.model.moco import random_queue, replace_oldest


@given(size=st.integers(1, 17), batches=st.lists(st.integers(1, 17), max_size=12))
def test_it_holds_the_newest_keys_in_a_ring(size: int, batches: list[int]) -> None:
    queue, pointer = torch.full((size, 1), -1.0), torch.zeros(1, dtype=torch.long)
    written: list[float] = []
    for n in batches:
        keys = torch.arange(len(written), len(written) + n, dtype=torch.float32)[:, None]
        if n > size:
            with pytest.raises(UserError, match="queue_size"):
                replace_oldest(queue, pointer, keys)
            continue
        written += keys[:, 0].tolist()
        replace_oldest(queue, pointer, keys)
    newest = written[-size:]
    assert sorted(queue[:, 0].tolist()) == sorted([-1.0] * (size - len(newest)) + newest)
    assert pointer.item() == len(written) % size
    if written:
        assert queue[(pointer.item() - 1) % size, 0] == written[-1]


def test_it_begins_with_unit_rows() -> None:
    torch.testing.assert_close(random_queue(50, 8).norm(dim=1), torch.ones(50))
