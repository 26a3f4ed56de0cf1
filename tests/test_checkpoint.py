"""What a run goes on from: the newest whole checkpoint under any name; what is damaged is never trusted or removed."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path

import pytest
import torch

from moco import checkpoint
from moco.checkpoint import Content
from moco.errors import Damaged, UserError


def content(step: int) -> Content:
    model = {"w": torch.full((4096,), float(step))}
    return {"step": step, "model": model, "optimizer": {}, "state": {}, "config": {}, "about": {}}


def damage(path: Path) -> bytes:
    """Change one byte of the file, not of another name of it."""
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.unlink()
    path.write_bytes(whole)
    return bytes(whole)


def found_step(folder: Path) -> int:
    found = checkpoint.newest(folder)
    assert found is not None
    return found.content["step"]


def test_only_last_is_there(tmp_path: Path) -> None:
    """Carried along from another machine, say: it once began from zero and wrote over what was there."""
    checkpoint.save(tmp_path, content(7), keep=1, best=False)
    (tmp_path / "step-00000007.pt").unlink()
    assert found_step(tmp_path) == 7


def test_only_best_is_there(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, content(7), keep=1, best=True)
    (tmp_path / "step-00000007.pt").unlink()
    (tmp_path / "last.pt").unlink()
    assert found_step(tmp_path) == 7


def test_killed_between_the_file_and_its_second_name(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, content(3), keep=3, best=False)
    checkpoint.save(tmp_path / "elsewhere", content(9), keep=3, best=False)
    (tmp_path / "elsewhere" / "step-00000009.pt").rename(tmp_path / "step-00000009.pt")
    assert found_step(tmp_path) == 9


def test_the_newest_is_damaged_and_its_copy_is_whole(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, content(step), keep=3, best=False)
    damage(tmp_path / "step-00000002.pt")  # a file of its own now, `last.pt` is what was written
    assert found_step(tmp_path) == 2


def test_nothing_whole_is_refused_with_the_list(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, content(5), keep=1, best=True)
    for name in ("step-00000005.pt", "last.pt", "best.pt"):
        damage(tmp_path / name)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole: last\.pt \(.*, step-00000005\.pt \(.*, best"):
        checkpoint.newest(tmp_path)


def test_no_checkpoint_at_all_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None


def test_what_was_written_just_now_is_never_removed(tmp_path: Path) -> None:
    """With keep 1 and a damaged file of a higher number, each new checkpoint was once removed as it was made."""
    (tmp_path / "step-00000900.pt").write_bytes(b"damaged")
    for step in (1, 2):
        checkpoint.save(tmp_path, content(step), keep=1, best=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "step-00000002.pt", "step-00000900.pt"]


def test_damaged_files_are_set_aside_by_name(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, content(1), keep=3, best=False)
    checkpoint.save(tmp_path, content(2), keep=3, best=False)
    (tmp_path / "last.pt").unlink()
    bytes_ = damage(tmp_path / "step-00000002.pt")
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.content["step"] == 1
    checkpoint.set_aside(found.damaged)
    assert (tmp_path / "step-00000002.pt.damaged").read_bytes() == bytes_
    assert [p.name for p in checkpoint.numbered(tmp_path)] == ["step-00000001.pt"]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EACCES, errno.EIO, errno.EMFILE])
def test_an_error_of_the_machine_is_not_damage(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the newest checkpoint would be passed over for an older one because memory was short for a moment."""
    checkpoint.save(tmp_path, content(1), keep=3, best=False)

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(number, errno.errorcode[number])

    monkeypatch.setattr(zipfile, "ZipFile", fails)
    with pytest.raises(UserError, match="can't be read") as caught:
        checkpoint.newest(tmp_path)
    assert not isinstance(caught.value, Damaged)


def test_torchs_own_out_of_memory_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint.save(tmp_path, content(1), keep=3, best=False)

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(UserError, match="can't be read") as caught:
        checkpoint.load(path)
    assert not isinstance(caught.value, Damaged)


def test_the_newest_of_what_is_left_is_found_under_any_name(tmp_path: Path) -> None:
    for epoch in (1, 2):
        checkpoint.save(tmp_path, content(10 * epoch), keep=1, best=epoch == 1, keep_epoch=epoch)
    for name in ("step-00000020.pt", "last.pt"):
        (tmp_path / name).unlink()
    found = checkpoint.newest(tmp_path)
    assert found is not None and (found.path.name, found.content["step"]) == ("epoch-0002.pt", 20)
    found.path.unlink()
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.content["step"] == 10


def test_a_disk_without_links_that_is_full_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "link", fails)
    checkpoint.save(tmp_path, content(1), keep=3, best=True)
    assert checkpoint.load(tmp_path / "best.pt")["step"] == 1
    monkeypatch.setattr(checkpoint.shutil, "copyfileobj", fails)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(tmp_path, content(2), keep=3, best=True)
    assert checkpoint.load(tmp_path / "best.pt")["step"] == 1


def test_kept_epochs_stay_and_are_found_by_number(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 4):
        checkpoint.save(tmp_path, content(10 * epoch), keep=1, best=False, keep_epoch=epoch if epoch % 2 == 0 else None)
    assert sorted(p.name for p in tmp_path.glob("epoch-*")) == ["epoch-0002.pt", "epoch-0004.pt"]
    assert checkpoint.load_for_evaluation(tmp_path, "2")["step"] == 20
    assert checkpoint.load_for_evaluation(tmp_path, "last")["step"] == 40
    with pytest.raises(UserError, match="kept: 2, 4"):
        checkpoint.load_for_evaluation(tmp_path, "3")
    with pytest.raises(UserError, match="give last, best or the number"):
        checkpoint.load_for_evaluation(tmp_path, "newest")
