"""The known data sets: where they are, how to tell that they arrived whole, what their classes are called.

A new data set is an entry in `DATASETS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from moco.data.archive import is_whole
from moco.errors import UserError, nearest


@dataclass(frozen=True)
class Archive:
    """One file to download.

    Attributes:
        url: where it is; its last part is the file's name.
        size_bytes: exact size.
        md5: as the literature and torchvision give it; a check against damage.
        sha256: a check against tampering too. Both are verified.
        root: the folder inside the archive that holds the data set.
        folder: the folder it becomes, beside the archive.
    """

    url: str
    size_bytes: int
    md5: str
    sha256: str
    root: str
    folder: str

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class KnownDataset:
    """One entry of the catalog.

    Attributes:
        recipe: the shipped recipe made for it.
        archives: by the word typed after `--size`, the default first; empty for a built-in data set.
        class_names: folder name to readable name, in label order; empty where the folder names are readable.
        cifar_binary: the archive holds CIFAR's binary records, to be turned into pictures.
        published: validation top-1 of a published run's last epoch, by column of `metrics.csv` or `linear`: what a
            report compares with. Its source stands in the recipe's header.
    """

    name: str
    recipe: str
    archives: Mapping[str, Archive] = field(default_factory=lambda: MappingProxyType({}))
    class_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cifar_binary: bool = False
    published: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def built_in(self) -> bool:
        """Whether it is generated, with nothing to download."""
        return not self.archives

    def archive(self, size: str | None) -> Archive:
        """The archive of `size` (None: the default). Raises `UserError` where there is no such size."""
        self.check_size(size)
        return next(iter(self.archives.values())) if size is None else self.archives[size]

    def check_size(self, size: str | None) -> None:
        """Raises `UserError` unless `size` is None (the default) or one of several sizes."""
        if size is None:
            return
        if len(self.archives) < 2:
            raise UserError(f"{self.name} comes in one size: leave out --size {size}")
        if size not in self.archives:
            raise UserError(f"{self.name} has no size {size!r}: {nearest(size, self.archives)}")


def _imagenette(suffix: str, size_bytes: int, md5: str, sha256: str) -> Archive:
    name = f"imagenette2{suffix}"
    url = f"https://s3.amazonaws.com/fast-ai-imageclas/{name}.tgz"
    return Archive(url, size_bytes, md5, sha256, root=name, folder=name)


IMAGENETTE_CLASS_NAMES = MappingProxyType(
    {
        "n01440764": "tench",
        "n02102040": "English springer",
        "n02979186": "cassette player",
        "n03000684": "chain saw",
        "n03028079": "church",
        "n03394916": "French horn",
        "n03417042": "garbage truck",
        "n03425413": "gas pump",
        "n03445777": "golf ball",
        "n03888257": "parachute",
    }
)

# Sizes and SHA-256 are TensorFlow Datasets' (imagenette/checksums.tsv, url_checksums), MD5 torchvision's and,
# for CIFAR-10, its home page's.
_IMAGENETTE = {
    "full": _imagenette(
        "",
        1_557_161_267,
        "fe2fc210e6bb7c5664d602c3cd71e612",
        "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
    ),
    "320": _imagenette(
        "-320",
        341_663_724,
        "3df6f0d01a2c9592104656642f5e78a3",
        "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    ),
    "160": _imagenette(
        "-160",
        99_003_388,
        "e793b78cc4c9e9a4ccc0c1155377a412",
        "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
    ),
}

# The binary version: the other one is pickled, and no stranger's pickle is ever executed.
_CIFAR10 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    size_bytes=170_052_171,
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    root="cifar-10-batches-bin",
    folder="cifar10",
)

_ENTRIES = (
    KnownDataset(
        "imagenette",
        recipe="imagenette",
        archives=MappingProxyType(_IMAGENETTE),
        class_names=IMAGENETTE_CLASS_NAMES,
        published=MappingProxyType({"logistic_val_top1": 0.9157, "linear": 0.9252}),  # docs/seed.md
    ),
    KnownDataset(
        "cifar10",
        recipe="cifar10",
        archives=MappingProxyType({"32": _CIFAR10}),
        cifar_binary=True,
    ),
    KnownDataset("shapes", recipe="shapes"),
)

DATASETS: Mapping[str, KnownDataset] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def known(name: str) -> KnownDataset:
    """The entry called `name`. Raises `UserError` with the nearest names where there is none."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}: {nearest(name, DATASETS)}")
    return DATASETS[name]


def find(name: str, parent: Path = Path("data")) -> Path:
    """The downloaded tree of `name` below `parent`: the first of its sizes, as listed, that is there.

    Raises `UserError` where none is there (with the command that gets it), or one is but not whole.
    """
    entry = known(name)
    for archive in entry.archives.values():
        if is_whole(parent / archive.folder, archive.sha256):
            return parent / archive.folder
    if entry.built_in:
        raise UserError(f"{name} is built in: it has no folder")
    raise UserError(f"{name} is not in {parent}: run `moco download {name}` first")
