"""kill -9 while packing, at random moments: nothing half-made is opened, nothing foreign is touched.

A short version runs with the tests; `make soak` asks for 30 kills.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Literal

import pytest
from tests.conftest import write_pictures
from tests.kills import worker

from moco.config import StoreConfig
from moco.data.cache import DAY_S, MARKER
from moco.data.dataset import open_dataset
from moco.data.pixels import Pixels

KILLS = min(int(os.environ.get("MOCO_SOAK", "3")), 30)
SIDE = 32
LAST_S = 0.02  # what follows the manifest: a few syncs, and the store gets its name
SETUP = """
from moco.config import StoreConfig
from moco.data.dataset import open_dataset
open_dataset({data!r}, StoreConfig(cache={warm!r}), 31)
"""
STORE = re.compile(r"[0-9a-f]{20}-[0-9a-f]{12}")
PARTIAL = re.compile(r"[0-9a-f]{20}\.[0-9a-f]{8}\.partial")


def write_foreign(cache: Path) -> None:
    """What must stay: other people's things, and half-made stores that may still be written by somebody."""
    here = socket.gethostname()
    for name in ("thesis.partial/chapter.txt", f"{'a' * 20}.01234567.partial/x", f"{'b' * 20}.partial/x", "notes"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("mine")
    for letter, days, host, boot in (
        ("c", 0, "another", "its"),
        ("d", 9, "another", "its"),
        ("e", 0.9, here, "before"),
    ):
        write_left(cache, f"{letter * 20}.01234567.partial", days, host, boot)


def write_left(cache: Path, name: str, days: float, host: str, boot: str) -> None:
    folder = cache / name
    (folder / "images").mkdir(parents=True)
    (folder / "images/pixels.npy").write_bytes(b"half")
    (folder / MARKER).write_text(json.dumps({"program": "moco", "host": host, "boot": boot, "user": 1, "pid": 1}))
    os.utime(folder / MARKER, (time.time() - days * DAY_S,) * 2)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path, with the contents of a file."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def named(cache: Path, form: re.Pattern[str]) -> list[Path]:
    return [path for path in cache.iterdir() if form.fullmatch(path.name)]


def pixels_of(store: Path) -> str:
    """Digest of a store's pixels; it fails if its parts aren't those of one whole store."""
    return hashlib.sha256(Pixels.open(store / "images").pixels.tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("format", ["raw", "jpeg"])
def test_killed_while_packing(tmp_path: Path, format: Literal["raw", "jpeg"]) -> None:
    data, cache, quiet = tmp_path / "data", tmp_path / "cache", tmp_path / "quiet"
    for split, count in (("train", 150), ("val", 50)):
        for number, name in enumerate(("cat", "dog")):
            write_pictures(data / split / name, count, 1000 * number + (500 if split == "val" else 0))
    expected = open_dataset(str(data), StoreConfig(cache=str(quiet), format=format), SIDE).fingerprints
    pixels = {pixels_of(store) for store in named(quiet, STORE)}
    write_foreign(cache)
    before = snapshot(cache)
    partials = len(named(cache, PARTIAL))
    setup = SETUP.format(data=str(data), warm=str(tmp_path / "warm"))
    work = f"open_dataset({str(data)!r}, StoreConfig(cache={str(cache)!r}, format={format!r}), {SIDE})"
    moments, kills, left = random.Random(KILLS), 0, 0
    with worker(setup, work, dict(os.environ)) as packing:
        took = packing.attempt(60.0)
        assert took is not None
        for _ in range(20 * KILLS):
            for store in named(cache, STORE):
                shutil.rmtree(store)  # there is something to pack again
            if kills % 3 == 2:  # at its end, where the store gets its name
                done = packing.attempt(
                    moments.uniform(0, LAST_S), folder=cache, pattern="*.partial/images/manifest.json"
                )
            else:  # the n-th kill in the n-th part of the time
                done = packing.attempt((kills + moments.random()) / KILLS * took)
            took = done or took  # the machine may be busier now, or less
            kills += done is None
            found = snapshot(cache)
            assert {name: found[name] for name in before} == before
            assert {pixels_of(store) for store in named(cache, STORE)} <= pixels  # whole, or not there
            assert len(named(cache, PARTIAL)) - partials <= (done is None)  # and none of an earlier kill
            left += len(named(cache, PARTIAL)) - partials
            if done is not None or moments.random() < 0.5:  # else the next attempt meets what this one left
                assert (
                    open_dataset(str(data), StoreConfig(cache=str(cache), format=format), SIDE).fingerprints == expected
                )
                assert len(named(cache, PARTIAL)) == partials
            if kills == KILLS:
                break
    assert kills == KILLS and left > 0
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    write_left(cache, f"{'f' * 20}.01234567.partial", 0, socket.gethostname(), boot)  # killed: its lock is free
    for store in named(cache, STORE):
        shutil.rmtree(store)
    assert open_dataset(str(data), StoreConfig(cache=str(cache), format=format), SIDE).fingerprints == expected
    assert {pixels_of(store) for store in named(cache, STORE)} == pixels
    assert len(named(cache, PARTIAL)) == partials
    assert {name: content for name, content in snapshot(cache).items() if name in before} == before
