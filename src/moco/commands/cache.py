"""`moco cache`: the packed stores, and removing those that nobody has used for long."""

from __future__ import annotations

import json
from typing import Any

from moco.commands.parsing import Parser
from moco.commands.runs import size
from moco.errors import UserError, printable


def parser() -> Parser:
    made = Parser(
        "cache",
        "The packed stores: what each was made of, its size, the days since a run last opened it. `moco cache prune` "
        "removes those that you say, never a folder without moco's marker.",
        "moco cache    or    moco cache prune --older-than 30",
    )
    made.add_argument("words", nargs="*", default=[], metavar="[prune]", help="nothing for the table, or `prune`")
    made.add_argument("--store.cache", metavar="DIR", help="the cache; default: $MOCO_CACHE, else ~/.cache/moco")
    made.add_argument("--older-than", type=float, metavar="DAYS", help="prune: those unused for so long")
    made.add_argument("--all", action="store_true", help="prune: every store")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def run(args: Any) -> None:
    """Print the table, or what was removed. Raises `UserError` for other words."""
    words, place = list(args.words), args.get("store.cache")
    if words not in ([], ["prune"]):
        raise UserError(f"moco cache {' '.join(words)}: give nothing, or prune")
    if words:
        _prune(place, args.older_than, args.all, args.json)
        return
    if args.all or args.older_than is not None:
        raise UserError("--older-than and --all are for removing: moco cache prune ...")
    from moco.runs.cache import list_stores

    stores = list_stores(place)
    if args.json:
        print(json.dumps([store.as_dict() for store in stores], indent=1))
        return
    if not stores:
        print("no packed store")
        return
    _print_table(stores)


def _print_table(stores: list[Any]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Console(highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = 200
    table = Table(box=SIMPLE)
    table.add_column("store", overflow="fold")
    table.add_column("made of", overflow="fold")
    for heading in ("images", "size", "last used"):
        table.add_column(heading, justify="right", no_wrap=True)
    for store in stores:
        images = "?" if store.images is None else f"{store.images:,}"
        made_of = ", ".join(store.sources) or ("unknown" if store.ours else "unknown (not moco's: never removed)")
        used = f"{store.unused_days:.0f} days ago" if store.unused_days >= 1 else "today"
        words = (store.path, made_of, images, size(store.disk_bytes), used)
        table.add_row(*(Text(printable(word)) for word in words))
    out.print(table)
    print(f"{_count(len(stores))}, {size(sum(store.disk_bytes for store in stores))}")


def _prune(place: str | None, older_than: float | None, everything: bool, as_json: bool) -> None:
    from moco.runs.cache import prune_stores

    pruned = prune_stores(place, older_than, everything)
    if as_json:
        removed = [store.as_dict() for store in pruned.removed]
        print(json.dumps({"removed": removed, "freed_bytes": pruned.freed_bytes, "notes": pruned.notes}, indent=1))
        return
    for store in pruned.removed:
        print(f"removed {store.path} ({', '.join(store.sources) or 'unknown'}, {size(store.disk_bytes)})")
    for note in pruned.notes:
        print(note)
    print(
        f"{_count(len(pruned.removed))} removed, {size(pruned.freed_bytes)} freed"
        if pruned.removed
        else "nothing removed"
    )


def _count(stores: int) -> str:
    return f"{stores} store{'s' if stores != 1 else ''}"
