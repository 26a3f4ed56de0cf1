"""`moco download`: fetch a known data set, verified, as a tree that `--data` takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.commands.parsing import Parser

if TYPE_CHECKING:
    from moco.data.catalog import KnownDataset
    from moco.data.download import Patience


def parser() -> Parser:
    made = Parser(
        "download",
        "Fetch a known data set (imagenette, cifar10): resumed when broken off, verified, unpacked.",
        "moco download imagenette --size 160",
    )
    made.add_argument("dataset", help="imagenette or cifar10 (shapes is built in)")
    made.add_argument("--size", help="imagenette: full, 320 or 160, the short side in pixels; left out: full")
    made.add_argument("--to", default="data", metavar="DIR", help="folder to put it in")
    return made


def run(args: Any) -> None:
    """Make the data set available and print where it is. Raises `UserError` where that can't be done."""
    from moco.data.catalog import known

    entry = known(args.dataset)
    entry.check_size(args.size)
    if entry.built_in:
        print(f"{entry.name} is built in, nothing to download: {_next_command(entry, entry.name)}")
        return
    tree = install(entry, args.size, Path(args.to).expanduser())
    print(f"{entry.name} is in {tree}\nnext:  {_next_command(entry, str(tree))}")


def install(entry: KnownDataset, size: str | None, parent: Path, patience: Patience | None = None) -> Path:
    """Download, verify and unpack `entry` below `parent`, as far as that isn't done yet; return the tree.

    Raises `UserError` as `fetch` and `unpack` do.
    """
    from moco.data.archive import is_whole, unpack
    from moco.data.download import exclusive, fetch

    archive = entry.archive(size)
    folder = parent / archive.folder
    with exclusive(parent):
        if not is_whole(folder, archive.sha256):
            file = fetch(archive, parent, patience)
            unpack(file, archive.root, folder, archive.sha256, _converter(entry))
    return folder


def _converter(entry: KnownDataset) -> Callable[[Path, Path], None] | None:
    if not entry.cifar_binary:
        return None
    from moco.data.cifar import convert

    return convert


def _next_command(entry: KnownDataset, data: str) -> str:
    return f"moco pretrain --recipe {entry.recipe} --data {shlex.quote(data)} --out runs/a"
