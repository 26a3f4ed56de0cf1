"""CIFAR-10's binary records to a tree of pictures.

A record is one byte of label, then 32 x 32 pixels as three planes (red, green, blue), row by row:
https://www.cs.toronto.edu/~kriz/cifar.html. No pickle is involved.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from moco.console import progress
from moco.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "val": ("test_batch.bin",)}
SIDE_PX = 32
RECORD_BYTES = 1 + 3 * SIDE_PX * SIDE_PX


def convert(source: Path, destination: Path) -> None:
    """Write `destination`/train|val/<class>/<number in the split>.png from the `.bin` files in `source`.

    Raises `UserError` if a file is missing or isn't made of whole records.
    """
    total = sum(len(read_records(source / name)) for names in SPLITS.values() for name in names)
    with progress("writing pictures", total, "images/s") as bar:
        written = 0
        for split, names in SPLITS.items():
            for label_name in CLASSES:
                (destination / split / label_name).mkdir(parents=True)
            number = 0
            for name in names:
                records = read_records(source / name)
                for record in records:
                    pixels = record[1:].reshape(3, SIDE_PX, SIDE_PX).transpose(1, 2, 0)  # (H, W, 3)
                    path = destination / split / CLASSES[record[0]] / f"{number:05d}.png"
                    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
                    number += 1
                    written += 1
                bar.update(written)


def read_records(path: Path) -> np.ndarray:
    """The records of one file, uint8 (N, 3073). Raises `UserError` if it is missing or not CIFAR-10's."""
    if not path.is_file():
        raise UserError(f"CIFAR-10: {path.name} is missing in the archive")
    flat = np.fromfile(path, dtype=np.uint8)
    if len(flat) == 0 or len(flat) % RECORD_BYTES:
        raise UserError(f"CIFAR-10: {path.name} has {len(flat)} bytes, not a multiple of {RECORD_BYTES}")
    records = flat.reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= len(CLASSES):
        raise UserError(f"CIFAR-10: {path.name} has label {records[:, 0].max()}, above {len(CLASSES) - 1}")
    return records
