"""What values make sense: every problem of a configuration, all at once, before a run starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from moco.config import TRACKERS, Config, ModelConfig, ViewsConfig, parse_range, trackers
from moco.errors import UserError, nearest
from moco.presets import preset

_AT_LEAST_ONE = (
    "views.size", "model.dim", "model.queue_size", "model.bn_splits", "train.epochs", "monitor.knn_k",
    "checkpoint.every_epochs", "checkpoint.keep", "checkpoint.keep_every_epochs", "store.short_side",
    "monitor.every_epochs", "runtime.threads", "runtime.devices", "train.accumulate",
    "model.head_layers", "model.head_width", "store.window", "views.early_epochs",
)  # fmt: skip
_POSITIVE = (
    "model.temperature",
    "optimizer.lr",
    "optimizer.vector_lr",
    "monitor.knn_temperature",
    "schedule.gamma",
    "store.remote_gb",
)
_NOT_NEGATIVE = (
    "optimizer.weight_decay", "schedule.warmup_epochs", "schedule.min_lr", "checkpoint.every_minutes", "seed",
    "views.small_crops",
)  # fmt: skip
_SHARES = ("optimizer.momentum", "model.momentum", "store.holdout", "store.max_bad")


def check(config: Config) -> None:
    """Raise one `UserError` that lists every value that can't be right."""
    if not isinstance(config, Config):
        raise UserError(f"give a configuration, as `moco.recipe` makes one, not {type(config).__name__} {config!r:.40}")
    problems = list(wrong_types(config)) or list(_problems(config, flat(config)))
    if problems:
        raise UserError("; ".join(problems))


def flat(config: Config) -> dict[str, Any]:
    """Every value by its dotted name."""
    return dict(_flat(config))


def _flat(record: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for f in fields(record):
        value = getattr(record, f.name)
        if is_dataclass(value):
            yield from _flat(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


def wrong_types(record: Any, prefix: str = "") -> Iterator[str]:
    """Values that a hand-edited file or Python brought in: nothing else compares them with what the fields may hold."""
    hints = get_type_hints(type(record))
    for f in fields(record):
        value = getattr(record, f.name)
        if is_dataclass(value):
            yield from wrong_types(value, f"{prefix}{f.name}.")
        elif not _fits(value, hints[f.name]):
            yield f"{prefix}{f.name} is {value!r}, {_wanted(hints[f.name], f.type)}"


def _wanted(hint: Any, written: Any) -> str:
    literal = next((h for h in (hint, *get_args(hint)) if get_origin(h) is Literal), None)
    if literal is not None:
        return f"valid: {', '.join(map(str, get_args(literal)))}"
    return f"give {hint.__name__ if isinstance(hint, type) else written}"


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in value)
    if origin is not None:  # X | None
        return any(_fits(value, h) for h in inner)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _problems(config: Config, values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{name} is {value}, give a finite number"
        if isinstance(value, str) and (shown := value.encode(errors="backslashreplace").decode()) != value:
            yield f"{name} {shown} isn't UTF-8, and config.yaml couldn't hold it: rename it, or give a link to it"
    for name in _AT_LEAST_ONE:
        if values[name] is not None and values[name] < 1:
            yield f"{name} is {values[name]}, give 1 or more"
    for name in _POSITIVE:
        if values[name] <= 0:
            yield f"{name} is {values[name]}, give a number above 0"
    for name in _NOT_NEGATIVE:
        if values[name] < 0:
            yield f"{name} is {values[name]}, give 0 or more"
    for name in _SHARES:
        if not 0 <= values[name] < 1:
            yield f"{name} is {values[name]}, give a number from 0 up to, not including, 1"
    yield from _related(config)


def _related(config: Config) -> Iterator[str]:
    try:
        parse_range(config.store.range)
    except UserError as error:
        yield str(error)
    yield from _views(config.views)
    if not 0 < config.views.scale_min <= 1:
        yield f"views.scale_min is {config.views.scale_min}, give a share of the area above 0, at most 1"
    for name in ("size", "early_size", "small_size"):
        side = getattr(config.views, name)
        if side is not None and side < 8:
            yield f"views.{name} is {side}, give 8 pixels or more"
    if not 0.5 <= config.views.eval_zoom <= 4:
        yield f"views.eval_zoom is {config.views.eval_zoom}, give a multiple of views.size from 0.5 to 4"
    yield from _early(config)
    yield from _small(config.views)
    if config.train.batch_size is not None:
        yield from _batch(config.train.batch_size, config.model)
        if config.train.accumulate > 0 and config.train.batch_size % config.train.accumulate:
            yield f"train.accumulate {config.train.accumulate} must divide train.batch_size {config.train.batch_size}"
    yield from _model(config.model)
    if config.schedule.min_lr > config.optimizer.lr:
        yield f"schedule.min_lr {config.schedule.min_lr} is above optimizer.lr {config.optimizer.lr}"
    warmup, epochs = config.schedule.warmup_epochs, config.train.epochs
    if epochs is not None and warmup >= epochs and warmup > 0:
        left = f"leaves nothing of {epochs} epoch{'s' * (epochs > 1)}"
        yield f"schedule.warmup_epochs {warmup} {left}: give {epochs / 10:g}, or 0 for none"
    if config.runtime.checkpoint_activations and config.runtime.compile != "off":
        yield "runtime.checkpoint_activations doesn't go with runtime.compile: leave one of them out"
    unknown = [name for name in trackers(config.log) if name not in TRACKERS]
    if unknown:
        yield f"log is {config.log!r}: {nearest(unknown[0], TRACKERS)}"
    if config.seed >= 2**63:
        yield f"seed is {config.seed}, give a number below 2**63"


def _views(views: ViewsConfig) -> Iterator[str]:
    try:
        preset(views.pipeline)
    except UserError as error:
        yield str(error)
    for name in ("jitter_p", "grey_p", "blur_p", "solarise_p", "flip_p"):
        value = getattr(views, name)
        if value is not None and not 0 <= value <= 1:
            yield f"views.{name} is {value}, give a probability from 0 to 1"
    for name, count in (("ratio", 2), ("jitter", 4), ("blur_sigma", 2), ("mean", 3), ("std", 3)):
        values = getattr(views, name)
        if values is None:
            continue
        if len(values) != count:
            yield f"views.{name} has {len(values)} numbers, give {count}"
        elif any(v < 0 or not math.isfinite(v) for v in values) or (name in ("ratio", "std") and min(values) <= 0):
            yield f"views.{name} is {values}, give numbers above 0"
        elif name in ("ratio", "blur_sigma") and values[0] > values[1]:
            yield f"views.{name} is {values}, give the smaller one first"
    if views.jitter is not None and len(views.jitter) == 4 and views.jitter[3] > 0.5:
        yield f"views.jitter turns the hue by {views.jitter[3]}, give 0.5 (half a turn) at most"


def _early(config: Config) -> Iterator[str]:
    size, early_epochs, epochs = config.views.early_size, config.views.early_epochs, config.train.epochs
    if size is None:
        if early_epochs is not None:
            yield "views.early_epochs needs --views.early_size"
    elif early_epochs is None:
        yield "views.early_size needs --views.early_epochs"
    elif size >= config.views.size:
        yield f"views.early_size {size} is no smaller than views.size {config.views.size}: leave it out"
    elif epochs is not None and early_epochs >= epochs:
        less = f"{epochs // 2}, or " if epochs > 1 else ""
        left = f"views.early_epochs {early_epochs} leaves nothing of {epochs} epochs"
        yield f"{left}: give {less}--train.epochs {early_epochs + 1} or more"


def _small(views: ViewsConfig) -> Iterator[str]:
    if (views.small_size is None) != (views.small_crops == 0):
        given, other = ("size", "crops") if views.small_crops == 0 else ("crops", "size")
        yield f"views.small_{given} needs --views.small_{other}"
    scale = views.small_scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        yield f"views.small_scale is {scale}, give two shares of the area above 0, at most 1, the smaller one first"


def _model(model: ModelConfig) -> Iterator[str]:
    if model.mask_groups is not None and not model.mask_own:
        yield "model.mask_groups needs --model.mask_own true"
    if model.momentum_end is not None and not model.momentum <= model.momentum_end <= 1:
        yield f"model.momentum_end is {model.momentum_end}, give a number from model.momentum {model.momentum} to 1"
    if not model.mlp:
        given = ModelConfig()
        for name in ("head_layers", "head_width", "head_batchnorm"):
            if getattr(model, name) != getattr(given, name):
                yield f"model.{name} is of the head that --model.mlp true makes"
    elif model.head_layers == 1:
        width = model.head_width is not None and not model.predictor  # a predictor's, with one
        for name, asked in (("batchnorm", model.head_batchnorm), ("width", width)):
            if asked:
                yield f"model.head_{name} needs --model.head_layers 2 or more: one layer has nothing between"


def _batch(batch: int, model: ModelConfig) -> Iterator[str]:
    if batch < 2:
        yield f"train.batch_size is {batch}, batch-norm needs 2 or more"
    keys = batch * (2 if model.symmetric else 1)
    if model.queue_size is not None and keys > model.queue_size:
        yield f"model.queue_size is {model.queue_size}, it must hold one step's {keys} keys"
    parts = model.bn_splits or 1
    if parts > 1 and (batch % parts or batch // parts < 2):
        yield f"model.bn_splits is {model.bn_splits}, it must divide train.batch_size {batch} into parts of 2 or more"
