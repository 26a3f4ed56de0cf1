"""Which ResNet a state dict is of, found by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from moco.errors import UserError
from moco.model.backbone import headless_shapes

# torchvision's family: all of them differ in some shape.
RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
COUNTER = ".num_batches_tracked"  # batch-norm's, which older files lack; nothing is computed from it here
CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "last_linear.")


def detect(tensors: Mapping[str, Tensor]) -> tuple[str, bool] | None:
    """(name, whether its stem is the small one) of the ResNet that `tensors`, its classifier aside, are of."""
    for small_stem in (False, True):
        for name in RESNETS:
            if not unplaced(tensors, name, None, small_stem):
                return name, small_stem
    return None


def unplaced(tensors: Mapping[str, Tensor], name: str, size: int | None, small_stem: bool) -> list[str]:
    """What keeps `tensors` from being the network `name`: a phrase for each tensor too many, missing or misshapen.

    Its classifier's, and missing counters of batch-norm, don't.
    """
    wanted = headless_shapes(name, size, small_stem)
    many = [key for key in tensors if key not in wanted and not key.startswith(CLASSIFIERS)]
    missing = [f"no {key}" for key in wanted if key not in tensors and not key.endswith(COUNTER)]
    wrong = [
        f"{key} {tuple(tensors[key].shape)}, not {shape}"
        for key, shape in wanted.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    return [*many, *missing, *wrong]


def listed(names: list[str], shown: int = 6) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def architecture(tensors: Mapping[str, Tensor], asked: str | None, size: int | None = None) -> tuple[str, bool]:
    """(name, small stem) of the network that a file's `tensors` are of; `asked` is what a person says it is.

    Raises `UserError` with the names that it couldn't place.
    """
    if asked is None:
        found = detect(tensors)
        if found is None:
            names = [key for key in tensors if not key.startswith(CLASSIFIERS)]
            told = f"no ResNet of torchvision's has its tensors ({listed(names)})"
            raise UserError(f"{told}: give --backbone NAME, its name in timm or torchvision")
        return found
    for small_stem in (False, True):
        if small_stem and asked.rpartition("/")[2] not in RESNETS:
            continue
        if not unplaced(tensors, asked, size, small_stem):
            return asked, small_stem
    raise UserError(f"it isn't {asked}: {listed(unplaced(tensors, asked, size, False))}")
