"""`moco doctor --run` with altered copies planted across the splits: how many it finds, what it names falsely.

    python benchmarks/copies.py --data IMAGENETTE --run runs/cpu --each 100

IMAGENETTE has train/ and val/ of class folders. A tree of links to its files is made in a temporary folder, and
`--each` copies of each kind beside them, of pictures drawn at random: one from train goes to val, and the other way
round. Named pairs that weren't planted are listed, to be looked at: the data set may have true ones of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import moco

KINDS = ("crop 5 %", "crop 10 %", "crop 20 %", "mirrored", "colours shifted", "recompressed")


def altered(image: Image.Image, kind: str, rng: random.Random) -> Image.Image:
    """A copy of that kind; a crop loses so much of each side, half of them off the centre, half blown up again."""
    if kind.startswith("crop"):
        return cropped(image, int(kind.split()[1]) / 100, rng)
    if kind == "mirrored":
        return ImageOps.mirror(image)
    return recoloured(image, rng) if kind == "colours shifted" else image


def cropped(image: Image.Image, share: float, rng: random.Random) -> Image.Image:
    (width, height), centred = image.size, rng.random() < 0.5
    w, h = round(width * (1 - 2 * share)), round(height * (1 - 2 * share))
    left, top = (
        ((width - w) // 2, (height - h) // 2) if centred else (rng.randint(0, width - w), rng.randint(0, height - h))
    )
    part = image.crop((left, top, left + w, top + h))
    return part.resize((width, height), Image.Resampling.BICUBIC) if rng.random() < 0.5 else part


def recoloured(image: Image.Image, rng: random.Random) -> Image.Image:
    """Hue by 14 to 42 degrees, saturation by 0.6 to 1.4, brightness by 0.75 to 1.25, each channel by 0.85 to 1.15."""
    hsv = np.asarray(image.convert("HSV")).astype(float)
    hsv[..., 0] = (hsv[..., 0] + rng.choice([-1, 1]) * rng.uniform(10, 30)) % 256
    hsv[..., 1] *= rng.uniform(0.6, 1.4)
    turned = Image.fromarray(hsv.clip(0, 255).astype(np.uint8), "HSV").convert("RGB")
    gains = rng.uniform(0.75, 1.25) * np.array([rng.uniform(0.85, 1.15) for _ in range(3)])
    return Image.fromarray((np.asarray(turned) * gains).clip(0, 255).astype(np.uint8))


def plant(data: Path, tree: Path, each: int, rng: random.Random) -> dict[frozenset[str], str]:
    """Links to all of `data` in `tree`, with copies; the kind of each planted pair of names."""
    files = sorted(path for split in ("train", "val") for path in (data / split).rglob("*.*") if path.is_file())
    for path in files:
        link = tree / path.relative_to(data)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    planted = {}
    for number, path in enumerate(rng.sample(files, each * len(KINDS))):
        kind, (split, *folders, _) = KINDS[number // each], path.relative_to(data).parts
        name = Path({"train": "val", "val": "train"}[split], *folders, f"copy-{number:04d}.jpg")
        copy = altered(Image.open(path).convert("RGB"), kind, rng)
        copy.save(tree / name, quality=30 if kind == "recompressed" else 90)
        planted[frozenset((path.relative_to(data).as_posix(), name.as_posix()))] = kind
    return planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        planted = plant(args.data, Path(folder), args.each, random.Random(args.seed))
        hashed = {frozenset(p) for group in moco.doctor(folder).near_duplicates for p in pairwise(group)}
        began = time.perf_counter()
        named = {frozenset((pair.whole, pair.part)): pair for pair in moco.doctor(folder, args.run).near_pairs}
        seconds = time.perf_counter() - began
    others = [pair for key, pair in named.items() if key not in planted]
    result = {
        "images": sum(1 for _ in args.data.rglob("*.*")) + len(planted),
        "seconds": round(seconds, 1),
        "found": {kind: sum(k == kind and key in named for key, k in planted.items()) for kind in KINDS},
        "by_hash_alone": {kind: sum(k == kind and key in hashed for key, k in planted.items()) for kind in KINDS},
        "each": args.each,
        "missed": [[*sorted(key), kind] for key, kind in planted.items() if key not in named],
        "others": [[pair.whole, pair.part, pair.mirrored, pair.window, pair.agreement] for pair in others],
    }
    print(json.dumps(result, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
