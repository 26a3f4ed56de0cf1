"""A run that was trained, opened again: its figures, its backbone, and the data that it is evaluated on."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from moco import checkpoint
from moco.config import Config
from moco.console import say
from moco.data.dataset import Dataset, open_dataset
from moco.data.depth import Kind
from moco.data.images import decode
from moco.data.levels import Range, full_range
from moco.data.remote import RemoteChunks
from moco.data.store import Store
from moco.environment import cores
from moco.errors import UserError, nearest
from moco.evaluators.frozen import Frozen, Labelled
from moco.machine import Precision
from moco.model.head import Head
from moco.model.moco import MoCo
from moco.ranks import ALONE, Ranks
from moco.rundir import RunDir
from moco.runs.going_on import check_config
from moco.runtime import Runtime
from moco.tables import Row, read_csv
from moco.views.make import evaluation_view
from moco.views.pipelines import IMAGENET, Scaling, scaling
from moco.views.ragged import Ragged
from moco.views.residency import placed, placed_compressed
from moco.views.source import Source
from moco.views.staging import Staging

Encoder = Literal["query", "key"]
ENCODERS = get_args(Encoder)
# Pillow modes of 8 bits that a PNG can't keep, and what they become; those of more bits go into a TIFF.
NO_PNG = {**dict.fromkeys(("CMYK", "YCbCr", "LAB", "HSV", "RGBX"), "RGB"), "RGBa": "RGBA", "La": "LA", "PA": "RGBA"}
WIDE = ("I", "F")


@dataclass(frozen=True)
class Run:
    """A run directory and its configuration; it stands for its path wherever one is taken."""

    folder: RunDir
    config: Config

    def __fspath__(self) -> str:
        return str(self.folder.root)

    @property
    def path(self) -> Path:
        """Where the run is."""
        return self.folder.root

    @cached_property
    def metrics(self) -> list[Row]:
        """A row per finished epoch, as in `metrics.csv`; empty before the first."""
        return read_csv(self.folder.metrics_file) if self.folder.metrics_file.is_file() else []


def open_run(path: str | os.PathLike[str]) -> Run:
    """The run at `path`. Raises `UserError` if there is none, or its configuration makes no sense."""
    folder = RunDir.open(path)
    return Run(folder, folder.read_config())


def _as_rgb(picture: Any) -> NDArray[np.uint8]:
    """The array of a picture. Raises `UserError` for one that isn't uint8 RGB (H, W, 3)."""
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(
            f"a picture is a path, a Pillow image or a uint8 RGB array (H, W, 3), not {array.dtype} {array.shape}"
        )
    return array


@dataclass(frozen=True)
class Preprocess:
    """Pictures to what a run's backbone takes: decoded, scaled and cropped as its evaluation views are.

    Attributes:
        size: side of the view, pixels.
        short_side: short side that pictures are decoded at, as in the run's packed store.
        ranges: what became black and white in the run's images of more than 8 bits, by kind.
        scaling: how the views are normalised.
    """

    size: int
    short_side: int
    ranges: Mapping[str, Mapping[str, Any]]
    scaling: Scaling = IMAGENET

    def __call__(self, pictures: Any) -> Tensor:
        """Normalised float32 (N, 3, size, size) on the CPU.

        A picture is a path, a Pillow image, or a uint8 RGB array (H, W, 3); one, or a sequence of them.
        Raises `moco.data.images.BadImage` for a file that is no readable picture, `OSError` for one that can't be read,
        `UserError` for an array of another kind.
        """
        single = isinstance(pictures, str | os.PathLike | Image.Image) or getattr(pictures, "ndim", 0) in (2, 3)
        arrays = [self._pixels(picture) for picture in ([pictures] if single else pictures)]
        if not arrays:
            return torch.empty(0, 3, self.size, self.size)
        return evaluation_view(ragged(arrays), np.arange(len(arrays)), self.size, self.scaling)

    def _pixels(self, picture: Any) -> NDArray[np.uint8]:
        if isinstance(picture, str | os.PathLike):
            return decode(Path(picture).read_bytes(), self.short_side, self._range)
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(_as_rgb(picture))
        image = ImageOps.exif_transpose(image.convert(NO_PNG.get(image.mode, image.mode)))
        file = io.BytesIO()  # so that there is one way to decode
        if image.mode in WIDE:
            image.save(file, format="TIFF")
        else:
            image.save(file, format="PNG", compress_level=0)
        return decode(file.getvalue(), self.short_side, self._range)

    def _range(self, kind: Kind) -> Range:
        return Range.from_dict(self.ranges[str(kind)]) if str(kind) in self.ranges else full_range(kind)


def ragged(arrays: Sequence[NDArray[np.uint8]]) -> Ragged:
    """Images uint8 (H, W, 3) as a source of pixels on the CPU."""
    sizes = np.array([array.size for array in arrays], np.int64)
    heights, widths = (np.array([array.shape[axis] for array in arrays], np.int32) for axis in (0, 1))
    pixels = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]))
    return Ragged(pixels, np.cumsum(sizes) - sizes, heights, widths)


def load_backbone(
    run: str | os.PathLike[str], checkpoint: str = "last", device: str = "cpu"
) -> tuple[nn.Module, Preprocess]:
    """A run's backbone, without head, and the preprocessing that belongs to it; the data set is not needed.

    Args:
        run: the run's path, or the run.
        checkpoint: `last`, `best`, or the number of an epoch whose checkpoint was kept.
        device: where the module goes.

    Returns:
        the query encoder's backbone in evaluation mode, (N, 3, H, W) -> (N, F), float32; its `Preprocess`.

    Raises:
        UserError: there is no such run or checkpoint, or it is damaged.
    """
    opened, content, model = open_model(run, checkpoint)
    backbone = model.encoder_q.backbone.to(device)
    ranges = content["about"].get("ranges", {})
    config = opened.config
    return backbone, Preprocess(config.views.centre_size, config.short_side, ranges, scaling(config.views))


def build_model(config: Config) -> MoCo:
    """The model that a configuration names, freshly initialised by torch's generator."""
    m = config.model
    head = Head(m.head_layers if m.mlp else 1, m.head_width, m.head_batchnorm)
    return MoCo(
        m.backbone, m.dim, config.queue_size, m.momentum, m.temperature, m.mlp, config.bn_splits, m.small_stem,
        config.views.size, head, m.predictor, m.mask_own,
    )  # fmt: skip


def open_model(run: str | os.PathLike[str], which: str) -> tuple[Run, checkpoint.Content, MoCo]:
    """A run, one of its checkpoints, and the model in it: on the CPU, in evaluation mode."""
    opened = open_run(run)
    content = checkpoint.load_for_evaluation(opened.folder.checkpoints, which)
    check_config(opened.folder, content, opened.config)
    model = build_model(opened.config)
    model.load_state_dict(content["model"])
    return opened, content, model.eval()


def pixel_source(store: Store, device: torch.device, announce: bool = False) -> Source:
    """The split's pixels, kept where there is room for them; `announce` says where and why."""

    def upload() -> Ragged:
        return Ragged(*store.on(device), store.heights, store.widths)

    source: Source
    if isinstance(store.pixels, RemoteChunks) and not store.pixels.whole:
        source, why = Staging(store, device, cores()), "JPEGs fetched and decoded one batch ahead"
    elif store.jpeg:
        source, why = placed_compressed(store, store.stored_bytes, store.nbytes, device, upload)
    else:
        mapped = Ragged(store.tensor(), store.offsets, store.heights, store.widths)
        source, why = placed(mapped, store.nbytes, device, upload)
    if announce:
        say(why)
    return source


def labelled(store: Store, device: torch.device, source: Source | None = None) -> Labelled:
    """The split with its labels on `device`; `source` are its pixels, where somebody has them already."""
    labels = torch.from_numpy(store.labels).to(device)
    return Labelled(pixel_source(store, device) if source is None else source, labels, store.classes)


@dataclass(frozen=True)
class FrozenRun:
    """A run's backbone, opened to be looked at, without any data.

    Attributes:
        run: the run.
        frozen: one of its encoders' backbones, without head, with its view.
        about: what the checkpoint says of what it was trained on.
        step, epoch: where its checkpoint was written.
    """

    run: Run
    frozen: Frozen
    about: dict[str, Any]
    step: int
    epoch: int


def open_frozen(
    path: str | os.PathLike[str], which: str = "last", encoder: Encoder = "query", ranks: Ranks = ALONE
) -> FrozenRun:
    """Open the run at `path` with a checkpoint; it computes in the precision that the run began with.

    Of several processes `ranks` is this one's place: features are then computed in shares. Raises `UserError` if there
    is no such run or checkpoint, or it is damaged.
    """
    if encoder not in ENCODERS:
        raise UserError(f"--encoder is {encoder!r}, {nearest(encoder, ENCODERS)}")
    opened, content, model = open_model(path, which)
    config, about = opened.config, content["about"]
    runtime = Runtime(config.runtime, Precision(about["precision"], "as the run was trained"), ranks)
    say(f"{os.fspath(path)}: {which} checkpoint, step {content['step']}; {runtime.line()}")
    backbone = (model.encoder_q if encoder == "query" else model.encoder_k).backbone
    backbone = backbone.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    backbone.requires_grad_(False).eval()
    frozen = Frozen.of(backbone, config.views, runtime)
    return FrozenRun(opened, frozen, about, content["step"], len(content["state"]["rows"]))


@dataclass(frozen=True)
class TrainedRun:
    """A run opened for evaluation.

    Attributes:
        frozen: the query encoder's backbone, without head, with its view.
        step, epoch: where its checkpoint was written.
    """

    run: RunDir
    config: Config
    frozen: Frozen
    data: Dataset
    step: int
    epoch: int


def open_trained(path: str | os.PathLike[str], which: str, data: str | None, ranks: Ranks = ALONE) -> TrainedRun:
    """Open the run at `path` with a checkpoint and its data; `data` replaces the data that it was trained on.

    It computes in the precision that the run began with. Where the run's own images have changed since, a line says so.
    """
    data = None if data is None else os.fspath(data)
    opened = open_frozen(path, which, ranks=ranks)
    config = opened.run.config
    store = config.store
    if data is not None and store.labels == "none":  # which was said of the run's own images
        store = replace(store, labels="auto")
    try:
        dataset = open_dataset(data or config.data, store, config.short_side)
    except UserError as error:
        if data is not None:
            raise
        told = f"the data of the run {shlex.quote(os.fspath(path))} can't be opened"
        raise UserError(f"{told} ({error}); if it was moved, give --data DIR") from error
    say(dataset.note)
    if data is None and opened.about["data"] not in (
        None,
        dataset.fingerprints,
    ):  # of imported weights nothing is known
        say(f"the images in {config.data} are not those that the run was trained on: they have changed since")
    return TrainedRun(opened.run.folder, config, opened.frozen, dataset, opened.step, opened.epoch)
