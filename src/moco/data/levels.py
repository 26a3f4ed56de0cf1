"""Which numbers become black and white in images of more than 8 bits, found in a sample of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.data.depth import Deep, Kind, equal

SAMPLED_NUMBERS = 2**14  # of each image
TAIL_PERCENT = 0.1  # of the numbers, at either end, that may be outliers
FAR = 0.25  # of the range between the tails; beyond it they are outliers
FILLED = 2 / 3  # of a type's own scale that must be used for it to be kept
# Numbers that stand for "no data" where they lie apart from all others (besides -9999 and its like, and the
# type's own extremes): GDAL's, netCDF's, and what is left when one type was cast to another.
_USUAL_FILLS = (0, -32768, -32767, 65535, -(2**31), 2**31 - 1, -3.4028234663852886e38, 3.4028234663852886e38,
                -1.7976931348623157e308, 9.969209968386869e36, 1e20, -1e20, -1e30, 1e30)  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """What becomes black and white.

    Attributes:
        low, high: these numbers become 0 and 255, those beyond are cut off.
        no_data: numbers that stand for "no data" wherever they occur: black.
        found: least and greatest number of the sample without them; None where none was taken.
        sampled: images looked at.
    """

    low: float
    high: float
    no_data: tuple[float, ...] = ()
    found: tuple[float, float] | None = None
    sampled: int = 0

    def __str__(self) -> str:
        text = f"{between(self.low, self.high)} became 0..255"
        if self.found is None:
            return text
        found = f"{self.sampled} looked at hold {between(*self.found)}"
        fills = f", no data: {', '.join(number(fill) for fill in self.no_data)}" if self.no_data else ""
        return f"{text} ({found}{fills}; --store.range LOW,HIGH or full for another)"

    def as_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Range:
        """The range that `as_dict` gave; keys of others are left alone."""
        given: dict[str, Any] = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in ("no_data", "found"):
            given[name] = tuple(given[name]) if given.get(name) is not None else given.get(name)
        return cls(**given)

    def grey_levels(self, image: Deep) -> NDArray[np.uint8]:
        """0 to 255, in the shape of the image's numbers; 0 where there are no data."""
        valid = image.valid
        for value in self.no_data:
            valid &= ~equal(image.numbers, value)
        precision: Any = np.float64 if image.numbers.dtype.itemsize > 2 else np.float32
        with np.errstate(invalid="ignore", over="ignore"):  # of numbers that count as no data
            levels = (image.numbers.astype(precision) - self.low) * (255.0 / max(self.high - self.low, 1e-300))
        levels = np.nan_to_num(levels, copy=False).clip(0, 255).round()
        if image.white_is_zero:
            levels = 255 - levels
        return np.where(valid, levels, 0).astype(np.uint8)


def between(low: float, high: float) -> str:
    """`0..4095`."""
    return f"{number(low)}..{number(high)}"


def number(value: float) -> str:
    """Four digits, or all of a whole number's."""
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.4g}"


def full_range(kind: Kind) -> Range:
    """All that the type holds."""
    return Range(*kind.full)


def thinned(image: Deep) -> Floats:
    """At most about `SAMPLED_NUMBERS` of an image's valid numbers, from a regular grid over it."""
    step = max(math.ceil(math.sqrt(image.numbers.size / SAMPLED_NUMBERS)), 1)
    grid = np.s_[::step, ::step]
    return image.numbers[grid][image.valid[grid]].astype(np.float64)


def chosen(kind: Kind, sample: list[Floats]) -> Range:
    """The range for images of which `sample` has some numbers each.

    From the least to the greatest of them, outliers and "no data" left out; or the numbers' own scale (a whole
    number of bits from zero, 0 to 1 for floats) where they fill most of it, as an 8-bit picture isn't stretched
    either.
    """
    numbers, fills = without_fills(kind, np.concatenate(sample))
    if not len(numbers):
        return Range(*kind.full, tuple(fills), None, len(sample))
    found = float(numbers.min()), float(numbers.max())
    low, high = _without_outliers(numbers)
    for least, most in _scales(kind):
        if least <= low and high <= most and (high - low >= FILLED * (most - least) or low == high):
            low, high = least, most
            break
    return Range(low, high, tuple(fills), found, len(sample))


def without_fills(kind: Kind, numbers: Floats) -> tuple[Floats, list[float]]:
    """Take away numbers that stand for "no data": usual ones that lie further apart than all others span.

    A greatest number that is rare is no fill but a saturated pixel: white, not black.
    """
    fills: list[float] = []
    while len(numbers):
        ends = [float(end) for end in (numbers.min(), numbers.max()) if _usual_fill(kind, float(end))]
        body = numbers[~np.isin(numbers, ends)]
        taken = [end for end in ends if _apart(end, numbers, body)]
        if not taken:
            break
        fills += taken
        numbers = numbers[~np.isin(numbers, taken)]
    return numbers, sorted(fills)


def _apart(end: float, numbers: Floats, body: Floats) -> bool:
    """Whether `end`, the least or greatest of `numbers`, lies further from the `body` of them than that spans."""
    if not len(body):
        return False
    span = float(np.subtract(*np.percentile(body, (100 - TAIL_PERCENT, TAIL_PERCENT))))
    often = end < body[0] or np.mean(numbers == end) > TAIL_PERCENT / 100
    return bool(often and 0 < span < np.abs(body - end).min())


def _usual_fill(kind: Kind, value: float) -> bool:
    nines = value < 0 and float(value).is_integer() and len(f"{-value:.0f}") > 2 and set(f"{-value:.0f}") == {"9"}
    own = kind.bits is not None and value in kind.full and value != 0
    return nines or own or any(math.isclose(value, usual, rel_tol=1e-6) for usual in _USUAL_FILLS)


def _without_outliers(numbers: Floats) -> tuple[float, float]:
    """Least and greatest number, or the percentiles at the tails where those lie far beyond them."""
    inner_low, inner_high = np.percentile(numbers, (TAIL_PERCENT, 100 - TAIL_PERCENT)).tolist()
    low, high, far = float(numbers.min()), float(numbers.max()), FAR * (inner_high - inner_low)
    return (
        low if inner_low - low <= far or far == 0 else inner_low,
        high if high - inner_high <= far or far == 0 else inner_high,
    )


def _scales(kind: Kind) -> Iterator[tuple[float, float]]:
    """Scales that numbers of this kind are usually on, the narrowest first."""
    if kind.bits is None:
        yield 0.0, 1.0
        yield -1.0, 1.0
        yield 0.0, 255.0
    widest = 16 if kind.bits is None else kind.bits if kind.number.startswith("uint") else kind.bits - 1
    yield from ((0.0, 2.0**bits - 1) for bits in range(min(8, widest), widest + 1))
