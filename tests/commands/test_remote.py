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


def test_without_a_recipe_and_then_linear_from_the_files(packed: Path, labelled: Path, tmp_path: Path) -> None:
    """`auto` looks at the store there; the classifier takes the images from files, though the run went in windows."""
    out = tmp_path / "run"
    words = [word for word in [*SMALL, *MORE, *WINDOWS] if not word.startswith("--recipe")]
    assert main(["pretrain", *words, "--data", URL, "--out", str(out), "--store.short_side=72"]) == 0
    assert main(["linear", str(out), "--data", str(labelled), "--passes=0"]) == 0
    assert main(["evaluate", str(out)]) == 0


def test_windows_are_for_packed_stores(labelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, *MORE, "--store.window=2", "--data", str(labelled), "--out", str(tmp_path / "run")]
    assert main(["pretrain", *words]) == 2
    assert "store.window is for packed stores" in capfd.readouterr().err


def test_a_resume_in_other_chunks_is_refused(
    packed: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "run", packed, WINDOWS[0], "--train.epochs=1", "--schedule.name=step")
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * CHUNK)
    assert main(["pack", "--data", str(labelled), "--out", str(tmp_path / "again"), *SMALL[3:4], SMALL[-1]]) == 0
    again = ["pretrain", "--resume", str(tmp_path / "run"), "--train.epochs=2", "--data"]
    assert main([*again, str(tmp_path / "again")]) == 2
    assert "lie in other chunks" in capfd.readouterr().err
    assert main([*again, URL]) == 0
