"""What the commands share: data onto a device, and the trained backbone of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moco import checkpoint
from moco.config import Config
from moco.console import say
from moco.data.dataset import open_dataset
from moco.data.store import Dataset, Store
from moco.environment import memory_available_bytes
from moco.errors import UserError
from moco.model.moco import MoCo
from moco.rundir import RunDir
from moco.runtime import Runtime
from moco.views.make import Source
from moco.views.ragged import Ragged
from moco.views.residency import choose
from moco.views.staging import Staging


def pixel_source(store: Store, device: torch.device, announce: bool = False) -> Source:
    """The split's pixels, kept where there is room for them; `announce` says where and why."""
    gpu_free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    where, why = choose(store.pixels.nbytes, device, gpu_free, memory_available_bytes())
    if announce:
        say(why)
    mapped = Ragged(torch.from_numpy(store.pixels), store.offsets, store.heights, store.widths)
    if where == "device":
        return Ragged(mapped.pixels.to(device), store.offsets, store.heights, store.widths)
    if where == "host" and device.type == "cpu":
        return mapped
    return Staging(mapped, device)


def labels_of(store: Store, device: torch.device) -> Tensor:
    """Class numbers, int64 (N,), on `device`."""
    return torch.from_numpy(store.labels).to(device)


def build_model(config: Config) -> MoCo:
    """The model that a configuration names, freshly initialised by torch's generator."""
    m = config.model
    return MoCo(
        m.backbone, m.dim, m.queue_size, m.momentum, m.temperature, m.mlp, m.bn_splits, m.small_stem, config.views.size
    )


@dataclass(frozen=True)
class Labelled:
    """A data set with labels, on the device: what linear classification and evaluation need."""

    train: Source
    train_labels: Tensor
    val: Source
    val_labels: Tensor
    classes: list[str]


@dataclass(frozen=True)
class TrainedRun:
    """A run opened for evaluation.

    Attributes:
        backbone: the query encoder's backbone, without head, in evaluation mode.
        feature_dim: width of its features.
        step, epoch: where its checkpoint was written.
    """

    run: RunDir
    config: Config
    runtime: Runtime
    data: Dataset
    backbone: nn.Module
    feature_dim: int
    step: int
    epoch: int

    def labelled(self) -> Labelled:
        """Both splits with labels. Raises `UserError` if the data has none."""
        val = self.data.val
        if val is None:
            raise UserError(f"{self.config.data} has no labels: linear classification needs class folders")
        device = self.runtime.device
        return Labelled(
            pixel_source(self.data.train, device), labels_of(self.data.train, device),
            pixel_source(val, device), labels_of(val, device), self.data.classes,
        )  # fmt: skip


def open_trained(path: str, which: str, data: str | None) -> TrainedRun:
    """Open the run at `path` with its `last` or `best` checkpoint; `data` replaces the data it was trained on."""
    run = RunDir.open(path)
    config = run.read_config()
    content = checkpoint.load_for_evaluation(run.checkpoints, which)
    runtime = Runtime(config.runtime)
    say(f"{path}: {which} checkpoint, step {content['step']}; {runtime.line()}")
    dataset = open_dataset(data or config.data, config.store, config.short_side)
    say(dataset.note)
    model = build_model(config)
    model.load_state_dict(content["model"])
    backbone = model.encoder_q.backbone.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    backbone.requires_grad_(False).eval()
    epoch = len(content["state"]["rows"])
    return TrainedRun(run, config, runtime, dataset, backbone, model.feature_dim, content["step"], epoch)
