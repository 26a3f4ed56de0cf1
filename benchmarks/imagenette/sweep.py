"""What learns most from the same number of pairs: candidates against the best so far, by successive halving.

    python benchmarks/imagenette/sweep.py --data data/imagenette2-160 --out runs/sweep [--names base T-0.2 ...]
        [--epochs 2 5 15] [--seeds 0 1] [--keep 0.5] [--threads 1] [--set views.size=32 store.short_side=144]

Each candidate of candidates.yaml trains `--epochs`[0] epochs, its schedule ending there, once a seed; the better share
`--keep` by mean validation kNN (k = 20) begins anew with the next length. `--set` changes the base of all. All share
one packed store. What is done is in OUT/results.jsonl and isn't done again: stop it at any time, and start as many at
once as there are cores to spare (`--threads 1`, `nice`): the accuracy after a number of pairs doesn't depend on what
else the machine does, and with parts on threads not on `--threads` either. Prints the table of
benchmarks/imagenette/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import yaml

import moco
from moco.config import from_dict
from moco.environment import describe
from moco.errors import UserError, nearest
from moco.files import locked, read_json, write_json

HERE = Path(__file__).parent
BUSY = "another process is at it"
WAIT_S = 5  # for what another process trains


def configuration(candidates: dict[str, Any], name: str, **more: Any) -> moco.Config:
    """The configuration of a candidate."""
    values: dict[str, Any] = {}
    for key, value in {**candidates["base"], **candidates["candidates"][name], **more}.items():
        *sections, field = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    return from_dict(values)


def told(results: Path) -> dict[tuple[str, int, int], float]:
    """Validation kNN by (name, epochs, seed), of everything that is done."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {(row["name"], row["epochs"], row["seed"]): row["knn_top1"] for row in map(json.loads, lines)}


def train(args: argparse.Namespace, config: moco.Config, job: tuple[str, int, int]) -> None:
    """Train one candidate to its end, from wherever it stands, and write what came of it."""
    out = args.out / "-".join(map(str, job))
    began = time.perf_counter()
    run = moco.resume(out) if (out / "config.yaml").exists() else moco.pretrain(config, out)
    last = run.metrics[-1]
    columns = ("knn_top1", "logistic_val_top1", "effective_rank", "loss", "step")
    line = dict(zip(("name", "epochs", "seed"), job)) | {column: last.get(column) for column in columns}
    line |= {"train_s": sum(float(row["seconds"] or 0) for row in run.metrics), "wall_s": time.perf_counter() - began}
    with locked(args.out / ".results.lock", "", wait=lambda _: None), (args.out / "results.jsonl").open("a") as file:
        file.write(json.dumps(line | {"processor": describe()["processor"]}) + "\n")


def rung(args: argparse.Namespace, candidates: dict[str, Any], names: list[str], epochs: int) -> dict[str, list[float]]:
    """Every candidate's kNN, seed by seed, once all are done, here or by another process."""
    jobs = [(name, epochs, seed) for name in names for seed in args.seeds]
    results = args.out / "results.jsonl"
    while left := [job for job in jobs if job not in told(results)]:
        for job in left:
            name, _, seed = job
            more = {"data": args.data, "seed": seed, "train.epochs": epochs, "monitor.every_epochs": epochs}
            config = configuration(candidates, name, **more, **{"runtime.threads": args.threads})
            try:
                with locked(args.out / f".{'-'.join(map(str, job))}.lock", BUSY):
                    if job not in told(results):
                        train(args, config, job)
            except UserError as error:
                if str(error) != BUSY:
                    raise
        time.sleep(WAIT_S)
    done = told(results)
    return {name: [done[name, epochs, seed] for seed in args.seeds] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--candidates", type=Path, default=HERE / "candidates.yaml")
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 5, 15])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE")
    args = parser.parse_args()
    candidates = yaml.safe_load(args.candidates.read_text())
    for option, _, value in (words.partition("=") for words in args.set):
        candidates["base"][option] = yaml.safe_load(value)
    names = args.names or list(candidates["candidates"])
    for name in names:
        if name not in candidates["candidates"]:
            parser.error(f"no candidate {name}: {nearest(name, candidates['candidates'])}")
    args.out.mkdir(parents=True, exist_ok=True)
    base = args.out / "base.json"  # what all results of this place have in common
    with locked(args.out / ".results.lock", "", wait=lambda _: None):
        if not base.exists():
            write_json(base, candidates["base"])
    if read_json(base, "base") != candidates["base"]:
        parser.error(f"{base} has another base: give another --out")
    for epochs in args.epochs:
        found = rung(args, candidates, names, epochs)
        ranked = sorted(found, key=lambda name: -statistics.mean(found[name]))
        print(f"\n| {epochs} epochs | kNN, mean | each seed |\n|---|---|---|")
        for name in ranked:
            each_seed = ", ".join(f"{100 * value:.1f}" for value in found[name])
            print(f"| {name} | {100 * statistics.mean(found[name]):.1f} | {each_seed} |", flush=True)
        names = ranked[: max(1, round(len(ranked) * args.keep))]


if __name__ == "__main__":
    main()
