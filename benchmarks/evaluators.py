"""Seconds of the evaluators on features of Imagenette's size: `python benchmarks/evaluators.py`.

Random features with class means, so that there is something to learn: 9,469 training and 3,925 validation images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from moco.config import RuntimeConfig
from moco.environment import describe
from moco.evaluators.features import Features, LabelledFeatures
from moco.evaluators.knn import knn_top1
from moco.evaluators.linear_cached import linear_cached
from moco.evaluators.linear_options import CachedOptions
from moco.evaluators.logistic import fit_logistic
from moco.evaluators.proof import Proof
from moco.runtime import Runtime

TRAIN, VAL, CLASSES, ROUNDS = 9469, 3925, 10, 3


def features(count: int, width: int, views: int = 1) -> LabelledFeatures:
    labels = torch.arange(count) % CLASSES
    means = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(1))
    values = (torch.randn(views, count, width) * 3 + means[labels]).relu()
    return LabelledFeatures(Features.of(values), labels, [str(number) for number in range(CLASSES)])


def report(name: str, run: Callable[[], object]) -> None:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, n={ROUNDS})")


def main() -> None:
    runtime = Runtime(RuntimeConfig())
    about = describe()
    print(f"{about['processor']}, {about['cores']} cores, {' '.join(about['instruction_sets'])}; {runtime.line()}")
    train, val = features(TRAIN, 512), features(VAL, 512)
    report("kNN, 512 features", lambda: knn_top1(train, val))
    report("logistic regression, 512 features", lambda: fit_logistic(train))
    for views in (1, 4):
        split, options = features(TRAIN, 2048, views), CachedOptions(passes=views - 1)
        report(
            f"linear cached, 48 heads, 2048 features, {views} views",
            lambda split=split, options=options: linear_cached(split, options, runtime, Proof(torch.nn.Identity(), "")),  # type: ignore[misc]
        )


if __name__ == "__main__":
    main()
