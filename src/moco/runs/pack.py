"""The images of a place into a packed store of one's own choosing, which `--data` takes."""

from __future__ import annotations

import os

from moco.config import Config
from moco.config_check import check
from moco.console import say
from moco.data.dataset import NO_DATA, built_in, place
from moco.data.pack import listed
from moco.data.shipping import Shipped, ship
from moco.errors import UserError
from moco.files import expanded


def pack(config: Config, out: str | os.PathLike[str]) -> Shipped:
    """Pack `config.data` into the folder `out`, at the short side and with the splits of `config`.

    The store holds JPEGs, as a cache with `store.format jpeg` does; a run on either gives the same bits. Only
    `config.data`, `config.store` and what the short side follows from count. Raises `UserError` for bad options or
    data, for an `out` that isn't new, empty, or left by a pack that was killed, and where the disk is full.
    """
    check(config)
    if not config.data:
        raise UserError(NO_DATA)
    if built_in(config.data):
        raise UserError("shapes are drawn, not read: give a folder or archives of images")
    if config.store.format == "raw":
        raise UserError("a packed store holds JPEGs: leave out --store.format raw")
    made = ship(place(config.data), config.data, expanded(os.fspath(out), "--out"), config.store, config.short_side)
    for line in made.notes:
        say(line)
    if made.skipped:
        say(f"skipped {len(made.skipped)} bad images: {listed(made.skipped)}")
    return made
