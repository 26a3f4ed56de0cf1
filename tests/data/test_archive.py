"""Archives: good ones become a whole tree, bad ones leave nothing behind."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from moco.data.archive import MANIFEST, MARKER, is_whole, refusal, unpack
from moco.errors import UserError

SHA256 = "ab" * 32


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def write(path: Path, *members: tarfile.TarInfo, content: bytes = b"picture") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def good(tmp_path: Path) -> Path:
    return write(tmp_path / "a.tgz", member("a/train/x/1.png"), member("a/val/x/2.png"))


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_good_archive_becomes_a_tree_with_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    assert not is_whole(folder, SHA256)
    unpack(good(tmp_path), "a", folder, SHA256)
    assert everything(folder) == [
        MANIFEST,
        "train",
        "train/x",
        "train/x/1.png",
        "val",
        "val/x",
        "val/x/2.png",
    ]
    assert (folder / "train/x/1.png").read_bytes() == b"picture"
    manifest = json.loads((folder / MANIFEST).read_text())
    assert {**manifest, "listing": ""} == {"archive": "a.tgz", "sha256": SHA256, "files": 2, "listing": ""}
    assert is_whole(folder, SHA256)
    (folder / "train/.DS_Store").touch()
    assert is_whole(folder, SHA256)
    (folder / "train/x/1.png").rename(folder / "val/x/1.png")
    with pytest.raises(UserError, match="files of other names or sizes"):
        is_whole(folder, SHA256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "made"]


EVIL = {
    "parent": member("../evil"),
    "parent inside": member("a/../../evil"),
    "absolute": member("/tmp/moco-evil"),
    "windows drive": member("C:/evil"),
    "windows parent": member("a\\..\\..\\evil"),
    "symlink out": member("a/link", tarfile.SYMTYPE, "../../evil"),
    "symlink absolute": member("a/link", tarfile.SYMTYPE, "/etc/passwd"),
    "symlink inside": member("a/link", tarfile.SYMTYPE, "train"),
    "hardlink out": member("a/link", tarfile.LNKTYPE, "../evil"),
    "hardlink absolute": member("a/link", tarfile.LNKTYPE, "/etc/passwd"),
    "device": member("a/null", tarfile.CHRTYPE),
    "block device": member("a/disk", tarfile.BLKTYPE),
    "fifo": member("a/pipe", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("name", EVIL)
def test_an_unsafe_member_is_named_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "data"
    inside.mkdir()
    (tmp_path / "evil").write_text("untouched")
    archive = write(tmp_path / "evil.tgz", member("a/train/x/1.png"), EVIL[name])
    with pytest.raises(UserError) as caught:
        unpack(archive, "a", inside / "made", SHA256)
    assert repr(EVIL[name].name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(inside) == []
    assert (tmp_path / "evil").read_text() == "untouched"
    assert not Path("/tmp/moco-evil").exists()


def test_a_write_through_a_symlink_is_impossible(tmp_path: Path) -> None:
    inside = tmp_path / "data"
    inside.mkdir()
    archive = write(tmp_path / "evil.tgz", member("a/out", tarfile.SYMTYPE, "../.."), member("a/out/evil"))
    with pytest.raises(UserError, match="it is a symbolic link"):
        unpack(archive, "a", inside / "made", SHA256)
    assert everything(tmp_path) == ["data", "evil.tgz"]


def test_a_hard_link_inside_is_fine(tmp_path: Path) -> None:
    link = member("a/train/x/2.png", tarfile.LNKTYPE, "a/train/x/1.png")
    archive = write(tmp_path / "a.tgz", member("a/train/x/1.png"), link)
    unpack(archive, "a", tmp_path / "made", SHA256)
    assert (tmp_path / "made/train/x/2.png").read_bytes() == b"picture"


@pytest.mark.parametrize("name", ["a", "a/b.png", "./a/b..png", "a/..b/c.png"])
def test_ordinary_names_are_allowed(name: str) -> None:
    assert refusal(member(name)) is None


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, kept: float) -> None:
    whole = write(tmp_path / "a.tgz", *(member(f"a/{i}.png") for i in range(50)), content=bytes(range(256)) * 9)
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match="is damaged"):
        unpack(whole, "a", tmp_path / "made", SHA256)
    assert everything(tmp_path) == ["a.tgz"]


def test_an_archive_without_the_expected_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder b in it"):
        unpack(good(tmp_path), "b", tmp_path / "made", SHA256)
    assert everything(tmp_path) == ["a.tgz"]


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / ".made.unpacking" / "unpacked" / "a" / "train"
    left.mkdir(parents=True)
    (left / "half.png").write_text("half")
    with pytest.raises(UserError, match=r"\.made\.unpacking is in the way: move it"):
        unpack(good(tmp_path), "a", tmp_path / "made", SHA256)  # it may be anybody's
    assert (left / "half.png").read_text() == "half"
    (tmp_path / ".made.unpacking" / MARKER).touch()
    unpack(good(tmp_path), "a", tmp_path / "made", SHA256)
    assert "train/half.png" not in everything(tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "made"]


def test_a_stop_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def stop(source: Path, destination: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(good(tmp_path), "a", tmp_path / "made", SHA256, stop)
    assert everything(tmp_path) == ["a.tgz"]


def test_a_conversion_replaces_the_tree(tmp_path: Path) -> None:
    def convert(source: Path, destination: Path) -> None:
        destination.mkdir()
        (destination / "one.txt").write_text(str(len(everything(source))))

    unpack(good(tmp_path), "a", tmp_path / "made", SHA256, convert)
    assert everything(tmp_path / "made") == [MANIFEST, "one.txt"]
    assert is_whole(tmp_path / "made", SHA256)


def test_a_tree_of_unknown_origin_is_neither_taken_nor_touched(tmp_path: Path) -> None:
    own = tmp_path / "made" / "train" / "x.png"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(UserError, match="was not made by `moco download`: move it"):
        is_whole(tmp_path / "made", SHA256)
    with pytest.raises(UserError, match="is in the way"):
        unpack(good(tmp_path), "a", tmp_path / "made", SHA256)
    assert own.read_text() == "mine"


def test_a_tree_of_another_archive_or_with_a_file_missing_is_not_whole(tmp_path: Path) -> None:
    unpack(good(tmp_path), "a", tmp_path / "made", SHA256)
    with pytest.raises(UserError, match="comes from another archive"):
        is_whole(tmp_path / "made", "cd" * 32)
    (tmp_path / "made/val/x/2.png").unlink()
    with pytest.raises(UserError, match="has 1 files instead of 2"):
        is_whole(tmp_path / "made", SHA256)
