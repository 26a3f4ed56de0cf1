"""Files that try to run code when read: none gets to."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from moco import checkpoint
from moco.cli import main
from moco.data.archive import unpack
from moco.data.folder import scan
from moco.data.images import BadImage, decode
from moco.errors import UserError
from moco.rundir import RunDir


class Bomb:
    """Makes the folder `mark` when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code-ran"


def test_the_bomb_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


def planted_checkpoints(folder: Path, mark: Path) -> dict[str, Path]:
    """Ways to hide a pickle in a .pt file."""
    folder.mkdir()
    torch.save({"format": 1, "step": 3, "model": Bomb(mark)}, folder / "value.pt")
    torch.save({"format": 1, Bomb(mark): 3}, folder / "key.pt")
    torch.save(Bomb(mark), folder / "root.pt")
    torch.save({"format": Bomb(mark)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "plain.pt").write_bytes(pickle.dumps(Bomb(mark)))
    torch.save(torch.nn.Linear(2, 2), folder / "module.pt")
    with zipfile.ZipFile(folder / "numpy.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"format": 1, "x": np.array([Bomb(mark)], object)}, 2))
        archive.writestr("archive/version", "3")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["value", "key", "root", "old", "plain", "module", "numpy"])
def test_pickle_in_a_checkpoint(tmp_path: Path, mark: Path, kind: str) -> None:
    path = planted_checkpoints(tmp_path / "planted", mark)[kind]
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_pickle_in_a_run(tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {backbone: resnet18}\n")
    for name in ("step-00000001.pt", "last.pt", "best.pt"):
        torch.save({"format": 1, "step": 1, "model": Bomb(mark)}, run / "checkpoints" / name)
    with pytest.raises(UserError, match="is whole"):
        checkpoint.newest(run / "checkpoints")
    for which in ("last", "best"):
        with pytest.raises(UserError):
            checkpoint.load_for_evaluation(run / "checkpoints", which)
    assert "Traceback" not in capsys.readouterr().err
    assert not mark.exists()


ESCAPES = {
    "parent": ("data/../../escaped.jpg", tarfile.REGTYPE, ""),
    "absolute": ("{root}/escaped.jpg", tarfile.REGTYPE, ""),
    "symlink": ("data/escaped.jpg", tarfile.SYMTYPE, "{root}/secret"),
    "hardlink": ("data/escaped.jpg", tarfile.LNKTYPE, "../secret"),
    "device": ("data/escaped.jpg", tarfile.CHRTYPE, ""),
}


def planted_tar(root: Path, kind: str) -> Path:
    name, type_, link = ESCAPES[kind]
    with tarfile.open(root / "evil.tar", "w") as tar:
        good = tarfile.TarInfo("data/good.jpg")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
        evil = tarfile.TarInfo(name.format(root=root))
        evil.type, evil.linkname = type_, link.format(root=root)
        tar.addfile(evil)
    return root / "evil.tar"


@pytest.mark.parametrize("kind", ESCAPES)
def test_tar_that_escapes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_bytes(b"a secret")
    tar = planted_tar(tmp_path, kind)
    assert b"a secret" not in [item.read() for item in scan(str(tar))]  # as --data: read in place
    (tmp_path / "inner").mkdir()
    with pytest.raises(UserError, match="refused member"):  # as a download: unpacked
        unpack(tar, "data", tmp_path / "inner" / "data", "0" * 64)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["evil.tar", "inner", "secret"]


YAML = [
    "data: !!python/object/apply:os.mkdir ['{mark}']",
    "data: !!python/object/new:os.mkdir ['{mark}']",
    "!!python/object/apply:os.system ['mkdir {mark}']",
    "views: {{size: !!python/object/apply:os.mkdir ['{mark}']}}",
    "data: !!python/name:os.system",
    "data: !!python/module:antigravity",
]


@pytest.mark.parametrize("text", YAML)
def test_python_in_a_recipe(tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    recipe = tmp_path / "evil.yaml"
    recipe.write_text(text.format(mark=mark))
    for argv in (["--recipe", str(recipe)], ["--recipe", "folder-cpu", f"--data={text.format(mark=mark)}"]):
        assert main(["pretrain", *argv, "--out", str(tmp_path / "run")]) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["evil.yaml"]


@pytest.mark.parametrize("text", YAML)
def test_python_in_a_run(tmp_path: Path, mark: Path, text: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(text.format(mark=mark))
    with pytest.raises(UserError):
        RunDir.open(run).read_config()
    assert not mark.exists()


def test_postscript_named_jpg_is_not_handed_to_ghostscript(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", refuse)
    monkeypatch.setattr("subprocess.check_call", refuse)
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%mkdir {mark}) (w) file\nshowpage\n"
    with pytest.raises(BadImage, match="not an image"):
        decode(eps.encode(), 8)
    assert not mark.exists()
