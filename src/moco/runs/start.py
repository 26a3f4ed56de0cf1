"""What a run starts from where that isn't random numbers: `model.init`."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import torch
from torch import nn

from moco.checkpoint import load_for_evaluation
from moco.config import Config
from moco.console import say
from moco.errors import UserError, in_a_line
from moco.exchange.architecture import detect
from moco.exchange.incoming import Weights, fill
from moco.exchange.layouts import read_weights
from moco.model.backbone import library_of, library_options, without_classifier
from moco.model.moco import MoCo
from moco.rundir import RunDir

PRETRAINED = "pretrained"  # the library's own weights of that name


def first_weights(config: Config) -> Weights | None:
    """What `model.init` names; None where it names nothing. Raises `UserError` if it can't be had."""
    init = config.model.init
    if init is None:
        return None
    if init == PRETRAINED:
        return _published(config)
    try:
        return _of_run(Path(init)) if (Path(init) / "config.yaml").is_file() else read_weights(Path(init))
    except UserError as error:
        raise UserError(f"model.init: {error}") from error


def begin_from(model: MoCo, weights: Weights, config: Config) -> None:
    """Give both encoders of `model` the query encoder's `weights`, and say what was taken and what is new."""
    try:
        taken = fill(model, weights, whole=False)
    except UserError as error:
        other = detect(weights.backbone)
        if other is None and weights.arch not in (None, config.model.backbone):
            other = (weights.arch, config.model.small_stem)
        if other is None:
            raise UserError(f"model.init {config.model.init}: {error}") from error
        stem = f" --model.small_stem {str(other[1]).lower()}" if other[1] != config.model.small_stem else ""
        raise UserError(
            f"model.init {config.model.init} holds {other[0]}, not {config.model.backbone}: "
            f"give --model.backbone {other[0]}{stem}"
        ) from error
    new = [part for part in ("head", "queue") if part not in taken.taken]
    say(f"starting from {config.model.init} ({weights.layout}): {taken}; new: {', '.join(new)}")


def _of_run(path: Path) -> Weights:
    """The last checkpoint of the run at `path`."""
    folder = RunDir.open(path)
    config, content = folder.read_config(), load_for_evaluation(folder.checkpoints, "last")
    backbone, head, key_backbone, key_head = (
        {n.removeprefix(part): tensor for n, tensor in content["model"].items() if n.startswith(part)}
        for part in ("encoder_q.backbone.", "encoder_q.head.", "encoder_k.backbone.", "encoder_k.head.")
    )
    epoch = len(content["state"]["rows"])
    layout = f"a run, {config.model.backbone}, {config.views.size} px, epoch {epoch}"
    queue = content["model"]["queue"]
    return Weights(layout, backbone, head, key_backbone, key_head, queue, arch=config.model.backbone)


def _published(config: Config) -> Weights:
    """The weights that the backbone's library publishes, downloaded as it does. `UserError` where it can't."""
    import timm
    from torchvision import models

    name = config.model.backbone
    library, bare = library_of(name)
    options = library_options(library, bare, config.views.size)
    if config.model.small_stem:
        raise UserError(f"model.init {PRETRAINED}: no library publishes {name} with model.small_stem")
    hub = logging.getLogger("huggingface_hub")  # it logs each of its dozen attempts
    level, state = hub.level, torch.get_rng_state()
    hub.setLevel(logging.CRITICAL)
    try:
        network: nn.Module
        if library == "timm":
            network = timm.create_model(bare, pretrained=True, num_classes=0, **options)
        else:
            network = without_classifier(models.get_model(bare, weights="DEFAULT", **options), bare)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"model.init {PRETRAINED}: {library}'s weights of {bare} can't be had ({in_a_line(error)}): is there a "
            f"network? A file does too: --model.init {shlex.quote('FILE')}"
        ) from error
    finally:
        hub.setLevel(level)
        torch.set_rng_state(state)
    return Weights(f"{library}'s published weights of {bare}", network.state_dict(), arch=name)
