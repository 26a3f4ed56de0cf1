"""`moco doctor`: what is wrong with a data set, before days are spent on it."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from moco.commands.parsing import Parser, json_file
from moco.errors import FoundProblems, UserError, printable
from moco.rundir import RunDir

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from moco.data.diagnosis import Diagnosis

PROGRAM = "moco doctor"
MATTERS = 0.5  # of the type's numbers; packed from fewer, `--store.range full` makes another picture
SHOWN = 3  # examples of a finding
MOST_CLASSES = 40  # rows of the class table; more are told by the largest and the smallest


def parser() -> Parser:
    made = Parser(
        "doctor",
        "Look for unreadable images, duplicates, pictures in both train and val, uneven classes and odd sizes. "
        "Exit code 1 if something serious was found: an unreadable image, or the same file in both splits.",
        "moco doctor data/imagenette2-320 --json doctor.json",
    )
    made.add_argument("data", help="folder, tar (several: joined by commas), or a downloaded data set's name")
    made.add_argument("--json", default=None, type=str, metavar="FILE", help="write everything found there too")
    made.add_argument("--labels", default="auto", choices=["auto", "folders", "none"], help="as --store.labels")
    made.add_argument(
        "--distance", default=4, type=int, metavar="BITS", help="of 64 in which nearly the same pictures may differ"
    )
    made.add_argument(
        "--run",
        default=None,
        type=str,
        metavar="RUN",
        help="find crops, mirrored and recoloured copies too, with its help",
    )
    made.add_argument(
        "--checkpoint", default="last", type=str, metavar="WHICH", help="of --run: last, best, or an epoch"
    )
    return made


def run(args: Any) -> None:
    """Examine and print. Raises `FoundProblems` for serious findings, `UserError` where there is no data."""
    from moco.data.doctor import check_distance, examine, layout_of
    from moco.files import write_json
    from moco.reporting.ours import signed

    check_distance(args.distance)
    if args.run is None and args.checkpoint != "last":
        raise UserError("--checkpoint is of --run: give that too")
    out = json_file(args.json, PROGRAM)
    if args.run is None:
        found = examine(layout_of(args.data, args.labels), args.distance)
    else:
        RunDir.open(args.run)  # a wrong name is answered before torch is loaded
        from moco.runs.doctor import doctor

        found = doctor(args.data, args.run, args.distance, args.labels, args.checkpoint)
    if out is not None:
        write_json(out, signed({"data": args.data, **found.as_dict()}, PROGRAM))
    show(found)
    if found.serious:
        raise FoundProblems("found " + " and ".join(found.serious))


def show(found: Diagnosis) -> None:
    """Print the findings with examples, then the classes and the sizes."""
    from rich.console import Console

    screen = Console(highlight=False, soft_wrap=True)
    print(f"{found.note}; examined in {found.seconds:.1f} s")
    screen.print(_findings(found))
    _examples(screen, found)
    if found.classes:
        screen.print(_classes(found))
    if found.sizes:
        screen.print(_sizes(found))
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.sizes["kinds"].items())
        screen.print(f"kinds: {kinds}", markup=False)
    if found.depths:
        screen.print(_depths(found))


def _findings(found: Diagnosis) -> Table:
    no_val = "" if found.images["val"] else "no val"
    no_labels = "" if found.classes else "no labels"
    rows: list[tuple[str, Sized, str, str, str]] = [
        ("unreadable images", found.unreadable, "serious", "packing skips them: repair or remove them", ""),
        ("same file in train and val", found.exact_leaks, "serious", "validation tests what was trained on", no_val),
        ("nearly the same in train and val", found.near_leaks, "look", "compare them by eye", no_val),
        ("same file under two classes", found.label_conflicts, "look", "one of the labels is wrong", no_labels),
        ("same file twice", found.exact_duplicates, "look", "each is seen more often, and is its own negative", ""),
        ("nearly the same", found.near_duplicates, "look", "the same picture resized, or frames of a video", ""),
        ("JPEG without an end marker", found.unended, "look", "the pixels are whole: packed as they are", ""),
    ]
    table = _table("finding", "count", "", "what it means")
    for name, cases, severity, meaning, lacking in rows:
        if lacking:
            table.add_row(name, "", "", f"{lacking}: not looked for")
        else:
            table.add_row(name, str(len(cases)), severity if cases else "fine", meaning if cases else "")
    return table


def _examples(screen: Console, found: Diagnosis) -> None:
    bad = [f"{printable(u.name)} ({printable(u.reason)})" for u in found.unreadable]
    lists = [("unreadable", bad), ("without an end marker", [printable(name) for name in found.unended])]
    for title, sets in (
        ("in train and val", found.exact_leaks),
        ("nearly the same in train and val", found.near_leaks),
        ("under two classes", found.label_conflicts),
        ("same file twice", found.exact_duplicates),
        ("nearly the same", found.near_duplicates),
    ):
        lists.append((title, [_group([printable(name) for name in group]) for group in sets]))
    for title, lines in lists:
        for line in lines[:SHOWN]:
            screen.print(f"{title}: {line}", markup=False)
        if len(lines) > SHOWN:
            screen.print(f"{title}: and {len(lines) - SHOWN} more (--json FILE lists all)", markup=False)


def _group(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return " = ".join(names[:SHOWN]) + more


def _classes(found: Diagnosis) -> Table:
    from rich.markup import escape

    table = _table("class", "train", "val")
    ranked = sorted(found.classes.items(), key=lambda row: -row[1]["train"])
    shown = ranked if len(ranked) <= MOST_CLASSES else [*ranked[: MOST_CLASSES // 2], *ranked[-MOST_CLASSES // 2 :]]
    for name, counts in shown:
        table.add_row(escape(printable(name)), str(counts["train"]), str(counts["val"]))
    table.caption = f"{len(ranked)} classes, the largest has {found.imbalance:.1f} times the smallest's train images"
    return table


def _sizes(found: Diagnosis) -> Table:
    points = ("min", "p5", "median", "p95", "max")
    table = _table("size", *points)
    for name in ("width", "height", "short_side", "aspect"):
        table.add_row(name.replace("_", " "), *(f"{found.sizes[name][point]:g}" for point in points))
    return table


def _depths(found: Diagnosis) -> Table:
    from moco.data.levels import between

    table = _table("more than 8 bits", "images", "numbers found", "no data", "packed from", "of the type")
    for kind, depth in found.depths.items():
        numbers = between(*depth.found) if depth.found else "none"
        fills = ", ".join(f"{fill:g}" for fill in depth.no_data)
        table.add_row(kind, str(depth.images), numbers, fills, between(*depth.packed), _percent(depth.share))
    if any(depth.share < MATTERS for depth in found.depths.values()):
        table.caption = "--store.range matters here: with `full` the pictures would be nearly of one grey"
    else:
        table.caption = "--store.range LOW,HIGH takes another range than `packed from`"
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="left" if name in ("", "what it means") else "right")
    return table
