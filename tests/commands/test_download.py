"""`moco download` end to end, against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from moco import cli
from moco.data import catalog
from moco.data.catalog import Archive, known
from moco.data.cifar import RECORD_BYTES


class Handler(SimpleHTTPRequestHandler):
    requests: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.requests.append(self.path)


class Site:
    """A web server of one folder that remembers what it was asked for."""

    def __init__(self, folder: Path, port: int, requests: list[str]) -> None:
        self.folder, self.port, self.requests = folder, port, requests

    def publish(self, name: str, root: str, files: dict[str, bytes]) -> Archive:
        with tarfile.open(self.folder / name, "w:gz") as tar:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        data = (self.folder / name).read_bytes()
        md5, sha256 = hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest()
        return Archive(f"http://127.0.0.1:{self.port}/{name}", len(data), md5, sha256, root, root)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    (tmp_path / "www").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    handler = type("Recording", (Handler,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "www"))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Site(tmp_path / "www", server.server_port, handler.requests)
        server.shutdown()
        thread.join()


def catalogue(monkeypatch: pytest.MonkeyPatch, name: str, archives: dict[str, Archive]) -> None:
    entry = replace(known(name), archives=MappingProxyType(archives))
    monkeypatch.setattr(catalog, "DATASETS", {**catalog.DATASETS, name: entry})


def imagenette(site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, Archive]:
    archives = {
        size: site.publish(f"{root}.tgz", root, {f"{root}/train/n01440764/1.JPEG": size.encode()})
        for size, root in (("full", "imagenette2"), ("160", "imagenette2-160"))
    }
    catalogue(monkeypatch, "imagenette", archives)
    return archives


def test_it_lands_in_data_and_says_what_to_type_next(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imagenette(site, monkeypatch)
    assert cli.main(["download", "imagenette"]) == 0
    assert Path("data/imagenette2/train/n01440764/1.JPEG").read_text() == "full"
    assert capsys.readouterr().out == (
        "imagenette is in data/imagenette2\n"
        "next:  moco pretrain --recipe imagenette --data data/imagenette2 --out runs/a\n"
    )


def test_size_and_folder_are_obeyed_and_a_second_call_asks_for_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imagenette(site, monkeypatch)
    command = ["download", "imagenette", "--size", "160", "--to", "my pictures"]
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    assert "--data 'my pictures/imagenette2-160' --out" in first
    assert site.requests == ["/imagenette2-160.tgz"]
    picture = Path("my pictures/imagenette2-160/train/n01440764/1.JPEG")
    made_ns = picture.stat().st_mtime_ns, picture.parent.stat().st_ctime_ns
    Path("my pictures/imagenette2-160.tgz").unlink()  # the tree is enough
    assert cli.main(command) == 0
    assert capsys.readouterr().out == first
    assert site.requests == ["/imagenette2-160.tgz"]
    assert (picture.stat().st_mtime_ns, picture.parent.stat().st_ctime_ns) == made_ns


def test_a_wrong_checksum_is_one_line_exit_2_and_nothing_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = imagenette(site, monkeypatch)["full"]
    catalogue(monkeypatch, "imagenette", {"full": replace(good, sha256="0" * 64)})
    assert cli.main(["download", "imagenette"]) == 2
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("moco: ")]
    assert len(lines) == 1 and "its sha256 is" in lines[0]
    assert output.out == ""
    assert [path.name for path in Path("data").iterdir()] == [".moco-download.lock"]


def test_an_escaping_archive_is_exit_2_and_writes_nothing_outside(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = site.publish("evil.tgz", "a", {"a/1.png": b"x", "a/../../../evil": b"x"})
    catalogue(monkeypatch, "imagenette", {"full": evil})
    assert cli.main(["download", "imagenette"]) == 2
    assert "refused member 'a/../../../evil'" in capsys.readouterr().err
    assert sorted(path.name for path in Path("data").iterdir()) == [".moco-download.lock", "evil.tgz"]
    assert not list(Path.cwd().parent.rglob("evil"))


def test_cifar10_becomes_a_tree_of_pictures(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    record = np.zeros(RECORD_BYTES, dtype=np.uint8).tobytes()
    files = {f"cifar-10-batches-bin/{name}": record for name in names}
    archive = site.publish("cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    catalogue(monkeypatch, "cifar10", {"32": replace(archive, folder="cifar10")})
    assert cli.main(["download", "cifar10"]) == 0
    made = sorted(path.as_posix() for path in Path("data/cifar10").rglob("*.png"))
    assert made == [
        *(f"data/cifar10/train/airplane/{i:05d}.png" for i in range(5)),
        "data/cifar10/val/airplane/00000.png",
    ]
    assert not list(Path("data").rglob("*.bin"))


def test_shapes_needs_no_download(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["download", "shapes", "--to", str(tmp_path / "data")]) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "shapes is built in" in output
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["imagenete"], "unknown data set 'imagenete': did you mean imagenette?"),
        (["imagenette", "--size", "161"], "no size '161': did you mean 160?"),
        (["shapes", "--size", "64"], "shapes comes in one size"),
        (["imagenette", "--sise", "160"], "unknown option --sise: did you mean --size?"),
        ([], "dataset"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    typed: list[str],
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["download", *typed]) == 2
    error = capsys.readouterr().err
    assert answer in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_has_an_example_and_nothing_imports_torch() -> None:
    code = (
        "import sys; from moco import cli; code = cli.main(['download', '--help']);"
        "cli.main(['download', 'shapes']); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "example:" in done.stdout and "moco download imagenette --size 160" in done.stdout
