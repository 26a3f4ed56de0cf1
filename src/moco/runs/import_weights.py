"""Weights in: a checkpoint that somebody else trained, as a run."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moco import checkpoint
from moco.config import Config, from_dict
from moco.config_check import check
from moco.console import say
from moco.environment import describe
from moco.errors import UserError, in_a_line
from moco.exchange.architecture import architecture
from moco.exchange.incoming import Weights, fill
from moco.exchange.layouts import read_weights
from moco.fresh_run import check_free, created
from moco.machine import choose_device, choose_precision
from moco.model.backbone import library_of, own_size
from moco.model.moco import MoCo
from moco.randomness import Purpose, torch_seed
from moco.runs.recipe import recipe
from moco.runs.trained import Run, build_model, open_run
from moco.tables import Row, write_csv
from moco.train.metrics import COLUMNS
from moco.train.optimizer import build_optimizer, set_lr
from moco.train.state import Progress, Totals

SMALL_SIZE = 32  # px; what a ResNet with the small stem is for


def import_weights(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    size: int | None = None,
    backbone: str | None = None,
    data: str | None = None,
) -> Run:
    """Make a run of a checkpoint: facebookresearch/moco's, lightly's, solo-learn's, a plain state dict, safetensors.

    Nothing in the file is run. What it says decides the configuration; the rest is the paper's (recipes `imagenet-v1`
    and `imagenet-v2`).

    Args:
        file: the checkpoint; or a folder with `model.safetensors`.
        out: the new run directory.
        size: side of the views in pixels, where the file doesn't say; default what the network is made for.
        backbone: its torchvision or timm name, for other networks than torchvision's ResNets.
        data: the images that belong to it, for `linear` and `pretrain --resume`.

    Raises:
        UserError: the file can't be read, needs unpickling of a class (which is named), or has tensors that have no
            place (which are named); nothing was written.
    """
    check_free(out)
    path = Path(file)
    weights = read_weights(path)
    try:
        config = replace(_config(weights, size, backbone), data=data)
        check(config)
        torch.manual_seed(torch_seed(config.seed, Purpose.INIT))
        model = build_model(config)
        taken = fill(model, weights, whole=True)
        content = _content(config, model, weights, path)
        resumable = content["about"].get("imported", {"resumable": True})["resumable"]
        rows = content["state"]["rows"]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # of parts that don't fit what it says it is
        raise UserError(f"{path} isn't what it says it is: {in_a_line(error)}") from error
    with created(out) as run:
        run.write_config(config, {**content["about"], "data_as_given": data, "command": sys.argv})
        if rows:
            write_csv(run.metrics_file, rows, COLUMNS)
        checkpoint.save(run.checkpoints, content, config.checkpoint.keep, best=False)
    if resumable:
        taken = replace(taken, taken=(*taken.taken, "optimizer"))
    at = f", epoch {len(rows)}" if rows else ""
    say(f"{path} is {weights.layout}, {config.model.backbone}{at}: {taken}")
    return open_run(out)


def _config(weights: Weights, size: int | None, backbone: str | None) -> Config:
    """What the file says of the run that made it, and the paper's values for the rest."""
    if size is not None and size < 1:
        raise UserError(f"--size is {size}, give 1 or more")
    if weights.own is not None:
        return _own_config(weights, size, backbone)
    asked = backbone or _told(weights)
    name, small_stem = architecture(weights.backbone, asked, size)
    base = recipe("imagenet-v1" if weights.head is not None and not weights.mlp else "imagenet-v2")
    size = size or (SMALL_SIZE if small_stem else own_size(name))
    queue = base.batch_size if weights.queue is None else len(weights.queue)
    model = replace(
        base.model, backbone=name, small_stem=small_stem, dim=weights.dim or base.model.dim, queue_size=queue,
        mlp=weights.mlp or weights.head is None, head_width=weights.head_width,
        bn_splits=1 if weights.queue is None else base.model.bn_splits,
    )  # fmt: skip
    sgd: dict[str, Any] = {n: value for n, value in weights.sgd.items() if n != "lr"}  # where it stands, not its peak
    train = replace(base.train, epochs=max(base.epochs, weights.epoch))
    if queue < base.batch_size:
        train = replace(train, batch_size=queue)
    views = replace(base.views, size=size)
    return replace(base, model=model, views=views, train=train, optimizer=replace(base.optimizer, **sgd))


def _told(weights: Weights) -> str | None:
    """The name that the file gives its network, where it is one."""
    try:
        return weights.arch if weights.arch and library_of(weights.arch) else None
    except UserError:
        return None


def _own_config(weights: Weights, size: int | None, backbone: str | None) -> Config:
    assert weights.own is not None
    config = from_dict(weights.own["config"]) if isinstance(weights.own.get("config"), dict) else None
    if config is None:
        raise UserError("what moco wrote in it is damaged: it has no configuration")
    for option, asked, found in (("--size", size, config.views.size), ("--backbone", backbone, config.model.backbone)):
        if asked is not None and asked != found:
            raise UserError(f"it says itself what it is: leave out {option}, which is {found}")
    return config


def _content(config: Config, model: MoCo, weights: Weights, path: Path) -> checkpoint.Content:
    """The checkpoint of the new run: the file's own where this program wrote it, else one at the end of its epochs."""
    own = weights.own or {}
    if model.mask_own and isinstance(own.get("queue_images"), torch.Tensor):
        model.queue_images.copy_(own["queue_images"])
    optimizer = build_optimizer(model, config.optimizer)
    if "lr" in weights.sgd:
        set_lr(optimizer, weights.sgd["lr"])
    state = optimizer.state_dict()
    if weights.momenta is not None:
        found = {n: {"momentum_buffer": buffer} for n, buffer in enumerate(weights.momenta) if buffer is not None}
        state = {**state, "state": found}
    base: dict[str, Any] = {"model": model.state_dict(), "optimizer": state, "config": config.as_dict()}
    if {"step", "state", "about", "param_groups"} <= set(own):
        whole = {"step": own["step"], "state": own["state"], "about": own["about"]}
        base["optimizer"] = {**state, "param_groups": own["param_groups"]}
        return checkpoint.Content(**base, **whole)  # type: ignore[typeddict-item]
    return checkpoint.Content(**base, step=0, state=_state(weights), about=_about(config, weights, path))  # type: ignore[typeddict-item]


def _state(weights: Weights) -> dict[str, Any]:
    """So many epochs done, of which nothing is known; their steps follow when there are images to go on with."""
    rows: list[Row] = [{"epoch": number} for number in range(1, weights.epoch + 1)]
    return {**Progress(rows=rows).state_dict(), "sums": Totals().state_dict()}


def _about(config: Config, weights: Weights, path: Path) -> dict[str, Any]:
    precision = choose_precision(config.runtime.precision, choose_device(config.runtime.device))
    parts = (weights.head, weights.key_head, weights.queue, weights.momenta)
    imported = {"file": path.name, "layout": weights.layout, "resumable": all(part is not None for part in parts)}
    known = {"precision": precision.name, "reason": precision.reason, "data": None, "ranges": {}, "imported": imported}
    return {**describe(), **known}
