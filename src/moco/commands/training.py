"""The wiring of a pre-training run: data, views, model, optimizer and monitors around the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.commands.monitors import LabelMonitor, queue_health
from moco.commands.session import build_model, pixel_source
from moco.config import Config
from moco.config_check import check
from moco.console import say
from moco.data.dataset import Dataset, open_dataset
from moco.data.sampler import Sampler
from moco.environment import describe
from moco.errors import UserError
from moco.evaluate.health import diagnose
from moco.randomness import Purpose, torch_seed
from moco.rundir import RunDir
from moco.runtime import Runtime
from moco.train.loop import Evaluator, Loop
from moco.train.optimizer import build_optimizer
from moco.train.state import TrainState
from moco.views.make import Source, random_view
from moco.views.pipelines import pipeline
from moco.views.staging import Staging


def prepare(config: Config) -> tuple[Loop, Dataset]:
    """A loop at step 0 and its data. Raises `UserError` for anything that can't be trained; writes no run."""
    runtime = Runtime(config.runtime)
    torch.manual_seed(torch_seed(config.seed, Purpose.INIT))
    model = build_model(config)
    data = open_dataset(config.data, config.store, config.short_side)
    say(data.note)
    say(runtime.line())
    config = config.with_batch_size(len(data.train))
    check(config)
    assert config.train.batch_size is not None
    sampler = Sampler(len(data.train), config.train.batch_size, config.seed)
    model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    runtime.compile(model.encoder_q, model.encoder_k)
    optimizer = build_optimizer(model, config.optimizer)
    source = pixel_source(data.train, runtime.device, announce=True)
    evaluators: list[Evaluator] = []
    interval = 1
    if data.val is not None:
        evaluators.append(LabelMonitor(config, data, source, model.encoder_q.backbone, runtime))
        interval = config.monitor_interval(len(data.train), len(data.val))
    state = TrainState()
    state.sums = state.sums.to(runtime.device)
    keys_a_step = config.train.batch_size * (2 if config.model.symmetric else 1)
    loop = Loop(
        config=config,
        run=RunDir(Path()),
        runtime=runtime,
        model=model,
        optimizer=optimizer,
        sampler=sampler,
        views=view_maker(config, source),
        ahead=source.ahead if isinstance(source, Staging) else lambda images: None,
        state=state,
        evaluators=evaluators,
        monitor_every=interval,
        health=lambda: queue_health(model, loop.state.step * keys_a_step),
        diagnose=lambda row: diagnose(row, config.model.queue_size),
        monitor="knn_top1",
        about={**describe(), "precision": runtime.precision, "reason": runtime.reason, "data": data.fingerprints},
    )
    return loop, data


def view_maker(config: Config, source: Source) -> Any:
    """(image numbers, epoch) -> the two augmented views of the batch, channels last."""
    spec = pipeline(config.views)

    def make(images: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        first, second = (
            random_view(source, images, spec, config.seed, epoch, view).contiguous(memory_format=torch.channels_last)
            for view in (0, 1)
        )
        return first, second

    return make


def restore(loop: Loop, content: dict[str, Any], data: Dataset) -> None:
    """Put the loop where a checkpoint stood. Raises `UserError` if it belongs to other data or another model."""
    about = content["about"]
    if about["data"] != data.fingerprints:
        raise UserError("the data has changed since this run began: resume needs the same images")
    if about["precision"] != loop.runtime.precision:
        say(f"began in {about['precision']}, goes on in {loop.runtime.precision}: not to the same bits")
    try:
        loop.model.load_state_dict(content["model"])
        loop.optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the checkpoint is of another architecture: {' '.join(str(error).split())[:200]}") from error
    loop.state = TrainState.from_dict(content["state"], loop.runtime.device)
    say(f"resuming at step {loop.state.step} (epoch {loop.state.step // loop.sampler.steps_per_epoch + 1})")
