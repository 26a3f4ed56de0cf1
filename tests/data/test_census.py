"""What is taken for an image and what is not, and that nothing is dropped without a count."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import features
from tests.conftest import picture
from tests.data.conftest import encoded, write_tar
from tests.data.test_zip import write_zip

from moco.config import StoreConfig
from moco.data.dataset import open_dataset
from moco.data.folder import scan
from moco.errors import UserError

JPEG = encoded(picture(0), "JPEG")


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def names(spec: object) -> list[str]:
    return [item.name for item in scan(str(spec))]


TAKEN = {
    "a.jfif": JPEG,
    "b.jpe": JPEG,
    "c.JPG": JPEG,
    "d.pnm": encoded(picture(1), "PPM"),
    "e.jp2": encoded(picture(2), "JPEG2000"),
    "no-ending": JPEG,
    "a.JPEG_original": JPEG,
    "frame.0001": encoded(picture(3), "PNG"),
    "renamed.heic": JPEG,  # the ending says image, the content which
    "g": encoded(picture(4), "WEBP"),
    "h": encoded(picture(5), "TIFF"),
    "i": encoded(picture(6), "BMP"),
    "k": encoded(picture(7), "PPM"),
}
LEFT = {
    "x.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "y.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "README": b"Python is used here",
    "NOTES": b"BM is short for something",
    "empty": b"",
    "labels.txt": JPEG,  # said to be a text
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    ".hidden.jpg": JPEG,
    "._a.jpg": JPEG,
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg": JPEG,
    "deep/@eaDir/b.jpg": JPEG,
    ".thumbnails/c.jpg": JPEG,
    "__MACOSX/d.jpg": JPEG,
    "more.zip": b"PK",
}
LINE = (
    "left out: 10 files (no ending 3, .heic 2, hidden 2, .db 1, .txt 1, .zip 1), "
    "4 folders (@eaDir 2, .thumbnails 1, __MACOSX 1)"
)


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_content_decides_where_the_ending_says_nothing_and_the_rest_is_counted(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {**TAKEN, **LEFT}
    made = {
        "folder": lambda: tree(tmp_path / "photos", files),
        "tar": lambda: write_tar(tmp_path / "photos.tar", files),
        "zip": lambda: write_zip(tmp_path / "photos.zip", files),
    }[kind]()
    assert names(made) == sorted(TAKEN)
    assert capsys.readouterr().err.splitlines() == [LINE]


def test_all_that_is_taken_is_decoded(tmp_path: Path) -> None:
    files = dict(TAKEN)
    if features.check("avif"):
        files |= {"l.avif": encoded(picture(8), "AVIF"), "m": encoded(picture(8), "AVIF")}
    data = open_dataset(str(tree(tmp_path / "photos", files)), StoreConfig(cache=str(tmp_path / "cache")), 24)
    assert data.train.names == sorted(files)


def test_nothing_left_out_is_nothing_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan(str(tree(tmp_path, {"a.jpg": JPEG})))
    assert capsys.readouterr().err == ""


def test_a_folder_of_heic_says_so(tmp_path: Path) -> None:
    tree(tmp_path, {f"{i}.heic": LEFT["x.heic"] for i in range(3)})
    with pytest.raises(UserError, match=r"no images there \(looked for .*; left out 3 files \(.heic 3\)\)"):
        scan(str(tmp_path))


def test_links_to_one_folder_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "pool", {"cat/1.jpg": JPEG, "dog/2.jpg": JPEG})
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "pool")
    assert names(tmp_path / "data") == ["train/cat/1.jpg", "train/dog/2.jpg"]
    assert "left out test/: the same folder as train/" in capsys.readouterr().err
