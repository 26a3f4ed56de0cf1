"""Where a training step's time goes on a CUDA GPU, launched kernel by kernel and recorded as one CUDA graph.

    python benchmarks/gpu_step.py --data IMAGENETTE [--cases NAME...] [--profiles FOLDER] [--json FILE]

For each case milliseconds of the whole step, of the step on fixed views and of the views alone (median of three times
twelve), for how long the GPU is busy in a step and with how many kernels (torch.profiler, three steps). `--profiles`
keeps the profiler's tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import moco
from moco.environment import describe
from moco.runs.preparing import prepare

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "imagenette-cpu": ("imagenette-cpu", {"model.backbone": "resnet18"}),  # as it was measured first
    "imagenette": ("imagenette", {}),
    "imagenette, compiled": ("imagenette", {"runtime.compile": "default"}),
    "imagenet-v2": ("imagenet-v2", {"train.batch_size": 256, "model.queue_size": 16384}),
}
WARM, TIMED, PROFILED, ROUNDS = 6, 12, 3, 3  # steps, steps, steps, times


def milliseconds(once: Callable[[], object], wait: Callable[[], None]) -> float:
    """Of one call, the device's work included."""
    wait()
    began = time.perf_counter()
    for _ in range(TIMED):
        once()
    wait()
    return (time.perf_counter() - began) / TIMED * 1e3


def measure(name: str, data: str, record: bool, profiles: Path | None) -> dict[str, Any]:
    """One case's figures."""
    recipe, changes = CASES[name]
    more = {"runtime.device": "cuda", "runtime.cuda_graph": record}
    prepared = prepare(moco.recipe(recipe, data=data, **changes, **more))
    training, runtime = prepared.training, prepared.runtime
    training.model.train()
    batches = itertools.cycle(training.sampler.order(0))
    first = training.batch(next(batches))
    fixed = training.views(first)
    for _ in range(WARM):
        training.step(next(batches))
    subjects: dict[str, Callable[[], object]] = {
        "full": lambda: training.step(next(batches)),
        "learn": lambda: training.learn(fixed, first),
        "views": lambda: training.views(training.batch(next(batches))),
    }
    rounds = [{n: milliseconds(once, runtime.synchronize) for n, once in subjects.items()} for _ in range(ROUNDS)]
    found: dict[str, Any] = {f"{n}_ms": statistics.median(r[n] for r in rounds) for n in subjects}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED):
            training.step(next(batches))
        runtime.synchronize()
    events = profiler.key_averages()
    kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    if profiles is not None:
        table = events.table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=90)
        (profiles / f"{name}-{'recorded' if record else 'launched'}.txt").write_text(table)
    batch = training.sampler.batch_size
    return {
        "case": name, "recorded": record, "batch": batch, **found, "samples_per_s": batch / found["full_ms"] * 1e3,
        "busy_ms": sum(event.self_device_time_total for event in kernels) / PROFILED / 1e3,
        "kernels": sum(event.count for event in kernels) / PROFILED,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--profiles", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU is here: nothing to measure", file=sys.stderr)
        return 2
    if args.profiles is not None:
        args.profiles.mkdir(parents=True, exist_ok=True)
    rows = []
    about = describe()
    print(f"{', '.join(about['gpus'])}; torch {torch.__version__}")
    print("| case | | batch | step, ms | fixed views, ms | views, ms | GPU busy, ms | kernels | samples/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, record in itertools.product(args.cases, (False, True)):
        row = measure(name, args.data, record, args.profiles)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        rows.append(row)
        numbers = " | ".join(f"{row[key]:,.1f}" for key in ("full_ms", "learn_ms", "views_ms", "busy_ms"))
        how = "recorded" if record else "launched"
        print(f"| {name} | {how} | {row['batch']} | {numbers} | {row['kernels']:,.0f} | {row['samples_per_s']:,.0f} |")
        if args.json:
            args.json.write_text(json.dumps({"rows": rows, "about": about}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
