"""The configuration: one frozen record, where a run's defaults stand (`MoCo` as a class has the paper's v1).

What was asked for is stored as asked; what is derived from it is derived by the properties below, once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from moco.errors import UserError, nearest

MONITOR_SHARE = 0.1  # of the training time
CENTRE_SHARE = 224 / 256  # of the short side that an evaluation view keeps
TRACKERS = ("wandb", "mlflow", "trackio")  # that `log` can name


@dataclass(frozen=True)
class StoreConfig:
    """How images are decoded once and kept.

    Attributes:
        cache: folder of the packed stores; default `$MOCO_CACHE`, else `~/.cache/moco`.
        short_side: stored short side in pixels; default `views.size / sqrt(views.scale_min)`, or what the small crops
            or the evaluation view need, so that nothing is blown up. Never above the source's size.
        labels: `folders` takes class folders as labels, `none` ignores them, `auto` looks.
        holdout: share of a labelled set without `val/` that is held out for validation.
        max_bad: share of unreadable images above which packing stops.
        range: which numbers become black and white in images of more than 8 bits: `auto` looks at a sample of each
            kind, `full` takes all that the type holds (floats: 0 to 1), `LOW,HIGH` are yours for every kind.
        format: `raw` keeps pixels; `jpeg` keeps JPEGs (quality 95, or the file itself where that is smaller and gives
            the same pixels), decoded by threads one batch ahead, for a fifth or less of the bytes; `auto` takes what is
            packed already, else raw unless it would take more than half of the free disk, and says so.
        window: an epoch goes through a packed store (`moco pack`) so many chunks at a time, in an order of its own;
            default: all images are shuffled together.
        remote_gb: of a packed store that lies elsewhere (s3://...), so many GB are kept in the cache at once.
    """

    cache: str | None = None
    short_side: int | None = None
    labels: Literal["auto", "folders", "none"] = "auto"
    holdout: float = 0.1
    max_bad: float = 0.01
    range: str = "auto"
    format: Literal["auto", "raw", "jpeg"] = "auto"
    window: int | None = None
    remote_gb: float = 50.0


@dataclass(frozen=True)
class ViewsConfig:
    """The augmentation of the two views: a preset, and what differs from it.

    Attributes:
        pipeline: the preset: `v1` (MoCo v1), `v2` (aug+: adds blur), `v2_no_blur`, or `crop_flip`.
        size: side of a view in pixels.
        scale_min: smallest crop, as a share of the image's area.
        ratio: narrowest and widest crop, width / height; default the preset's, as all below.
        jitter: largest change of brightness, contrast, saturation (factors) and hue (turns).
        jitter_p: probability of the jitter.
        grey_p: probability of grey.
        grey_first: grey before the jitter (v1) instead of after it (v2).
        blur_p: probability of the blur.
        blur_sigma: its smallest and largest sigma, in pixels of a 224-px view; it scales with the size.
        solarise_p: probability of solarising, the last of the colours: what is brighter than half is inverted (BYOL has
            0.2 in one of its views; here it is for both).
        flip_p: probability of the mirror image.
        mean: of each channel, subtracted (pixels from 0 to 1); default ImageNet's.
        std: of each channel, divided by; default ImageNet's.
        early_size: side of the views in the first `early_epochs` epochs: a smaller one costs less (progressive
            resizing); default: `size` throughout.
        early_epochs: how many those are.
        small_crops: so many more views of each image, of small parts of it, that are queries alone: each is to be near
            a key of the whole (multi-crop: SwAV, arXiv:2006.09882, section 3.2).
        small_size: their side in pixels.
        small_scale: smallest and largest of those crops, as shares of the image's area.
        eval_zoom: side of the view that everything is measured, embedded and exported with, as a multiple of `size`.
            Crops blow up what they show: the network knows things larger than a whole image at `size` shows them, and
            a larger view restores that (FixRes, arXiv:1906.06423, section 3).
    """

    pipeline: str = "v2"
    size: int = 224
    scale_min: float = 0.2
    ratio: list[float] | None = None
    jitter: list[float] | None = None
    jitter_p: float | None = None
    grey_p: float | None = None
    grey_first: bool | None = None
    blur_p: float | None = None
    blur_sigma: list[float] | None = None
    solarise_p: float | None = None
    flip_p: float | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    early_size: int | None = None
    early_epochs: int | None = None
    small_crops: int = 0
    small_size: int | None = None
    small_scale: list[float] = field(default_factory=lambda: [0.05, 0.2])
    eval_zoom: float = 1.0

    @property
    def centre_size(self) -> int:
        """Side of the evaluation view, pixels."""
        return round(self.size * self.eval_zoom)

    @property
    def centre_cost(self) -> float:
        """Of a forward pass on an evaluation view, in passes on a training view."""
        return (self.centre_size / self.size) ** 2


@dataclass(frozen=True)
class ModelConfig:
    """Encoders and queue; the names are the paper's (MoCo v1 section 3, v2 section 2).

    Attributes:
        backbone: a torchvision or timm name; `torchvision/NAME` or `timm/NAME` to insist on one.
        dim: width of the embedding.
        queue_size: keys in the queue, K; `null` takes what makes sense for the number of images.
        momentum: of the key encoder, m.
        temperature: of the logits, T.
        mlp: a head of several layers (v2: two) instead of a linear one (v1).
        head_layers: layers of that head.
        head_width: width between its layers; default the backbone's.
        head_batchnorm: batch-norm behind each of its layers but the last.
        predictor: two more layers behind the query's head only (BYOL, MoCo v3).
        bn_splits: batch-norm statistics over this many parts of the batch, keys shuffled between them:
            one device then behaves like that many. On the CPU each part has a thread; `null` takes what makes sense
            there for the batch size, and 1 elsewhere.
        bn_shuffle: shuffle the keys between those parts, as the paper does; without it the network finds the positive
            by the statistics that query and key share.
        symmetric: each view is query once and key once; two losses a pair of views.
        small_stem: 3x3 first convolution without stride or pooling (ResNets on images of 32 px).
        mask_own: an image's own earlier keys are no negatives of it (the paper has a data set that is much larger than
            the queue, where they are rare).
        mask_groups: what `moco doctor --json FILE` wrote: of its groups of duplicates (bursts, video frames) no image
            is a negative of another. Needs `mask_own`.
        momentum_end: where m goes by a cosine over the run (BYOL, MoCo v3: 1.0); default: m stays.
        init: what both encoders start from: a file that `moco import` reads, a run, or `pretrained`, the weights that
            the backbone's library publishes; default random numbers.
    """

    backbone: str = "resnet50"
    dim: int = 128
    queue_size: int | None = 65536
    momentum: float = 0.999
    temperature: float = 0.2
    mlp: bool = True
    head_layers: int = 2
    head_width: int | None = None
    head_batchnorm: bool = False
    predictor: bool = False
    bn_splits: int | None = 1
    bn_shuffle: bool = True
    symmetric: bool = False
    small_stem: bool = False
    mask_own: bool = False
    mask_groups: str | None = None
    momentum_end: float | None = None
    init: str | None = None


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer; SGD is the paper's.

    Attributes:
        name: `sgd`, `lars`, `adamw`, or `muon` (matrices and convolutions orthogonalised, AdamW for the rest).
        lr: peak learning rate for the batch size given, never rescaled.
        vector_lr: what isn't a matrix (norms, biases) has this many times the rate.
        momentum: of SGD, LARS and Muon; AdamW's first beta.
        weight_decay: on every parameter, as in the paper.
        decay_vectors: on what isn't a matrix too.
    """

    name: Literal["sgd", "lars", "adamw", "muon"] = "sgd"
    lr: float = 0.03
    vector_lr: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_vectors: bool = True


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over time.

    Attributes:
        name: `cosine`, or `step` (times `gamma` at each milestone).
        per: the rate changes every `epoch` (as in the paper's code) or every `step`.
        warmup_epochs: linear warm-up from zero.
        min_lr: where the cosine ends.
        milestone_epochs: of the step schedule.
        gamma: factor of the step schedule.
    """

    name: Literal["cosine", "step"] = "cosine"
    per: Literal["epoch", "step"] = "epoch"
    warmup_epochs: float = 0.0
    min_lr: float = 0.0
    milestone_epochs: list[int] = field(default_factory=lambda: [120, 160])
    gamma: float = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """How long and how many at once.

    Attributes:
        epochs: passes over the training images; `null` takes what makes sense for the number of images.
        batch_size: images a step, of all processes together (each gives one query and one key, two of each if
            symmetric); default 256, or what makes some steps an epoch of a smaller data set.
        accumulate: so many pieces of a step's batch go through the encoders one after the other, to save memory. The
            result is that of the whole batch: a piece has whole batch-norm parts (`model.bn_splits`), and all keys
            enter the queue together.
    """

    epochs: int | None = 200
    batch_size: int | None = None
    accumulate: int = 1


@dataclass(frozen=True)
class MonitorConfig:
    """What is measured during training: with labels where there are some.

    Attributes:
        every_epochs: interval; default: as often as it costs a tenth of the training at most.
        knn_k: neighbours of the kNN classifier.
        knn_temperature: of its weights exp(similarity / temperature).
        logistic: fit the logistic regression too.
        baseline: before the first step, measure kNN on raw pixels and on the untrained backbone.
        label_free: measure what needs no labels (rank of the features, LiDAR, agreement of views); default: where
            there are none, and then it chooses the best checkpoint.
        encoder: whose backbone is looked at: the `query` encoder's, or the `key` encoder's, the moving average of it.
    """

    every_epochs: int | None = None
    knn_k: int = 20
    knn_temperature: float = 0.1
    logistic: bool = True
    baseline: bool = True
    label_free: bool | None = None
    encoder: Literal["query", "key"] = "query"


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept.

    Attributes:
        every_epochs: interval of the checkpoints at an epoch's end; default: every epoch, unless saving would
            then take more than a twentieth of the time.
        every_minutes: interval in the middle of an epoch, in minutes; 0 for none.
        keep: the last so many stay, and the best.
        keep_every_epochs: interval of the epochs whose checkpoint stays for good; default none.
    """

    every_epochs: int | None = None
    every_minutes: float = 10.0
    keep: int = 3
    keep_every_epochs: int | None = None


@dataclass(frozen=True)
class RuntimeConfig:
    """Where it runs.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto` takes bf16 where the processor has the units for it, float32 elsewhere.
        threads: CPU threads, of each process; default all.
        devices: processes on this machine, a GPU each (or a share of the cores); default one. torchrun and srun say it
            themselves.
        compile: torch.compile the encoders: `default` fuses kernels, `reduce-overhead` makes CUDA graphs of them.
        cuda_graph: on one GPU, launch the whole training step as one CUDA graph where it can be: the same bits, without
            the time to launch its kernels one by one.
        checkpoint_activations: keep the inputs alone of the query encoder's blocks and compute the rest again in the
            backward pass: the same bits, a fraction of the memory, a third more time.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    threads: int | None = None
    devices: int | None = None
    compile: Literal["off", "default", "reduce-overhead"] = "off"
    cuda_graph: bool = True
    checkpoint_activations: bool = False


@dataclass(frozen=True)
class Config:
    """The effective configuration of a pre-training run.

    Attributes:
        data: folder, tar (several: joined by commas), or a catalog name.
        seed: of every random draw.
        log: trackers to tell of the run beside TensorBoard: `wandb`, `mlflow`, `trackio`, or several joined by commas.
    """

    data: str | None = None
    seed: int = 0
    log: str | None = None
    store: StoreConfig = field(default_factory=StoreConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    @property
    def short_side(self) -> int:
        """Short side to store in pixels: a crop of `scale_min` of it is not blown up."""
        if self.store.short_side is not None:
            return self.store.short_side
        smallest = [(self.views.size, self.views.scale_min)]
        if self.views.small_size is not None:
            smallest.append((self.views.small_size, self.views.small_scale[0]))
        if self.views.eval_zoom > 1:
            smallest.append((self.views.centre_size, CENTRE_SHARE**2))
        return max(math.ceil(size / math.sqrt(scale)) for size, scale in smallest)

    @property
    def batch_size(self) -> int:
        """`train.batch_size`, once it is decided (`sizing.py`)."""
        assert self.train.batch_size is not None
        return self.train.batch_size

    @property
    def queue_size(self) -> int:
        """`model.queue_size`, once it is decided."""
        assert self.model.queue_size is not None
        return self.model.queue_size

    @property
    def bn_splits(self) -> int:
        """`model.bn_splits`, once it is decided."""
        assert self.model.bn_splits is not None
        return self.model.bn_splits

    @property
    def epochs(self) -> int:
        """`train.epochs`, once it is decided."""
        assert self.train.epochs is not None
        return self.train.epochs

    def monitor_interval(self, train_count: int, looks: float) -> int:
        """Epochs between two monitorings: asked for, or such that their `looks`, forward passes, cost a tenth at most.

        A training step costs about four forward passes an image (query forward and backward, key forward), twice
        that if symmetric.
        """
        if self.monitor.every_epochs is not None:
            return self.monitor.every_epochs
        return max(1, math.ceil(looks / (MONITOR_SHARE * self._step_cost * train_count)))

    @property
    def _step_cost(self) -> float:
        """Of an image in a step, in forward passes at `views.size`; a pass costs as its views have pixels."""
        views, of_full = self.views, 8 if self.model.symmetric else 4
        small = 0.0 if views.small_size is None else 3 * views.small_crops * (views.small_size / views.size) ** 2
        if views.early_size is None or views.early_epochs is None or self.train.epochs is None:
            return of_full + small
        early = min(views.early_epochs / self.train.epochs, 1.0)
        return of_full * (1 - early + early * (views.early_size / views.size) ** 2) + small

    def as_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, as YAML and checkpoints hold them."""
        return asdict(self)


def trackers(log: str | None) -> list[str]:
    """The names in `log`, each once."""
    return list(dict.fromkeys(name.strip() for name in (log or "").split(",") if name.strip()))


def parse_range(text: str) -> tuple[float, float] | None:
    """The two numbers of `store.range`; None for `auto` and `full`. Raises `UserError` for anything else."""
    if text in ("auto", "full"):
        return None
    low, comma, high = text.partition(",")
    try:
        numbers = float(low), float(high)
    except ValueError:
        numbers = math.nan, math.nan
    if not (comma and numbers[0] < numbers[1] and math.isfinite(numbers[1] - numbers[0])):
        raise UserError(
            f"store.range is {text!r}, give auto, full, or LOW,HIGH: two numbers, the first below the second"
        )
    return numbers


def from_dict(values: dict[str, Any]) -> Config:
    """The record that `as_dict` made. Raises `UserError` naming every unknown key."""
    problems = unknown_keys(values, Config)
    if problems:
        raise UserError("; ".join(problems))
    sections = {f.name: f for f in fields(Config)}
    built: dict[str, Any] = {}
    for name, value in values.items():
        factory = sections[name].default_factory
        built[name] = factory(**value) if isinstance(value, dict) and callable(factory) else value
    return Config(**built)


def unknown_keys(values: Any, record: type, prefix: str = "") -> list[str]:
    """One phrase for each key of `values` that the dataclass `record` doesn't have, at any depth."""
    if not isinstance(values, dict):
        return [f"{prefix.rstrip('.') or 'the file'} must be a mapping of option names to values"]
    known = {f.name: f for f in fields(record)}
    problems: list[str] = []
    for key, value in values.items():
        if key not in known:
            problems.append(f"unknown key {prefix}{key}: {nearest(str(key), known)}")
            continue
        section = known[key].default_factory
        if is_dataclass(section):
            problems += unknown_keys(value, section, f"{prefix}{key}.")
    return problems
