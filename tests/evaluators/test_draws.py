"""Labelled draws: balanced, nested, and a function of what names them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moco.errors import UserError
from moco.evaluators.draws import Amount, draw, folds

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 50, 7]))


@pytest.mark.parametrize(
    ("amount", "counts"),
    [
        (Amount(share=0.1), [10, 5, 1]),
        (Amount(share=0.001), [1, 1, 1]),
        (Amount(share=1.0), [100, 50, 7]),
        (Amount(per_class=20), [20, 20, 7]),
    ],
)
def test_every_class_gives_its_share(amount: Amount, counts: list[int]) -> None:
    images = draw(LABELS, amount, 0, 0)
    assert np.bincount(LABELS[images]).tolist() == counts
    assert (np.diff(images) > 0).all()


def test_classes_that_give_all_they_have_are_counted() -> None:
    counts = np.array([100, 50, 7])
    assert [Amount(per_class=n).lacking(counts) for n in (7, 8, 50, 101)] == [0, 1, 1, 3]
    assert Amount(share=1.0).lacking(counts) == 0


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 5))
def test_more_labels_of_a_draw_are_those_and_others(one: float, other: float, number: int) -> None:
    few, many = (set(draw(LABELS, Amount(share=share), 3, number)) for share in sorted((one, other)))
    assert few <= many


def test_a_draw_is_a_function_of_seed_and_number() -> None:
    amount = Amount(share=0.2)
    first = draw(LABELS, amount, 0, 0)
    assert np.array_equal(first, draw(LABELS, amount, 0, 0))
    for seed, number in ((1, 0), (0, 1)):
        assert not np.array_equal(first, draw(LABELS, amount, seed, number))


def test_folds_have_every_class_evenly() -> None:
    fold = folds(LABELS, 5, 0)
    for number in range(5):
        counts = np.bincount(LABELS[fold == number], minlength=3)
        assert counts[:2].tolist() == [20, 10] and counts[2] in (1, 2)


@pytest.mark.parametrize(
    ("text", "amount", "slug"),
    [
        ("10%", Amount(share=0.1), "10pct"),
        ("0.5 %", Amount(share=0.005), "0.5pct"),
        ("100%", Amount(share=1.0), "all"),
        ("all", Amount(share=1.0), "all"),
        ("20-per-class", Amount(per_class=20), "20-per-class"),
    ],
)
def test_an_amount_is_read_as_it_is_typed(text: str, amount: Amount, slug: str) -> None:
    assert Amount.parse(text) == amount
    assert amount.slug == slug


@pytest.mark.parametrize("text", ["10", "0%", "101%", "-1%", "0-per-class", "some", "", "nan%"])
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="give a share of every class"):
        Amount.parse(text)
