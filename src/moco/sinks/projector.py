"""The features of some images for TensorBoard's embedding projector: table, labels and a sprite of thumbnails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.files import atomic, write_text

THUMBNAIL_PX = 48
MOST_IMAGES = 1000  # in the sprite: the projector takes none above 8192 px a side
FILES = ("features.tsv", "labels.tsv", "sprite.png")
FOLDER = "projector"


def write_projector(
    log_folder: Path, features: NDArray[np.float32], labels: Sequence[str], pictures: Sequence[NDArray[np.uint8]]
) -> None:
    """Write `features` (N, F) with a word and a picture RGB (H, W, 3) for each of the N, below `log_folder`."""
    folder = log_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    table, words, sprite = (folder / name for name in FILES)
    write_text(table, "".join("\t".join(f"{v:.5g}" for v in row) + "\n" for row in features.tolist()))
    write_text(words, "".join(" ".join(word.split()) + "\n" for word in labels))
    side = math.ceil(math.sqrt(len(pictures)))
    sheet = Image.new("RGB", (side * THUMBNAIL_PX,) * 2)
    for n, pixels in enumerate(pictures):
        small = Image.fromarray(pixels).resize((THUMBNAIL_PX,) * 2, Image.Resampling.BILINEAR, reducing_gap=2.0)
        sheet.paste(small, (n % side * THUMBNAIL_PX, n // side * THUMBNAIL_PX))
    with atomic(sprite) as file:
        sheet.save(file, format="PNG")
    write_text(log_folder / "projector_config.pbtxt", _settings(features.shape))


def _settings(shape: tuple[int, ...]) -> str:
    """What the projector reads, as its own text format has it."""
    table, words, sprite = (f"{FOLDER}/{name}" for name in FILES)
    return (
        'embeddings {\n  tensor_name: "features"\n'
        f'  tensor_path: "{table}"\n  metadata_path: "{words}"\n'
        f'  sprite {{\n    image_path: "{sprite}"\n'
        f"    single_image_dim: {THUMBNAIL_PX}\n    single_image_dim: {THUMBNAIL_PX}\n  }}\n"
        f"  tensor_shape: {shape[0]}\n  tensor_shape: {shape[1]}\n}}\n"
    )
