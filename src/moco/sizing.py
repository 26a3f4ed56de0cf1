"""Batch, queue and epochs that follow from the number of images, where they aren't given."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from moco.config import Config

LARGEST_BATCH = 256
LARGEST_WITH_MUON = 128  # on the CPU: twice of it learnt 2.6 points of kNN less from as many pairs (docs/learning.md)
STEPS_AN_EPOCH = 8  # at least, of a small folder
PART = 64  # images that make good batch-norm statistics, and work enough for a thread
LARGEST_QUEUE = 4096  # beyond it nothing is gained on tens of thousands of images (the MoCo authors' CIFAR notebook)
QUEUES_OF_LARGER_DATA = ((100_000, 16_384), (1_000_000, 65_536))  # images from which so many keys make sense
# (least epochs, least steps, most epochs) by the kind of device
LENGTHS = {"cpu": (20, 800, 400), "cuda": (200, 20_000, 800)}
CROWDED = 2  # times the images: beyond it a queue holds an image's own earlier keys by the handful


@dataclass(frozen=True)
class Sizes:
    """What suits a number of training images: images a step, keys in the queue, passes, and parts of a batch."""

    batch: int
    queue: int
    epochs: int
    parts: int
    steps_an_epoch: int


def decide(config: Config, count: int, device: str, splittable: bool, processes: int = 1) -> Sizes:
    """The sizes for `count` training images on a `device`, `cpu` or `cuda`; `config` may give the batch."""
    batch = config.train.batch_size or _batch(count, _largest_batch(config, device))
    per_epoch = max(count // batch, 1)
    least, steps, most = LENGTHS["cpu" if device == "cpu" else "cuda"]
    return Sizes(
        batch=batch,
        queue=_least_queue(config, count, batch),
        epochs=min(max(least, math.ceil(steps / per_epoch)), most),
        parts=_parts(batch, device, processes) if splittable else 1,
        steps_an_epoch=per_epoch,
    )


def sized(
    config: Config, count: int, device: str, splittable: bool = True, processes: int = 1
) -> tuple[Config, str | None]:
    """`config` with batch, parts, queue and epochs decided for `count` training images, and a line that says what was.

    What is given stands. `device` is the kind of device: `cpu` or `cuda`; `splittable` says whether the backbone's
    batch-norm can be taken over parts of the batch; of several `processes` each has as many parts.
    """
    train, model = config.train, config.model
    sizes = decide(config, count, device, splittable, processes)
    decided = []
    if train.batch_size is None:
        train = replace(train, batch_size=sizes.batch)
        decided.append(
            f"train.batch_size {sizes.batch} ({sizes.steps_an_epoch} step{'s' * (sizes.steps_an_epoch > 1)} an epoch)"
        )
    if model.bn_splits is None:
        model = replace(model, bn_splits=sizes.parts)
        why = f"a thread for each {sizes.batch // sizes.parts}" if sizes.parts > 1 else "one statistic a batch"
        decided.append(f"model.bn_splits {sizes.parts} ({why})")
    if model.queue_size is None:
        model = replace(model, queue_size=sizes.queue)
        decided.append(f"model.queue_size {sizes.queue} (no more than the images, or than helps)")
    if train.epochs is None:
        train = replace(train, epochs=sizes.epochs)
        decided.append(f"train.epochs {sizes.epochs} ({sizes.epochs * sizes.steps_an_epoch:,} steps)")
    line = f"for {count:,} images: {', '.join(decided)}; give them to have others" if decided else None
    return replace(config, train=train, model=model), line


def advice(config: Config, count: int) -> list[str]:
    """What is worth saying of a decided `config` for `count` training images; nothing of a sensible one."""
    found = []
    enough = _least_queue(config, count, config.batch_size)
    if config.queue_size > max(CROWDED * count, enough):
        found.append(
            f"model.queue_size {config.queue_size} is {config.queue_size / count:.0f} times the {count:,} images: each "
            f"meets its own earlier keys as negatives; --model.queue_size {enough} would do"
        )
    per_epoch = count // config.batch_size
    if 0 < per_epoch < STEPS_AN_EPOCH // 2 and config.batch_size > _batch(count):
        found.append(
            f"train.batch_size {config.batch_size} makes {per_epoch} step{'s' * (per_epoch > 1)} an epoch of {count:,} "
            f"images; --train.batch_size {_batch(count)} would make {count // _batch(count)}"
        )
    return found


def _largest_batch(config: Config, device: str) -> int:
    return LARGEST_WITH_MUON if device == "cpu" and config.optimizer.name == "muon" else LARGEST_BATCH


def _batch(count: int, largest: int = LARGEST_BATCH) -> int:
    """The largest power of two that makes enough steps an epoch, or all that a handful of images fills."""
    return min(largest, max(_power_of_two(count // STEPS_AN_EPOCH), min(16, _power_of_two(count))))


def _parts(batch: int, device: str, processes: int) -> int:
    """Parts of a batch, as many for each process, and a divisor of it.

    On the CPU a thread each: of 64 images where there are as many, else two. On GPUs one each, as in the paper.
    """
    wanted = processes
    if device == "cpu":
        wanted = max(processes, max(2, min(4, batch // PART)) if batch >= 16 else 1)
    return next((n for n in range(wanted, 0, -1) if batch % n == 0 and n % processes == 0), 1)


def _least_queue(config: Config, count: int, batch: int) -> int:
    """As many keys as help, and at least those of a step."""
    return max(_queue(count), batch * (2 if config.model.symmetric else 1))


def _queue(count: int) -> int:
    largest = LARGEST_QUEUE
    for images, keys in QUEUES_OF_LARGER_DATA:
        if count >= images:
            largest = keys
    return min(largest, _power_of_two(count))


def _power_of_two(count: int) -> int:
    """The largest power of two up to `count`, 1 at least."""
    return 2 ** (max(count, 1).bit_length() - 1)
