"""Features with their paths and labels as a file: Parquet, `.npz` or `.npy`, written and read block by block.

    .parquet  columns path (string), label (string or null), feature (fixed-size list of float32); what is known of
              their making is JSON under the key `moco` of the file's metadata
    .npz      features float32 (N, F), paths and labels as text (N,), "" where there is no label; the JSON in `about`
    .npy      the features alone; paths, labels and the JSON in a second file, NAME.npy.json

The same blocks give the same bytes. Nothing of a file is ever executed.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import UserError, in_a_line

ENDINGS = (".parquet", ".npz", ".npy")
ROWS = 8192  # that are read at once from a file without blocks of its own
# What the three readers raise over damaged bytes; pyarrow's errors are kinds of these.
_DAMAGE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, NotImplementedError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
_FEATURES, _PATHS, _LABELS, _ABOUT = "features", "paths", "labels", "about"


@dataclass(frozen=True)
class Block:
    """Some of a table's rows.

    Attributes:
        paths: n of them, with `/`; bytes that are no text are escaped with a backslash.
        labels: class names, escaped like the paths, None where there is none.
        features: float32 (n, F).
    """

    paths: list[str]
    labels: list[str | None]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Table:
    """A feature file, opened: nothing but its size and what is known of it is read yet.

    Attributes:
        path: the file.
        about: how the features were made.
        count, width: N and F.
        blocks: reads the rows from the beginning.
    """

    path: Path
    about: dict[str, Any]
    count: int
    width: int
    blocks: Callable[[], Iterator[Block]]


def ending(path: Path) -> str:
    """Which kind of file a name asks for. Raises `UserError` for an ending that none has."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{path} ends in {path.suffix or 'nothing'}: give a name that ends in {', '.join(ENDINGS)}")
    return path.suffix.lower()


def companion(path: Path) -> Path | None:
    """The second file that belongs to the table at `path`; None where one holds everything."""
    return path.with_name(f"{path.name}.json") if ending(path) == ".npy" else None


def write_table(
    files: Sequence[IO[bytes]], kind: str, blocks: Callable[[], Iterable[Block]], count: int, width: int, about: Any
) -> None:
    """Write `count` rows of `width` features into open `files`: one, and the companion where there is one.

    `blocks` gives the rows from the beginning, as often as it is called.
    """
    text = json.dumps(about)
    if kind == ".parquet":
        _write_parquet(files[0], blocks(), width, text)
    elif kind == ".npz":
        _write_npz(files[0], blocks, count, width, text)
    else:
        _write_features(files[0], blocks(), count, width)
        _write_json(files[1], blocks, text)


def open_table(path: Path) -> Table:
    """The feature file at `path`. Raises `UserError` if there is none, it is damaged, or somebody else's."""
    kind = ending(path)
    openers = {".parquet": _open_parquet, ".npz": _open_npz, ".npy": _open_npy}
    with _damage_named(path):
        table = openers[kind](path)

    def blocks() -> Iterator[Block]:
        with _damage_named(path):
            yield from table.blocks()

    return replace(table, blocks=blocks)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what the readers raise over a damaged file, or one that isn't there, into `UserError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"no index at {error.filename or path}: `moco embed` makes one") from None
    except _DAMAGE as error:
        raise UserError(f"{path} is no feature file that `moco embed` wrote ({in_a_line(error)})") from error


def _about(text: str | bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("format") != 1:
        raise ValueError("it doesn't say how its features were made")
    return found


def _write_parquet(file: IO[bytes], blocks: Iterable[Block], width: int, text: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    feature = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
    fields = [pa.field("path", pa.string(), nullable=False), pa.field("label", pa.string())]
    schema = pa.schema([*fields, pa.field("feature", feature, nullable=False)], metadata={"moco": text})
    compression = {"path": "zstd", "label": "zstd", "feature.list.element": "none"}
    writer = pq.ParquetWriter(file, schema, compression=compression, use_dictionary=["label"], write_statistics=False)
    with writer:
        for block in blocks:
            values = pa.array(block.features.reshape(-1))
            columns = [
                pa.array(block.paths, pa.string()),
                pa.array(block.labels, pa.string()),
                pa.FixedSizeListArray.from_arrays(values, type=feature),
            ]
            if len(block):
                writer.write_table(pa.table(columns, schema=schema), row_group_size=len(block))


def _open_parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        found = pq.ParquetFile(file)
        about = _about((found.schema_arrow.metadata or {})[b"moco"])
        count, width = found.metadata.num_rows, found.schema_arrow.field("feature").type.list_size

    def blocks() -> Iterator[Block]:
        with path.open("rb") as file:
            opened = pq.ParquetFile(file)
            for group in range(opened.num_row_groups):
                rows = opened.read_row_group(group)
                values = rows.column("feature").combine_chunks().flatten().to_numpy()
                features = np.asarray(values, np.float32).reshape(-1, width)
                yield Block(rows.column("path").to_pylist(), rows.column("label").to_pylist(), features)

    return Table(path, about, count, width, blocks)


def _header(file: IO[bytes], kind: str, *shape: int) -> None:
    values = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, values)


def _write_features(file: IO[bytes], blocks: Iterable[Block], count: int, width: int) -> None:
    _header(file, "<f4", count, width)
    for block in blocks:
        file.write(np.ascontiguousarray(block.features, "<f4").data)


def _write_npz(file: IO[bytes], blocks: Callable[[], Iterable[Block]], count: int, width: int, text: str) -> None:
    texts: dict[str, Callable[[Block], list[str]]] = {
        _PATHS: lambda block: block.paths,
        _LABELS: lambda block: [label or "" for label in block.labels],
    }
    longest = dict.fromkeys(texts, 1)
    for block in blocks():
        for name, of in texts.items():
            longest[name] = max(longest[name], *map(len, of(block)), 1)
    with zipfile.ZipFile(file, "w") as archive:
        with _entry(archive, _ABOUT) as entry:
            np.lib.format.write_array(entry, np.array(text), allow_pickle=False)
        for name, of in texts.items():
            with _entry(archive, name) as entry:
                _header(entry, f"<U{longest[name]}", count)
                for block in blocks():
                    entry.write(np.array(of(block), f"<U{longest[name]}").tobytes())
        with _entry(archive, _FEATURES) as entry:
            _write_features(entry, blocks(), count, width)


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)  # its date is a constant


def _open_npz(path: Path) -> Table:
    with zipfile.ZipFile(path) as archive:
        with archive.open(f"{_ABOUT}.npy") as entry:
            about = _about(str(np.lib.format.read_array(entry, allow_pickle=False)))
        with archive.open(f"{_FEATURES}.npy") as entry:
            count, width = _read_header(entry)[0]

    def blocks() -> Iterator[Block]:
        with zipfile.ZipFile(path) as archive:
            columns = [archive.open(f"{name}.npy") for name in (_PATHS, _LABELS, _FEATURES)]
            kinds = [_read_header(column)[1] for column in columns]
            for first in range(0, count, ROWS):
                rows = min(ROWS, count - first)
                sizes = [rows, rows, rows * width]
                read = [_exactly(c, n * kind.itemsize) for c, n, kind in zip(columns, sizes, kinds)]
                paths, labels, features = (np.frombuffer(found, kind) for found, kind in zip(read, kinds))
                yield Block(paths.tolist(), [label or None for label in labels.tolist()], features.reshape(rows, width))

    return Table(path, about, count, width, blocks)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not a version 1.0 array")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    if fortran or kind.hasobject:
        raise ValueError("not an array of plain rows")
    return shape, kind


def _exactly(file: IO[bytes], size: int) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise EOFError("it ends too early")
    return found


def _write_json(file: IO[bytes], blocks: Callable[[], Iterable[Block]], text: str) -> None:
    file.write(f'{{"about": {text}'.encode())
    for name, of in ((_PATHS, lambda block: block.paths), (_LABELS, lambda block: block.labels)):
        between = f',\n"{name}": [\n'
        for block in blocks():
            for value in of(block):
                file.write(f"{between}{json.dumps(value)}".encode())
                between = ",\n"
        file.write(b"\n]")
    file.write(b"}\n")


def _open_npy(path: Path) -> Table:
    beside = companion(path)
    assert beside is not None
    features = np.lib.format.open_memmap(path, mode="r")
    found = json.loads(beside.read_bytes())
    about, paths, labels = _about(json.dumps(found["about"])), found[_PATHS], found[_LABELS]
    count, width = features.shape
    if len(paths) != count or len(labels) != count or features.dtype != np.float32:
        raise ValueError(f"{beside.name} doesn't belong to it")

    def blocks() -> Iterator[Block]:
        for first in range(0, count, ROWS):
            rows = slice(first, first + ROWS)
            yield Block(paths[rows], labels[rows], np.array(features[rows]))

    return Table(path, about, count, width, blocks)
