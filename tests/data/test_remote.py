"""A packed store on a real S3 server: the same images, in bounded room, through cut connections and full disks."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from obstore.store import from_url
from tests.conftest import use_s3

from moco.config import StoreConfig
from moco.data import chunks, remote
from moco.data.cache import MARKER
from moco.data.dataset import Dataset, facts, open_dataset
from moco.data.folder import scan
from moco.data.remote import RemoteChunks
from moco.data.sampler import Sampler, Windows
from moco.data.shipping import ship
from moco.errors import Damaged, UserError
from moco.runs.cache import list_stores, prune_stores

SIDE, CHUNK = 32, 10_000
URL = "s3://bucket/store"


@pytest.fixture
def local(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packed store of many small chunks."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", CHUNK)
    ship(str(labelled), str(labelled), tmp_path / "store", StoreConfig(), SIDE)
    return tmp_path / "store"


@pytest.fixture
def there(local: Path, s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same at `URL`; returns the local one."""
    use_s3(monkeypatch, *s3_server)
    place = from_url(URL)
    for path in local.iterdir():
        obstore.put(place, path.name, path.read_bytes())
    return local


def opened(spec: object, cache: Path, **config: object) -> Dataset:
    return open_dataset(str(spec), StoreConfig(cache=str(cache), **config), SIDE)  # type: ignore[arg-type]


def assert_same_images(found: Dataset, expected: Dataset) -> None:
    assert found.val is not None and expected.val is not None
    for mine, theirs in ((found.train, expected.train), (found.val, expected.val)):
        assert mine.names == theirs.names and np.array_equal(mine.labels, theirs.labels)
        assert all(np.array_equal(mine.image(i), theirs.image(i)) for i in range(len(mine)))


def here(cache: Path) -> list[Path]:
    return sorted(cache.glob("remote-*/chunk-*.bin"))


def test_the_same_images_as_the_local_store_and_fetched_once(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    found = opened(URL, cache)
    assert here(cache) == []  # chunks come when they are wanted
    assert found.fingerprints == opened(there, cache).fingerprints and found.source == URL
    assert_same_images(found, opened(there, cache))
    assert len(here(cache)) == len(list(there.glob("chunk-*.bin")))
    asked: list[str] = []
    part = remote.Place.part
    monkeypatch.setattr(remote.Place, "part", lambda self, name, *ends: asked.append(name) or part(self, name, *ends))
    assert_same_images(opened(URL, cache), opened(there, cache))
    assert asked == []


def test_another_store_at_the_same_url_is_another_copy(there: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    opened(URL, cache)
    manifest = json.loads((there / chunks.MANIFEST).read_text())
    obstore.put(from_url(URL), chunks.MANIFEST, json.dumps({**manifest, "note": "changed"}).encode())
    assert opened(URL, cache).note == "packed store: changed"
    assert len(list(cache.glob("remote-*"))) == 2


def test_what_is_larger_than_the_room_asks_for_windows(there: Path, tmp_path: Path) -> None:
    def check(room: float, window: int | None) -> None:
        pixels = opened(URL, tmp_path / "cache", remote_gb=room * CHUNK / 1e9).train.pixels
        assert isinstance(pixels, RemoteChunks)
        pixels.check_window(window)

    check(100, None)
    check(5, 2)
    with pytest.raises(UserError, match=r"give more, or --store\.window 2 to go through it"):
        check(5, None)
    with pytest.raises(UserError, match=r"two windows of 3 chunks don't fit, give --store\.window 2"):
        check(5, 3)
    with pytest.raises(UserError, match="two of its chunks don't fit"):
        check(1, 1)


def test_the_room_is_kept_to_and_images_outside_the_windows_are_read_all_the_same(there: Path, tmp_path: Path) -> None:
    cache, room = tmp_path / "cache", 5 * CHUNK
    found = opened(URL, cache, remote_gb=room / 1e9, window=2)
    pixels = found.train.pixels
    assert isinstance(pixels, RemoteChunks) and not pixels.whole
    assert_same_images(found, opened(there, cache))
    assert here(cache) == []  # one by one, and nothing kept
    stranger = next(cache.glob("remote-*")) / "notes.bin"
    stranger.write_bytes(b"mine")
    count = len(list(there.glob("chunk-*.bin")))
    for first in range(0, count - 3, 2):
        wanted = range(first, first + 4)
        pixels.want(wanted)
        for number in wanted:
            begin = int(pixels.begins[number])
            assert np.array_equal(
                pixels[begin : begin + 50],
                np.frombuffer((there / chunks.chunk_name(number)).read_bytes()[:50], np.uint8),
            )
        assert {path.name for path in here(cache)} >= {chunks.chunk_name(number) for number in wanted}
        assert sum(path.stat().st_size for path in here(cache)) <= room
        mapped = {line.split()[-2] for line in Path("/proc/self/maps").read_text().splitlines() if "(deleted)" in line}
        assert not [path for path in mapped if path.startswith(str(cache))]  # they would take room all the same
    assert stranger.read_bytes() == b"mine"


def test_a_chunk_that_stops_being_wanted_while_it_is_asked_for_is_not_fetched_again(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread's `want` comes between the question and the answer."""
    pixels = opened(URL, tmp_path / "cache", remote_gb=5 * CHUNK / 1e9, window=2).train.pixels
    assert isinstance(pixels, RemoteChunks)
    pixels.want([3])
    first = int(pixels.begins[3])
    expected = pixels[first : first + 10].copy()  # it is here now
    answer = pixels._chunk

    def late(number: int) -> Any:
        pixels.want([0, 1])
        return answer(number)

    monkeypatch.setattr(pixels, "_chunk", late)
    assert np.array_equal(pixels[first : first + 10], expected)
    assert 3 not in pixels._here


class Cutting:
    """A way to the server that is cut after some bytes, the first `times` times."""

    def __init__(self, target: tuple[str, int], after: int, times: int) -> None:
        self.target, self.after, self.left = target, after, times
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            threading.Thread(target=self._copy, args=(client, server, None), daemon=True).start()
            cut = self.left > 0
            self.left -= cut
            self._copy(server, client, self.after if cut else None)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, limit: int | None) -> None:
        done = 0
        try:
            while content := source.recv(4096):
                target.sendall(content if limit is None else content[: limit - done])
                done += len(content)
                if limit is not None and done >= limit:
                    target.shutdown(socket.SHUT_RDWR)
                    return
        except OSError:  # the other end is gone
            return


def test_a_cut_connection_is_made_good(
    there: Path, s3_server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Cutting(s3_server, after=700, times=4)
    use_s3(monkeypatch, "127.0.0.1", way.port)
    found = opened(URL, tmp_path / "cache")
    assert_same_images(found, opened(there, tmp_path / "cache"))
    assert way.left == 0
    way.listener.close()


def test_a_server_that_is_gone_is_one_line(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(URL, tmp_path / "cache")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    use_s3(monkeypatch, "127.0.0.1", port)
    with pytest.raises(UserError, match=rf"^can't read {URL}/{chunks.MANIFEST}: .* \({remote.TRIES} tries\)$"):
        opened(URL, tmp_path / "cache")
    assert found.train.image(0).shape[2] == 3  # the one that was opened before goes on with its own server


def test_what_is_no_store_is_said(s3_server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, *s3_server)
    with pytest.raises(UserError, match=r"s3://bucket/nothing is no packed store: it has no moco-packed.json"):
        opened("s3://bucket/nothing", tmp_path)
    with pytest.raises(UserError, match="--data ftp://somewhere/store"):
        opened("ftp://somewhere/store", tmp_path)


def test_a_chunk_of_other_bytes_is_refused_and_not_kept(there: Path, tmp_path: Path) -> None:
    name = chunks.chunk_name(0)
    content = bytearray((there / name).read_bytes())
    content[len(content) // 2] ^= 1
    obstore.put(from_url(URL), name, bytes(content))
    found = opened(URL, tmp_path / "cache")
    assert isinstance(found.train.pixels, RemoteChunks)
    with pytest.raises(Damaged, match="its bytes aren't those that were packed"):
        found.train.pixels[0:10]
    assert here(tmp_path / "cache") == []
    obstore.put(from_url(URL), name, (there / name).read_bytes())
    assert len(found.train.pixels[0:10]) == 10  # tried again


def test_a_full_disk_is_said_with_what_to_do(there: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"can't mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        found = opened(URL, disk)
        with pytest.raises(UserError, match=r"No space left on device.*--store\.remote_gb"):
            for index in range(len(found.train)):
                found.train.image(index)
        assert not list(disk.glob("remote-*/.chunk*"))
    finally:
        del found
        subprocess.run(["umount", "-l", disk], check=True)


def test_without_the_library_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(UserError, match=r"needs obstore: pip install"):
        opened(URL, tmp_path)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_an_order_in_windows_is_a_permutation_and_goes_chunk_by_chunk(size: int) -> None:
    chunk_of = np.random.default_rng(0).integers(0, 9, 200)
    windows = Windows(chunk_of, size)
    sampler = Sampler(200, 8, 3, windows)
    order = sampler.order(4)
    assert np.array_equal(order, Sampler(200, 8, 3, windows).order(4))
    assert not np.array_equal(order, sampler.order(5))
    assert len(set(order.ravel().tolist())) == 200
    windows_in_turn = windows.of_images(3, 4)[order.ravel()]
    assert (np.diff(windows_in_turn) >= 0).all()
    for number, members in enumerate(windows.chunks(3, 4)):
        assert len(members) <= size and set(chunk_of[windows.of_images(3, 4) == number]) == set(members.tolist())
    inside = order.ravel()[windows_in_turn == 0]
    assert len(inside) < 10 or (np.diff(inside) < 0).any()  # shuffled


def test_two_processes_keep_to_one_room(there: Path, tmp_path: Path) -> None:
    """Each fetches, removes and opens at random what the other has just removed or is fetching."""
    cache, room = tmp_path / "cache", 5 * CHUNK
    both = [opened(URL, cache, remote_gb=room / 1e9).train.pixels for _ in range(2)]
    count = len(list(there.glob("chunk-*.bin")))
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            with contextlib.suppress(FileNotFoundError):
                most[0] = max(most[0], sum(path.stat().st_size for path in here(cache)))

    def go(pixels: RemoteChunks, seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(30):
            wanted = draw.integers(0, count, 2).tolist()
            pixels.want(wanted)
            for number in wanted:
                begin = int(pixels.begins[number])
                expected = (there / chunks.chunk_name(number)).read_bytes()[:20]
                assert pixels[begin : begin + 20].tobytes() == expected

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(2) as pool:
        for going in [pool.submit(go, pixels, seed) for seed, pixels in enumerate(both)]:  # type: ignore[arg-type]
            going.result()
    over.set()
    watching.join()
    assert 0 < most[0] <= room


def test_a_chunk_that_could_not_be_fetched_ahead_is_tried_again(
    there: Path, s3_server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = opened(URL, tmp_path / "cache", remote_gb=5 * CHUNK / 1e9).train.pixels
    assert isinstance(pixels, RemoteChunks)
    part = remote.Place.part

    def gone(*_: object) -> bytes:
        raise UserError("the server is away")

    monkeypatch.setattr(remote.Place, "part", gone)
    pixels.want([0, 1])
    with pytest.raises(UserError, match="away"):
        pixels[0:10]
    monkeypatch.setattr(remote.Place, "part", part)
    assert len(pixels[0:10]) == 10


def test_what_a_killed_process_was_writing_is_cleared(there: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = opened(URL, cache)
    left = next(cache.glob("remote-*")) / ".chunk-000001.bin.99999.tmp"
    left.write_bytes(b"half")
    found.train.image(0)
    assert not left.exists()


def test_a_folder_without_our_marker_is_not_used(there: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    opened(URL, cache)
    folder = next(cache.glob("remote-*"))
    (folder / MARKER).unlink()
    with pytest.raises(UserError, match="no marker of moco's: move it away"):
        opened(URL, cache)


def test_a_process_that_was_killed_while_it_marked_the_folder_is_no_stranger(there: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    opened(URL, cache)
    folder = next(cache.glob("remote-*"))
    for path in folder.iterdir():
        path.unlink()
    (folder / f".{MARKER}.99999.tmp").write_text("{")
    assert_same_images(opened(URL, cache), opened(there, cache))


def test_a_run_reads_on_when_its_copy_is_pruned_and_the_next_starts(there: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found, local = opened(URL, cache), opened(there, cache)
    assert len(prune_stores(cache, everything=True).notes) <= 1
    for number in range(len(local.train)):
        assert np.array_equal(found.train.image(number), local.train.image(number))
    assert_same_images(opened(URL, cache), opened(there, cache))


def test_its_facts_are_read_and_its_images_are_not_scanned(there: Path, tmp_path: Path) -> None:
    config = StoreConfig(cache=str(tmp_path / "cache"), remote_gb=CHUNK / 1e9)
    assert facts(URL, config) == facts(str(there), config)
    with pytest.raises(UserError, match="is a store that `moco pack` made"):
        scan(URL)


def test_the_cache_shows_and_prunes_what_was_fetched_and_nothing_else(there: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert_same_images(opened(URL, cache), opened(there, cache))
    (shown,) = list_stores(cache)
    assert shown.sources == [URL] and shown.images == 34 and shown.ours and shown.disk_bytes > 5 * CHUNK
    (Path(shown.path) / "notes.txt").write_text("mine")
    pruned = prune_stores(cache, everything=True)
    assert "1 files that aren't moco's (notes.txt)" in pruned.notes[0]
    assert sorted(path.name for path in Path(shown.path).iterdir()) == [".moco-store.json", "notes.txt"]
    (Path(shown.path) / "notes.txt").unlink()
    prune_stores(cache, everything=True)
    assert list_stores(cache) == []
    assert_same_images(opened(URL, cache), opened(there, cache))
