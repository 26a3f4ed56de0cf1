"""How a linear classification is done: records that the command line and Python share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from moco.config_check import wrong_types
from moco.errors import UserError

_LEAST = {"epochs": 1, "batch_size": 1, "seed": 0, "passes": 0, "weight_decay": 0}


@dataclass(frozen=True)
class CachedOptions:
    """Protocol `cached`.

    Attributes:
        passes: augmented views of each image beside the centre one.
        epochs: over all views; None for ten, or more where ten would be few steps.
        batch_size: views a step.
        seed: of views, order and hold-out.
    """

    passes: int = 3
    epochs: int | None = None
    batch_size: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class SgdOptions:
    """Protocol `sgd`.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        lr: peak learning rate; None derives it from the features' length (`default_lr`).
        weight_decay: on weight and bias.
        schedule: `cosine` or `step`, both a step per epoch.
        init: `zero`, or `logistic`: the weights of the logistic regression on the centre views.
        seed: of views and order.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float | None = None
    weight_decay: float = 0.0
    schedule: Literal["cosine", "step"] = "cosine"
    init: Literal["zero", "logistic"] = "zero"
    seed: int = 0


@dataclass(frozen=True)
class LinearOptions:
    """Which protocol, and what is asked of it; None is the protocol's own default.

    Attributes:
        protocol: `cached` extracts the features once and finds learning rate and weight decay by itself; `sgd` is the
            literature's.
        epochs: passes over the data; default: 10 or 360 steps, whichever is more (cached), 100 (sgd).
        batch_size: views a step; default: 1024 (cached), 256 (sgd).
        seed: of views and order; default: 0.
        passes: cached: augmented views of each image; default: 3.
        lr: sgd: peak learning rate; default: from the features' length.
        weight_decay: sgd: default 0.
        schedule: sgd: default cosine; step: /10 at 60 and 80 % of the epochs.
        init: sgd: first weights; default zero, else those of the logistic regression.
    """

    protocol: Literal["cached", "sgd"] = "cached"
    epochs: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    passes: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    schedule: Literal["cosine", "step"] | None = None
    init: Literal["zero", "logistic"] | None = None

    def chosen(self) -> CachedOptions | SgdOptions:
        """The protocol's own options. Raises one `UserError` that lists every value that can't be right."""
        problems = list(wrong_types(self, "--")) or list(self._problems())
        if problems:
            raise UserError("; ".join(problems))
        given = {name: value for name, value in vars(self).items() if name != "protocol" and value is not None}
        return (CachedOptions if self.protocol == "cached" else SgdOptions)(**given)

    def _problems(self) -> Iterator[str]:
        takers = {"cached": _names(CachedOptions), "sgd": _names(SgdOptions)}
        for f in fields(self)[1:]:
            value = getattr(self, f.name)
            if value is None:
                continue
            if f.name not in takers[self.protocol]:
                other = next(protocol for protocol, names in takers.items() if f.name in names)
                yield f"--{f.name} is for --protocol {other}, not {self.protocol}"
            elif f.name in _LEAST and not _LEAST[f.name] <= value < math.inf:
                yield f"--{f.name} is {value}, give {_LEAST[f.name]} or more"
            elif f.name == "lr" and not 0 < value < math.inf:
                yield f"--lr is {value}, give a number above 0"


def _names(record: type) -> set[str]:
    return {f.name for f in fields(record)}
