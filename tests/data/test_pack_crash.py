"""kill -9 while packing, at random moments: nothing half-made is opened, nothing foreign is touched.

A short version runs with the tests; `make soak` asks for 30 kills.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.conftest import write_pictures
from tests.kills import worker

from moco.config import StoreConfig
from moco.data.dataset import open_dataset

KILLS = min(int(os.environ.get("MOCO_SOAK", "3")), 30)
SETUP = """
from moco.config import StoreConfig
from moco.data.dataset import open_dataset
"""


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_killed_while_packing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count in (("train", 60), ("val", 20)):
        for number, name in enumerate(("cat", "dog")):
            write_pictures(data / split / name, count, 1000 * number + (500 if split == "val" else 0))
    expected = open_dataset(str(data), StoreConfig(cache=str(tmp_path / "quiet")), 32).fingerprints
    cache = tmp_path / "cache"
    foreign = {"thesis.partial/chapter.txt": "mine", "0123456789abcdef0123.partial/x": "mine too", "notes": "mine"}
    for name, text in foreign.items():
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text(text)
    before = snapshot(cache)
    work = f"open_dataset({str(data)!r}, StoreConfig(cache={str(cache)!r}), short)"
    kills, moments = 0, random.Random(KILLS)
    with worker(SETUP, f"short = int(os.environ['SHORT']); {work}", {**os.environ, "SHORT": "31"}) as trial:
        took = trial.attempt(600.0)
    assert took is not None
    with worker(SETUP, f"short = 32; {work}", dict(os.environ)) as doing:
        for attempt in range(20 * KILLS):
            if kills == KILLS:
                break
            # early, while it packs, and at its end
            killed = doing.attempt(moments.uniform(0.0, 1.1 * took)) is None
            kills += killed
            found = snapshot(cache)
            assert {name: found[name] for name in before} == before
            if not killed:  # it got to its end: what it made serves, and the next attempts need something to do
                assert open_dataset(str(data), StoreConfig(cache=str(cache)), 32).fingerprints == expected
                for path in data.rglob("*.jpg"):
                    os.utime(path, (attempt, attempt + 1))
                    path.write_bytes(path.read_bytes() + b"\0")
                expected = open_dataset(
                    str(data), StoreConfig(cache=str(tmp_path / f"quiet{attempt}")), 32
                ).fingerprints
    assert kills == KILLS
    assert open_dataset(str(data), StoreConfig(cache=str(cache)), 32).fingerprints == expected
    left = {p.name for p in cache.glob("*.partial")}
    assert left == {"thesis.partial", "0123456789abcdef0123.partial"}
