"""`--recipe auto`: a configuration from the size of the images and the kind of device; their number comes later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moco.config import Config

TINY = 40  # px: photographs of up to this short side are shown to small stems at their own size
STEP = 16  # px: sides of views are multiples of it
LEAST = 32  # px
ZOOMS = {64: 1.5, 224: 1.2857}  # by side of the views: to 96 px, measured; to 288 px, as FixRes and timm do
OPEN = ("train.batch_size", "train.epochs", "model.queue_size", "model.bn_splits")


@dataclass(frozen=True)
class Choice:
    """One option's value, by its dotted name, and why."""

    name: str
    value: Any
    reason: str


def choices(short_side: int, device: str, epochs: int | None = None) -> list[Choice]:
    """What suits images of `short_side` pixels (the median) on a `device`, `cpu` or `cuda`; `epochs` where given.

    Batch, parts, queue and epochs stay open: they follow from the number of images and from what else is given
    (`sizing.py`). The rules are measured where docs/learning.md says so, and guesses by them elsewhere.
    """
    on_cpu = device == "cpu"
    where, affordable = ("without a GPU", 64) if on_cpu else ("on a GPU", 224)
    tiny = not on_cpu and short_side <= TINY
    size = affordable if on_cpu else min(affordable, max(short_side // STEP * STEP, LEAST))
    small = on_cpu or tiny
    if on_cpu:
        backbone, because = "timm/resnet10t", "ten layers behind a deep stem: learns most a minute without a GPU"
    else:
        backbone, because = "resnet18" if tiny else "resnet50", "what trains in reasonable time on a GPU"
    warmup = 1.0 if epochs is None else min(1.0, epochs / 10)
    return [
        Choice("model.backbone", backbone, because),
        Choice("model.small_stem", tiny, f"the images have {short_side} px"),
        Choice("views.size", size, f"the images have {short_side} px, and {affordable} is what pays {where}"),
        Choice("model.symmetric", True, "each view is query and key: twice the pairs of the same pictures"),
        Choice("model.momentum", 0.98 if on_cpu else 0.99, "the key encoder follows within fifty to a hundred steps"),
        Choice("model.mask_own", True, "with few images each meets its own earlier keys in the queue"),
        Choice("model.temperature", 0.07, "with Muon it learns more than with 0.2"),
        Choice("model.head_batchnorm", True, "it learns more"),
        Choice("model.head_width", 1024 if small else 2048, "as wide as it was measured, or as the backbone"),
        Choice("optimizer.name", "muon", "learns most a minute"),
        Choice("optimizer.lr", 0.005, "Muon's, whatever the batch"),
        Choice("optimizer.momentum", 0.95, "Muon's"),
        Choice("optimizer.weight_decay", 0.05, "Muon's"),
        Choice("schedule.warmup_epochs", warmup, "a cosine to zero after the first epoch, or a tenth of a short run"),
        Choice("schedule.per", "step", "the rate moves every step: epochs are few"),
        *(Choice(name, None, "") for name in OPEN),
    ]


def zoomed(size: int) -> list[Choice]:
    """How much larger than views of `size` px the evaluation view is to be, where that is known."""
    zoom = ZOOMS.get(size)
    why = "crops blow up what they show: a larger evaluation view shows things as large"
    return [] if zoom is None else [Choice("views.eval_zoom", zoom, why)]


def as_values(made: list[Choice]) -> dict[str, Any]:
    """The choices as a recipe's nested values."""
    values: dict[str, Any] = {}
    for choice in made:
        section, name = choice.name.split(".")
        values.setdefault(section, {})[name] = choice.value
    return values


def reasons(made: list[Choice], config: Config) -> list[str]:
    """A line for each choice that stands in `config`: what was given instead has no reason here."""
    taken = [c for c in made if c.reason and _value(config, c.name) == c.value]
    width = max((len(f"{c.name} {c.value}") for c in taken), default=0)
    return [f"  {f'{c.name} {c.value}':<{width}}  {c.reason}" for c in taken]


def _value(config: Config, name: str) -> Any:
    section, field = name.split(".")
    return getattr(getattr(config, section), field)
