"""What a path holds: trees and tars with everything that real ones contain."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.conftest import write_tar

from moco.data.folder import fingerprint, scan
from moco.data.item import Item, is_image_name
from moco.errors import UserError, printable


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode(errors="surrogateescape"))
    return root


def names(spec: object) -> list[str]:
    return [item.name for item in scan(str(spec))]


@pytest.mark.parametrize(
    "tree",
    [
        ["a.jpg", "b.PNG", "c.JpEg"],
        ["2023/05/a.jpg", "2024/b.jpg", "c.jpg"],
        ["cat/1.jpg", "dog/1.jpg"],
        ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"],
    ],
    ids=["flat", "nested", "classes", "splits"],
)
def test_trees_as_folder_and_as_tar(tmp_path: Path, tree: list[str]) -> None:
    folder = touch(tmp_path / "photos", *tree, "notes.txt", "deep/er/list.csv")
    files = {name: name.encode() for name in [*tree, "notes.txt"]}
    tar = write_tar(tmp_path / "photos.tar", files)
    dotted = write_tar(tmp_path / "dotted.tar", {f"./{name}": content for name, content in files.items()})
    for spec in (folder, tar, dotted):
        items = scan(str(spec))
        assert [item.name for item in items] == sorted(tree)
        assert [item.read() for item in items] == [name.encode() for name in sorted(tree)]


def test_several_paths_and_a_folder_of_tars(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars/b.tar", {"b.jpg": b"b"})
    write_tar(tmp_path / "tars/a.TAR", {"a.jpg": b"a"})
    (tmp_path / "tars/._a.tar").write_bytes(b"a macOS twin")
    touch(tmp_path / "folder", "c.jpg")
    assert names(tmp_path / "tars") == ["a.jpg", "b.jpg"]
    assert names(f"{tmp_path}/tars/b.tar,{tmp_path}/folder") == ["b.jpg", "c.jpg"]
    touch(tmp_path / "tars", "z.jpg")
    assert names(tmp_path / "tars") == ["z.jpg"]  # a folder with images of its own


def test_comma_in_a_name(tmp_path: Path) -> None:
    assert names(touch(tmp_path / "Paris, 2024", "a.jpg")) == ["a.jpg"]


def test_hidden_files_and_folders(tmp_path: Path) -> None:
    tree = ["a.jpg", "._a.jpg", ".thumb.jpg", ".git/b.jpg", "x/.cache/c.jpg", ".jpg", "x/d.jpg"]
    touch(tmp_path / "photos", *tree)
    tar = write_tar(tmp_path / "photos.tar", dict.fromkeys(tree, b""))
    assert names(tmp_path / "photos") == names(tar) == ["a.jpg", "x/d.jpg"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.jpg", True), ("a/b.TIFF", True), ("a.jpg.txt", False), ("jpg", False), ("a.b/c", False), (".a/b.png", False)],
)
def test_is_image_name(name: str, wanted: bool) -> None:
    assert is_image_name(name) is wanted


# --- links --------------------------------------------------------------------------------------------------


def test_symlink_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/b/2.jpg")
    (tmp_path / "a/b/up").symlink_to("..")
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "root").symlink_to(tmp_path)
    assert names(tmp_path) == ["a/1.jpg", "a/b/2.jpg"]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.jpg")
    touch(tmp_path / "data", "dog/2.jpg")
    (tmp_path / "data/cat").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "data") == ["cat/1.jpg", "dog/2.jpg"]


def test_dangling_and_looping_links_stay_in_the_list(tmp_path: Path) -> None:
    touch(tmp_path, "good.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    items = {item.name: item for item in scan(str(tmp_path))}
    assert set(items) == {"dangling.jpg", "good.jpg", "loop.jpg"}
    with pytest.raises(FileNotFoundError):
        items["dangling.jpg"].read()
    with pytest.raises(OSError, match="symbolic links"):
        items["loop.jpg"].read()


@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert names(tmp_path) == ["a.jpg"]
    with pytest.raises(UserError, match="neither a file nor a folder"):
        scan(str(tmp_path / "pipe.jpg"))


# --- permissions --------------------------------------------------------------------------------------------


def test_unreadable_file_stays_in_the_list(open_folder: Path, unprivileged: Callable[[], None]) -> None:
    touch(open_folder, "a.jpg", "b.jpg")
    (open_folder / "a.jpg").chmod(0)
    unprivileged()
    bad, good = scan(str(open_folder))
    assert good.read() == b"b.jpg"
    with pytest.raises(PermissionError):
        bad.read()


def test_unreadable_folder_is_named(
    open_folder: Path, unprivileged: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    touch(open_folder, "a.jpg", "lost+found/b.jpg")
    (open_folder / "lost+found").chmod(0)
    unprivileged()
    assert names(open_folder) == ["a.jpg"]
    assert "lost+found: Permission denied" in capsys.readouterr().err
    with pytest.raises(UserError, match="Permission denied"):
        scan(str(open_folder / "lost+found"))
    with pytest.raises(UserError, match="Permission denied"):
        scan(str(open_folder / "lost+found" / "below"))


# --- names --------------------------------------------------------------------------------------------------

ODD = [
    "with space.jpg",
    "new\nline.jpg",
    "tab\t.jpg",
    "Müller.jpg",
    "猫.jpg",
    "undecodable-\udcff\udcfe.jpg",
    "a'\"b.jpg",
]


def test_odd_names(tmp_path: Path) -> None:
    touch(tmp_path, *ODD)
    items = scan(str(tmp_path))
    assert [item.name for item in items] == sorted(ODD)
    assert all(item.read() == item.name.encode(errors="surrogateescape") for item in items)
    assert len(fingerprint(items)) == 64


def test_odd_names_in_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "odd.tar"
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(path, "w", format=kind) as tar:
            for name in [*ODD, "long/" * 60 + "x.jpg"]:
                member = tarfile.TarInfo(name)
                member.size = 1
                tar.addfile(member, io.BytesIO(b"1"))
        items = scan(str(path))
        assert {item.name for item in items} == {*ODD, "long/" * 60 + "x.jpg"}
        assert len(fingerprint(items)) == 64


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a b", "a b"), ("a\nb", "a\\nb"), ("Müller 猫", "Müller 猫"), ("\udcff", "\\udcff"), ("\x1b[31m", "\\x1b[31m")],
)
def test_printable(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(name).encode()


# --- tars ---------------------------------------------------------------------------------------------------


def test_a_tar_is_only_ever_read(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    members = {"../../escaped.jpg": b"1", "/tmp/moco-absolute.jpg": b"2", "a/../b/./c.jpg": b"3"}
    tar = write_tar(tmp_path / "inner" / "evil.tar", members)
    assert names(tar) == ["a/b/c.jpg", "escaped.jpg", "tmp/moco-absolute.jpg"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.tar", "inner"]
    assert not Path("/tmp/moco-absolute.jpg").exists()


def test_links_in_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    links = [
        ("a/hard.jpg", tarfile.LNKTYPE, "a/real.jpg"),
        ("b/soft.jpg", tarfile.SYMTYPE, "../a/real.jpg"),
        ("b/twice.jpg", tarfile.SYMTYPE, "soft.jpg"),
        ("b/dangling.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("b/loop.jpg", tarfile.SYMTYPE, "loop.jpg"),
    ]
    with tarfile.open(path, "w") as tar:
        real = tarfile.TarInfo("a/real.jpg")
        real.size = 4
        tar.addfile(real, io.BytesIO(b"real"))
        for name, kind, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    found = {item.name: item.read() for item in scan(str(path))}
    assert found == {
        "a/real.jpg": b"real",
        "a/hard.jpg": b"real",
        "b/soft.jpg": b"real",
        "b/twice.jpg": b"real",
        "b/dangling.jpg": b"",  # nothing outside the tar is ever opened
        "b/loop.jpg": b"",
    }


def test_the_last_of_two_members_counts(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "updated.tar", {"a.jpg": b"old"})
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"newer"))
    (item,) = scan(str(path))
    assert item.read() == b"newer"


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "no such file or folder"),
        (lambda p: touch(p / "empty", "readme.txt") / ".", "no images there"),
        (lambda p: touch(p, "one.jpg") / "one.jpg", "give a folder or an uncompressed"),
        (lambda p: touch(p, "x.tar.gz") / "x.tar.gz", "unpack compressed archives first"),
        (lambda p: touch(p, "garbage.tar") / "garbage.tar", "not a readable tar"),
        (lambda p: f"{p},,{p}", "a path is empty"),
        (lambda p: f"{p},", "a path is empty"),
        (lambda p: "~no-such-user-here/x", "home directory"),
        (lambda p: f"{p}/nul\0byte", "null"),
        (lambda p: touch(p, "file.jpg") / "file.jpg" / "below", "Not a directory"),
        (lambda p: p / ("x" * 300), "name too long"),
    ],
    ids=["absent", "empty", "image", "gz", "garbage", "comma", "end-comma", "user", "nul", "below-file", "long"],
)
def test_mistakes(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        scan(str(make(tmp_path)))
    assert "\n" not in str(caught.value)


def test_truncated_tar_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "cut.tar", {f"{i}.jpg": bytes(5000) for i in range(4)})
    content = path.read_bytes()
    damaged = [content[:length] for length in (0, 300, 5700, 12_000)]
    damaged.append(content[:11_264] + b"damaged!" * 64 + content[11_776:])  # the third member's header
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(UserError, match="not a readable tar"):
            scan(str(path))


# --- fingerprint --------------------------------------------------------------------------------------------


def test_fingerprint_sees_every_change(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    seen = [fingerprint(scan(str(tmp_path)))]
    assert fingerprint(scan(str(tmp_path))) == seen[0]
    changes: list[Callable[[], object]] = [
        lambda: touch(tmp_path, "c.jpg"),
        lambda: (tmp_path / "c.jpg").rename(tmp_path / "d.jpg"),
        lambda: (tmp_path / "a.jpg").write_bytes(b"longer than before"),
        lambda: os.utime(tmp_path / "b.jpg", ns=(0, 12345)),
        (tmp_path / "a.jpg").unlink,
    ]
    for change in changes:
        change()
        seen.append(fingerprint(scan(str(tmp_path))))
    assert len(set(seen)) == len(seen)


def test_fingerprint_is_of_names_not_places() -> None:
    here, there = (Item("x/a.jpg", Path(place), 0, 7, 3) for place in ("/here", "/there"))
    assert fingerprint([here]) == fingerprint([there])


def test_a_webdataset_shard_has_its_classes(tmp_path: Path) -> None:
    """Beside each picture its class; a shard where one lacks it has none."""
    members = {"0001.jpg": b"a", "0001.cls": b"7", "s/0002.left.png": b"b", "s/0002.cls": b"cat\n", "0001.json": b"{}"}
    shard = write_tar(tmp_path / "train-000.tar", members)
    items = scan(str(shard))
    assert [item.name for item in items] == ["7/0001.jpg", "s/cat/0002.left.png"]
    assert [item.read() for item in items] == [b"a", b"b"]
    assert names(write_tar(tmp_path / "some.tar", {**members, "0003.jpg": b"c"})) == [
        "0001.jpg", "0003.jpg", "s/0002.left.png",
    ]  # fmt: skip
    assert names(write_tar(tmp_path / "odd.tar", {"a.jpg": b"a", "a.cls": b"x/y"})) == ["a.jpg"]
    both = scan(f"{shard},{write_tar(tmp_path / 'train-001.tar', {'0009.jpg': b'd', '0009.cls': b'7'})}")
    assert [item.name for item in both] == ["7/0001.jpg", "7/0009.jpg", "s/cat/0002.left.png"]
