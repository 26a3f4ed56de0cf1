"""Small pictures and small settings that every test can share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny steps: two threads that wait for each other are slower than one

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

settings.register_profile("moco", deadline=None)  # shared machines stall
settings.load_profile("moco")

# Options that make a real run small: one step takes some 20 ms.
SMALL = [
    "--model.backbone=timm/test_resnet", "--model.queue_size=32", "--model.dim=16", "--views.size=32",
    "--train.batch_size=8", "--train.epochs=2", "--runtime.precision=float32", "--recipe=folder-cpu",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packed stores of the tests never meet the user's."""
    os.environ["MOCO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["MOCO_CACHE"]


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def picture(seed: int, height: int = 40, width: int = 48) -> Image.Image:
    """A picture with some structure: blocks of colour and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3)).repeat(-(-height // 5), 0).repeat(-(-width // 6), 1)[:height, :width]
    noise = rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray((coarse + noise).clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path, count: int, first: int = 0) -> Path:
    """`count` JPEGs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(first + i).save(folder / f"{i:03}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of 24 unlabelled photographs."""
    return write_pictures(tmp_path_factory.mktemp("photos"), 24)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split tree: two classes, 2 x 12 train and 2 x 5 validation pictures."""
    root = tmp_path_factory.mktemp("labelled")
    for c, name in enumerate(("cat", "dog")):
        write_pictures(root / "train" / name, 12, 100 * c)
        write_pictures(root / "val" / name, 5, 100 * c + 50)
    return root


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """Host and port of a real server that speaks S3, with a bucket called `bucket`."""
    import logging
    import urllib.request

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request otherwise
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT"))
    yield host, port
    running.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, host: str, port: int) -> None:
    """Let s3:// be the server there, as a person's environment says it; tries follow each other at once."""
    values = {"ENDPOINT_URL": f"http://{host}:{port}", "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in {**values, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr("moco.data.remote.FIRST_PAUSE_S", 0.01)
