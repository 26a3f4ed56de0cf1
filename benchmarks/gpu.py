"""Everything that only a CUDA GPU can show, in one go: `make gpu`, about ten minutes.

    python benchmarks/gpu.py [--data IMAGENETTE] [--out build/gpu]

1. The tests marked `gpu`: the views against the readable ones, the step without host syncs, the guard, and, where
   there are two GPUs, two processes against one.
2. `moco bench` on three recipes: full step, step on fixed views, views alone. Without --data on the built-in pictures.
3. A short run that is killed and resumed, compared to the bit.

Writes OUT/gpu.json and prints the same as a table. Exit code 1 if anything failed; the rest is done all the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from moco.environment import describe

MOCO = [sys.executable, "-m", "moco"]
RECIPES = {  # recipe: options that make it fit any data and any GPU of 16 GB
    "imagenette": ["--train.batch_size=128"],
    "imagenet-v2": ["--train.batch_size=128", "--model.queue_size=16384"],
    "imagenette-cpu": [],
}
SHORT = ["--recipe=shapes", "--data=shapes", "--train.epochs=2", "--checkpoint.every_epochs=1", "--runtime.device=cuda"]


def ran(words: list[str], log: Path, timeout_s: int = 900) -> tuple[int, float]:
    """Exit code and seconds of a command; what it said goes to `log`."""
    began = time.monotonic()
    with log.open("w") as file:
        try:
            code = subprocess.run(
                words, stdout=file, stderr=subprocess.STDOUT, timeout=timeout_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    return code, time.monotonic() - began


def bench(recipe: str, data: str, out: Path) -> dict[str, Any]:
    """Figures of `moco bench`, or its exit code."""
    found = out / f"bench-{recipe}.json"
    words = [*MOCO, "bench", f"--recipe={recipe}", f"--data={data}", "--runtime.device=cuda", f"--json={found}"]
    code, seconds = ran([*words, *RECIPES[recipe]], out / f"bench-{recipe}.log")
    if code != 0:
        return {"exit_code": code, "seconds": seconds}
    content = json.loads(found.read_text())
    rates = {name: content[name]["median"] for name in ("full", "compute_only", "views")}
    return {"exit_code": 0, "seconds": seconds, **rates, "full_to_compute_only": rates["full"] / rates["compute_only"]}


def resumed(out: Path) -> dict[str, Any]:
    """Whether a run that was stopped after its first epoch ends in the bits of one that wasn't."""
    whole, stopped = out / "whole", out / "stopped"
    codes = [ran([*MOCO, "pretrain", *SHORT, f"--out={whole}", "--overwrite"], out / "whole.log")[0]]
    words = [*MOCO, "pretrain", *SHORT, f"--out={stopped}", "--overwrite"]
    with (out / "stopped.log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        until = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < until:
            if "epoch 1/2" in (out / "stopped.log").read_text():
                process.kill()
            time.sleep(0.2)
        process.kill()
    codes.append(ran([*MOCO, "pretrain", "--resume", str(stopped)], out / "resumed.log")[0])
    if any(codes):
        return {"exit_codes": codes}
    states = [torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"] for run in (whole, stopped)]
    different = [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])]
    return {"exit_codes": codes, "different_tensors": len(different), "tensors": len(states[0])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU is here: nothing that this could show", file=sys.stderr)
        return 2
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    code, seconds = ran([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], out / "tests.log")
    tests = {"exit_code": code, "seconds": seconds, "said": (out / "tests.log").read_text().strip().splitlines()[-1:]}
    found = {
        "tests": tests,
        "bench": {recipe: bench(recipe, options.data, out) for recipe in RECIPES},
        "resume": resumed(out),
        "environment": describe(),
    }
    (out / "gpu.json").write_text(json.dumps(found, indent=1))
    print(f"{', '.join(found['environment']['gpus'])}; torch {torch.__version__}")
    print(f"tests marked gpu: exit code {tests['exit_code']}, {' '.join(tests['said'])}")
    for recipe, figures in found["bench"].items():
        print(f"{recipe:>16}: " + ", ".join(f"{name} {value:,.2f}" for name, value in figures.items()))
    print(f"stopped and resumed: {found['resume']}")
    print(f"written: {out / 'gpu.json'}; the logs lie beside it")
    well = code == 0 and found["resume"].get("different_tensors") == 0
    return 0 if well and all(figures["exit_code"] == 0 for figures in found["bench"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
