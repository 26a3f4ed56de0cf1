"""A run on a packed store elsewhere is the local one's run, to the bit: whole, in windows, resumed, in processes."""

from __future__ import annotations

from pathlib import Path

import obstore
import pytest
import torch
from obstore.store import from_url
from tests.conftest import SMALL, use_s3

from moco import checkpoint
from moco.cli import main
from moco.data import chunks

CHUNK = 10_000
WINDOWS = ["--store.window=2", f"--store.remote_gb={5 * CHUNK / 1e9}"]
MORE = [
    "--runtime.device=cpu", "--runtime.threads=1", "--monitor.baseline=false", "--model.bn_splits=2",
    "--schedule.warmup_epochs=0",
]  # fmt: skip
URL = "s3://bucket/run"


@pytest.fixture
def packed(labelled: Path, tmp_path: Path, s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of many small chunks, here and at `URL`."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", CHUNK)
    monkeypatch.setenv("MOCO_CACHE", str(tmp_path / "cache"))
    assert main(["pack", "--data", str(labelled), "--out", str(tmp_path / "store"), *SMALL[3:4], SMALL[-1]]) == 0
    use_s3(monkeypatch, *s3_server)
    for path in (tmp_path / "store").iterdir():
        obstore.put(from_url(URL), path.name, path.read_bytes())
    return tmp_path / "store"


def trained(out: Path, data: object, *more: str) -> dict[str, torch.Tensor]:
    words = [*SMALL, *MORE, *more, "--data", str(data), "--out", str(out)]
    assert main(["pretrain", *words]) == 0
    return checkpoint.load(out / "checkpoints" / "last.pt")["model"]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])] == []


def test_whole_it_is_the_local_run_to_the_bit(packed: Path, tmp_path: Path) -> None:
    assert_same(trained(tmp_path / "there", URL), trained(tmp_path / "here", packed))


@pytest.mark.parametrize("more", [[], ["--runtime.devices=2"]])
def test_in_windows_it_is_the_local_run_in_windows(packed: Path, tmp_path: Path, more: list[str]) -> None:
    there = trained(tmp_path / "there", URL, *WINDOWS, *more)
    assert_same(there, trained(tmp_path / "here", packed, WINDOWS[0]))
    kept = list((tmp_path / "cache").glob("remote-*/chunk-*.bin"))
    assert 0 < sum(path.stat().st_size for path in kept) <= 5 * CHUNK
    with pytest.raises(AssertionError):  # another order than all images together
        assert_same(there, trained(tmp_path / "together", packed))


def test_stopped_after_an_epoch_and_resumed_from_a_new_cache(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "part", URL, *WINDOWS, "--train.epochs=1", "--schedule.name=step", "--overwrite")
    monkeypatch.setenv("MOCO_CACHE", str(tmp_path / "other"))
    whole = trained(tmp_path / "whole", URL, *WINDOWS, "--schedule.name=step")
    assert main(["pretrain", "--resume", str(tmp_path / "part"), "--train.epochs=2"]) == 0
    assert_same(checkpoint.load(tmp_path / "part" / "checkpoints" / "last.pt")["model"], whole)
