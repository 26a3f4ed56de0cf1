"""How a network is fine-tuned: what is asked for, and the record that a fine-tuning keeps of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from moco.config import CheckpointConfig, Config, OptimizerConfig, ScheduleConfig, from_dict
from moco.config_check import wrong_types
from moco.errors import UserError
from moco.evaluators.draws import Amount
from moco.files import read_json
from moco.rundir import RunDir

LEAST_EPOCHS, LEAST_STEPS = 30, 500
WARMUP_SHARE = 0.1  # of the epochs
MOMENTUM = 0.9


@dataclass(frozen=True)
class _Rates:
    lr: float
    head_lr: float
    weight_decay: float


# Peak rates for batches of about 64, by (optimizer, begins from scratch). The literature has for 10 % of ImageNet about
# 0.01 and 0.2 with SGD (SwAV, Caron et al. 2020, appendix); docs/finetune.md says what was measured here.
RATES = {
    ("adamw", False): _Rates(1e-3, 1e-2, 0.05),
    ("adamw", True): _Rates(3e-3, 3e-3, 0.05),
    ("sgd", False): _Rates(0.05, 0.2, 0.0),
    ("sgd", True): _Rates(0.05, 0.05, 5e-4),
}


@dataclass(frozen=True)
class FinetuneOptions:
    """What is asked for; None is decided by the data or from where the weights are.

    Attributes:
        labels: how many labelled images: a share of every class (10%), a number of each (20-per-class), or all.
        draw: which images they are; two draws differ, and draw N of 1% is inside draw N of 10%.
        epochs: passes over the labelled images; default: 30, or more where that would be fewer than 500 steps.
        batch_size: images a step; fewer where there are fewer.
        optimizer: `sgd` or `adamw`.
        lr: peak rate of the backbone; default: 0.05 (sgd), 1e-3 (adamw), 3e-3 (adamw from scratch).
        head_lr: peak rate of the classifier; default: 0.2 (sgd), 1e-2 (adamw), from scratch as the backbone's.
        weight_decay: default: 0 (sgd), 5e-4 (sgd from scratch), 0.05 (adamw).
        warmup_epochs: linear warm-up from zero; default: a tenth of the epochs. A cosine to zero follows.
        scale_min: smallest crop, as a share of the image's area.
        balance: `sampling` shows every class equally often, `loss` weighs rare classes more.
        every_epochs: validation's interval; default: as often as it costs a tenth of the training at most.
        seed: of order, views and, from scratch, weights; with the draw, of the labelled images.
    """

    labels: str = "all"
    draw: int = 0
    epochs: int | None = None
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float | None = None
    head_lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    scale_min: float = 0.08
    balance: Literal["none", "sampling", "loss"] = "none"
    every_epochs: int | None = None
    seed: int = 0

    def checked(self) -> FinetuneOptions:
        """Itself. Raises one `UserError` that lists every value that can't be right."""
        if problems := list(wrong_types(self, "--")) or list(self._problems()):
            raise UserError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        try:
            Amount.parse(self.labels)
        except UserError as error:
            yield str(error)
        for name, least in (("draw", 0), ("epochs", 1), ("batch_size", 2), ("every_epochs", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                yield f"--{name} is {value}, give {least} or more"
        for name in ("lr", "head_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                yield f"--{name} is {value}, give a number above 0"
        for name in ("weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                yield f"--{name} is {value}, give 0 or more"
        if not 0 < self.scale_min <= 1:
            yield f"--scale_min is {self.scale_min}, give a share of the area above 0, at most 1"
        if self.epochs is not None and self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            yield f"--warmup_epochs {self.warmup_epochs} leaves nothing of {self.epochs} epochs"

    def decided(self, source: str, images: int, val_passes: float) -> FinetuneOptions:
        """With every None filled in, for so many labelled images and weights from `source`.

        `val_passes`: what a validation costs, in forward passes on training views.
        """
        batch_size = min(self.batch_size, images)
        epochs = self.epochs or max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / (images // batch_size)))
        rates = asdict(RATES[self.optimizer, source == "scratch"])
        rates |= {name: getattr(self, name) for name in rates if getattr(self, name) is not None}
        # A step costs three forward passes an image, validation is to cost a tenth of an epoch.
        often = max(1, math.ceil(val_passes / (0.1 * 3 * images)))
        made = replace(
            self,
            batch_size=batch_size,
            epochs=epochs,
            warmup_epochs=WARMUP_SHARE * epochs if self.warmup_epochs is None else self.warmup_epochs,
            every_epochs=self.every_epochs or often,
            **rates,
        )
        return made.checked()


@dataclass(frozen=True)
class Tuning:
    """`finetune.json`: everything that a fine-tuning is, so that it can be gone on with.

    Attributes:
        run: absolute path of the pre-training run.
        which: its checkpoint.
        source: where the weights are from: `run`, or `scratch` (the same network, as initialised).
        base: the run's configuration.
        data: what is learnt: a path, or the name of a built-in set; None for the run's own.
        options: with nothing left open.
    """

    run: str
    which: str
    source: str
    base: Config
    data: str | None
    options: FinetuneOptions
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(keep=1))

    @property
    def epochs(self) -> int:
        """How many."""
        assert self.options.epochs is not None
        return self.options.epochs

    @property
    def optimizer(self) -> OptimizerConfig:
        """With the backbone's peak rate."""
        o = self.options
        assert o.lr is not None and o.weight_decay is not None
        return OptimizerConfig(o.optimizer, o.lr, 1.0, MOMENTUM, o.weight_decay, decay_vectors=o.optimizer == "sgd")

    @property
    def head_scale(self) -> float:
        """The classifier's rate in terms of the backbone's."""
        assert self.options.lr is not None and self.options.head_lr is not None
        return self.options.head_lr / self.options.lr

    @property
    def schedule(self) -> ScheduleConfig:
        """A cosine, step by step."""
        assert self.options.warmup_epochs is not None
        return ScheduleConfig(name="cosine", per="step", warmup_epochs=self.options.warmup_epochs)

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Tuning:
        """The record that `as_dict` made. Raises `UserError` for anything else."""
        try:
            known = {f.name for f in fields(FinetuneOptions)}
            options = FinetuneOptions(**{name: v for name, v in values["options"].items() if name in known})
            saving = CheckpointConfig(**values["checkpoint"])
            plain = {name: values[name] for name in ("run", "which", "source", "data")}
            return cls(**plain, base=from_dict(values["base"]), options=options.checked(), checkpoint=saving)
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"no fine-tuning that this version of moco reads ({error!r})") from error


def default_name(source: str, options: FinetuneOptions) -> str:
    """What the directory of a fine-tuning is called."""
    parts = ["finetune", *([source] if source != "run" else []), Amount.parse(options.labels).slug]
    parts += [f"draw{options.draw}"] if options.draw else []
    parts += [f"seed{options.seed}"] if options.seed else []
    return "-".join(parts)


def open_tuning(place: str | os.PathLike[str]) -> tuple[RunDir, Tuning]:
    """The directory of a fine-tuning, and what it is. Raises `UserError` if it is none, or its record is damaged."""
    folder = RunDir(Path(place))
    if not folder.finetune_file.is_file():
        raise UserError(f"{os.fspath(place)} is no directory of `moco finetune`: it has no {folder.finetune_file.name}")
    try:
        return folder, Tuning.from_dict(read_json(folder.finetune_file, "fine-tuning"))
    except UserError as error:
        raise UserError(f"{folder.finetune_file}: {error}") from error
