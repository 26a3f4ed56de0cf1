"""Zips are read in place, and what is hostile in one does no harm."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import picture
from tests.data.conftest import encoded, write_tar

from moco.config import StoreConfig
from moco.data.dataset import open_dataset
from moco.data.folder import scan
from moco.data.images import BadImage
from moco.data.item import MOST_BYTES
from moco.errors import UserError


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


PICTURES = {f"{c}/{i}.png": encoded(picture(10 * n + i), "PNG") for n, c in enumerate("ab") for i in range(3)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_like_a_tar(tmp_path: Path, method: int) -> None:
    archive = write_zip(tmp_path / "photos.zip", PICTURES, method)
    tar = write_tar(tmp_path / "photos.tar", PICTURES)
    items = scan(str(archive))
    assert {item.name: item.read() for item in items} == PICTURES
    config = StoreConfig(cache=str(tmp_path / "cache"))
    zipped, tarred = (open_dataset(str(path), config, 24) for path in (archive, tar))
    assert zipped.fingerprints == tarred.fingerprints
    assert (zipped.classes, len(zipped.train)) == (["a", "b"], 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "photos.tar", "photos.zip"]


def test_a_folder_of_zips_stands_for_them(tmp_path: Path) -> None:
    write_zip(tmp_path / "zips/2.zip", {"b.png": b"b"})
    write_zip(tmp_path / "zips/1.ZIP", {"a.png": b"a"})
    write_tar(tmp_path / "zips/3.tar", {"c.png": b"c"})
    assert [item.name for item in scan(str(tmp_path / "zips"))] == ["a.png", "b.png", "c.png"]


def test_names_lead_nowhere(tmp_path: Path) -> None:
    evil = {"../../up.png": b"1", "/abs.png": b"2", "a\\b\\..\\c.png": b"3", "x/./y.png": b"4"}
    items = scan(str(write_zip(tmp_path / "in/evil.zip", evil)))
    assert [item.name for item in items] == ["a/b/c.png", "abs.png", "up.png", "x/y.png"]
    assert [item.read() for item in items] == [b"3", b"2", b"1", b"4"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evil.zip", "in"]


def test_links_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_zip(tmp_path / "links.zip", {"a.png": b"a"})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("passwd.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert [item.name for item in scan(str(path))] == ["a.png"]
    assert "left out: 1 file (link 1)" in capsys.readouterr().err


def test_the_last_of_two_members_counts(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "updated.zip", {"a.png": b"old"})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.png", b"newer")
    (item,) = scan(str(path))
    assert item.read() == b"newer"


def patched(path: Path, signature: bytes, offset: int, value: bytes) -> None:
    """Overwrite bytes of every header that begins with `signature`."""
    content = bytearray(path.read_bytes())
    at = content.find(signature)
    while at >= 0:
        content[at + offset : at + offset + len(value)] = value
        at = content.find(signature, at + 4)
    path.write_bytes(bytes(content))


CENTRAL = b"PK\1\2"


def test_encrypted(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "secret.zip", {"a.png": b"a"})
    patched(path, CENTRAL, 8, struct.pack("<H", 1))
    with pytest.raises(UserError, match=r"secret.zip: a.png is encrypted: unpack the zip first"):
        scan(str(path))


def lie(size: int) -> Callable[[Path], None]:
    return lambda path: patched(path, CENTRAL, 24, struct.pack("<I", size))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lie(10), "damaged inside"),  # it would grow to more than its directory says
        (lie(MOST_BYTES + 1), "GiB unpacked, more than any picture"),
        (lie(10**6), "damaged inside"),
        (lambda p: patched(p, CENTRAL, 10, struct.pack("<H", 14)), "compressed by method 14"),
        (lambda p: patched(p, CENTRAL, 16, b"\0\0\0\0"), "damaged inside"),  # the CRC
        (lambda p: patched(p, b"PK\3\4", 0, b"XXXX"), "damaged inside"),
        (lambda p: patched(p, b"PK\3\4", 26, b"\xff\xff"), "damaged inside"),  # data far behind the end
    ],
    ids=["bomb", "huge", "short", "method", "crc", "header", "offset"],
)
def test_a_bad_member_is_a_bad_image(tmp_path: Path, harm: Callable[[Path], None], reason: str) -> None:
    path = write_zip(tmp_path / "bad.zip", {"a.png": bytes(5000)})
    harm(path)
    (item,) = scan(str(path))
    with pytest.raises(BadImage, match=reason):
        item.read()


def test_a_bomb_is_never_unpacked_whole(tmp_path: Path) -> None:
    """A million to one: no more is unpacked than the directory says, plus a byte."""
    path = write_zip(tmp_path / "bomb.zip", {"a.png": bytes(50_000_000)})
    assert path.stat().st_size < 100_000
    lie(100)(path)
    (item,) = scan(str(path))
    assert len(item.read(64)) == 64
    with pytest.raises(BadImage):
        item.read()


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_damaged_zips_are_a_line(tmp_path: Path, keep: float) -> None:
    path = write_zip(tmp_path / "cut.zip", PICTURES)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=r"cut.zip: not a readable zip") as caught:
        scan(str(path))
    assert "\n" not in str(caught.value)


def test_every_flipped_byte_of_a_zip_is_a_picture_a_bad_image_or_a_line(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "flip.zip", {"a.png": b"abc" * 30, "b/c.png": b"def"})
    content = path.read_bytes()
    right = {b"abc" * 30, b"def"}
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            read = {item.read() for item in scan(str(path))}
        except (BadImage, UserError):
            continue
        assert read <= right, at


def test_archives_inside_archives_are_named(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.png", b"a")
    outer = write_tar(tmp_path / "outer.tar", {"1.zip": inner.getvalue(), "x/2.tar": b""})
    with pytest.raises(UserError, match=r"no images there, but 2 archives \(1.zip, x/2.tar\): give the folder"):
        scan(str(outer))
    (tmp_path / "deep/er").mkdir(parents=True)
    outer.rename(tmp_path / "deep/er/x.tar")
    with pytest.raises(UserError, match=r"but 1 archive \(er/x.tar\)"):
        scan(str(tmp_path / "deep"))
