"""The range that a sample of numbers is given."""

from __future__ import annotations

import numpy as np
import pytest

from moco.data.depth import Kind
from moco.data.levels import Range, chosen

U16, I16, I32, FLOAT = (Kind(name, False) for name in ("uint16", "int16", "int32", "float"))
RNG = np.random.default_rng(0)


def between(low: float, high: float, whole: bool = True) -> np.ndarray:
    values = RNG.uniform(low, high, 5000)
    values[:2] = low, high
    return values.round() if whole else values


def with_fill(values: np.ndarray, fill: float, count: int = 600) -> np.ndarray:
    return np.r_[values, np.full(count, fill)]


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        (U16, 160, 4014, (0, 4095)),  # 12 bits in 16: the numbers' own scale, as an 8-bit picture isn't stretched
        (U16, 40, 1000, (0, 1023)),
        (U16, 600, 16000, (0, 16383)),
        (U16, 2600, 64000, (0, 65535)),
        (U16, 3, 250, (0, 255)),
        (I32, 160, 4014, (0, 4095)),
        (I32, 0, 70_000, (0, 70_000)),
        (I32, 10, 2**31 - 2, (0, 2**31 - 1)),
        (I16, -921, 3921, (-921, 3921)),
        (U16, 29_000, 31_000, (29_000, 31_000)),  # a narrow band: thermal cameras
        (U16, 0, 20, (0, 20)),
        (FLOAT, 0.1, 0.98, (0, 1)),
        (FLOAT, -0.9, 0.9, (-1, 1)),
        (FLOAT, 2.5, 250, (0, 255)),
        (FLOAT, 280.5, 310.25, (280.5, 310.25)),
        (FLOAT, 1e-6, 2e-6, (1e-6, 2e-6)),
    ],
)
def test_range(kind: Kind, low: float, high: float, expected: tuple[float, float]) -> None:
    found = chosen(kind, [between(low, high, kind != FLOAT)])
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    assert found.found == pytest.approx((low, high))
    assert found.no_data == ()


@pytest.mark.parametrize(
    ("kind", "fill"),
    [
        *[(FLOAT, f) for f in (-9999, -999, -99999, -32768, 1e20, -3.4028234663852886e38, 9.969209968386869e36)],
        *[(I16, f) for f in (-32768, 32767, -9999, -999)],
        *[(U16, f) for f in (65535,)],
        *[(I32, f) for f in (-(2**31), 2**31 - 1, -9999, 65535)],
    ],
)
def test_no_data_is_left_out(kind: Kind, fill: float) -> None:
    low, high = (0.1, 0.98) if kind == FLOAT else (10, 240)
    values = between(low, high, kind != FLOAT)
    found = chosen(kind, [values[:2500], with_fill(values[2500:], fill)])
    assert (found.low, found.high) == ((0, 1) if kind == FLOAT else (0, 255))
    assert found.no_data == (fill,)
    assert found.found == pytest.approx((low, high))


def test_two_fills() -> None:
    found = chosen(I16, [with_fill(with_fill(between(-200, 900), -32768), 32767)])
    assert (found.low, found.high, found.no_data) == (-200, 900, (-32768, 32767))


def test_zero_far_below_all_others_is_no_data() -> None:
    found = chosen(U16, [with_fill(between(29_000, 31_000), 0)])
    assert (found.low, found.high, found.no_data) == (29_000, 31_000, (0,))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (I16, with_fill(between(-30_000, 30_000), -32768)),  # part of what is measured
        (U16, with_fill(between(0, 60_000), 65535)),  # saturated
        (I16, with_fill(between(-12_000, 2000), -9999)),
        (U16, np.r_[np.zeros(1000), np.full(1000, 255)]),  # a mask
    ],
)
def test_usual_fills_among_the_data_stay(kind: Kind, values: np.ndarray) -> None:
    assert chosen(kind, [values]).no_data == ()


@pytest.mark.parametrize("hot", [65535, 60_000])
def test_a_few_outliers_change_nothing(hot: int) -> None:
    found = chosen(U16, [with_fill(between(160, 4000), hot, 4)])
    assert (found.low, found.high, found.no_data) == (0, 4095, ())
    found = chosen(FLOAT, [with_fill(between(280, 310, False), 1e6, 4)])
    assert found.high == pytest.approx(310, abs=0.1)


def test_sparse_bright_things_are_no_outliers() -> None:
    found = chosen(U16, [with_fill(np.zeros(100_000), 3000, 50)])
    assert (found.low, found.high) == (0, 4095)


@pytest.mark.parametrize("values", [[], [0.0] * 9, [300.0] * 9, [-5.0] * 9])
def test_constant_or_empty(values: list[float]) -> None:
    for kind in (I16, FLOAT):
        found = chosen(kind, [np.array(values)])
        assert np.isfinite([found.low, found.high]).all()
        assert found.low <= min(values, default=0) <= max(values, default=0) <= found.high


def test_as_a_sentence() -> None:
    assert str(Range(0, 65535)) == "0..65535 became 0..255"
    text = str(chosen(FLOAT, [with_fill(between(0.125, 0.98, False), -9999)] * 2))
    said = "2 looked at hold 0.125..0.98, no data: -9999; --store.range LOW,HIGH or full for another"
    assert text == f"0..1 became 0..255 ({said})"
