"""What a tree of images means: its splits and classes, read off the folders."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from moco.data.item import Item, printable
from moco.errors import UserError

VAL_NAMES = ("val", "valid", "validation", "test")

Paths = list[tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    """Items of one split with their labels; -1 where there are none."""

    items: list[Item]
    labels: list[int]


@dataclass(frozen=True)
class Layout:
    """The splits and classes of a data set, and one line that says how they were read.

    `classes` is empty and `val` is None where there are no labels.
    """

    train: Split
    val: Split | None
    classes: list[str]
    note: str


def arrange(items: list[Item], labels: str, holdout: float) -> Layout:
    """Read splits and classes off the folder names.

    `labels` is `auto`, `folders` or `none`; `holdout` is the share of each class held out where there is no
    validation split. Raises `UserError` where `folders` is asked for and the folders don't say.
    """
    paths = _without_common_root([tuple(item.name.split("/")) for item in items])
    tops = {path[0] for path in paths if len(path) > 1}
    if "train" in tops:
        val_name = next((name for name in VAL_NAMES if name in tops), None)
        return _split_tree(items, paths, val_name, labels, holdout)
    return _one_tree(items, paths, labels, holdout, deep=False)


def _split_tree(items: list[Item], paths: Paths, val_name: str | None, labels: str, holdout: float) -> Layout:
    train, inner = _below("train", items, paths)
    val, val_inner = _below(val_name, items, paths)
    left_out = len(items) - len(train) - len(val)
    more = f"; {left_out} images outside train/{f' and {val_name}/' if val_name else ''} left out" if left_out else ""
    if labels == "none" or not val or _obstacle(inner, deep=True):
        layout = _one_tree(train, inner, labels, holdout, deep=True)
        return Layout(layout.train, layout.val, layout.classes, layout.note + more)
    classes = _classes(inner)
    number = {name: i for i, name in enumerate(classes)}
    _check_val(val_name, val_inner, number)
    return Layout(
        Split(train, [number[path[0]] for path in inner]),
        Split(val, [number[path[0]] for path in val_inner]),
        classes,
        f"{len(train)} train and {len(val)} validation images, {len(classes)} classes{more}",
    )


def _below(top: str | None, items: list[Item], paths: Paths) -> tuple[list[Item], Paths]:
    """The items in the folder `top`, and their paths inside it."""
    chosen = [(item, path[1:]) for item, path in zip(items, paths) if path[0] == top and len(path) > 1]
    return [item for item, _ in chosen], [path for _, path in chosen]


def _check_val(val_name: str | None, paths: Paths, number: dict[str, int]) -> None:
    loose = [path[0] for path in paths if len(path) < 2]
    if loose:
        raise UserError(
            f"{val_name}/ has {len(loose)} images outside any class folder ({printable(loose[0])}): "
            "sort them into class folders as in train/, or give --store.labels none"
        )
    strangers = sorted({path[0] for path in paths if path[0] not in number})
    if strangers:
        names = ", ".join(map(printable, strangers[:5])) + (", ..." if len(strangers) > 5 else "")
        raise UserError(f"{val_name}/ has {names}, which train/ has not: the classes must be the same")


def _one_tree(items: list[Item], paths: Paths, labels: str, holdout: float, deep: bool) -> Layout:
    """A tree without splits: unlabelled, or in class folders of which a share is held out."""
    obstacle = _obstacle(paths, deep or labels == "folders")
    if labels == "folders" and obstacle:
        raise UserError(f"labels from folders: {obstacle}; give --store.labels none")
    if labels == "folders" or (labels == "auto" and not obstacle):
        return _class_tree(items, paths, holdout)
    why = "as asked" if labels == "none" else obstacle
    note = f"{len(items)} images without labels ({why}): kNN, logistic regression and linear evaluation are off"
    return Layout(Split(items, [-1] * len(items)), None, [], note)


def _obstacle(paths: Paths, deep: bool) -> str:
    """Why the folders can't be classes, "" if they can; `deep` allows folders inside a class's folder."""
    loose = next((path for path in paths if len(path) < 2), None)
    if loose:
        return f"{printable(loose[-1])} lies outside any class folder"
    nested = next((path for path in paths if len(path) > 2), None)
    if nested and not deep:
        return f"{printable('/'.join(nested[:-1]))}/ is deeper than a class folder"
    only = _classes(paths)
    return "" if len(only) > 1 else f"{printable(only[0])}/ is the only class folder"


def _class_tree(items: list[Item], paths: Paths, holdout: float) -> Layout:
    classes = _classes(paths)
    members: dict[str, list[tuple[str, Item]]] = defaultdict(list)
    for item, path in zip(items, paths):
        members[path[0]].append(("/".join(path), item))
    train, val = Split([], []), Split([], [])
    for label, name in enumerate(classes):
        held = _held_out([path for path, _ in members[name]], holdout)
        for inside, item in members[name]:
            split = val if inside in held else train
            split.items.append(item)
            split.labels.append(label)
    kept = f"{len(val.items)} held out for validation" if val.items else "none for validation"
    note = f"{len(items)} images in {len(classes)} class folders, {kept}"
    return Layout(train, val if val.items else None, classes, note)


def _held_out(paths: list[str], share: float) -> set[str]:
    """The held-out `share` of one class (one at least, never all): the paths that hash lowest.

    So the choice depends on the class's own file names alone: not on their order, on other classes, or on
    the tree being a folder or a tar.
    """
    names = sorted(set(paths), key=lambda path: hashlib.sha256(path.encode(errors="surrogateescape")).digest())
    count = min(max(round(len(names) * share), 1), len(names) - 1) if share > 0 else 0
    return set(names[:count])


def _classes(paths: Paths) -> list[str]:
    return sorted({path[0] for path in paths})


def _without_common_root(paths: Paths) -> Paths:
    while paths and all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        if paths[0][0] == "train":
            break
        paths = [path[1:] for path in paths]
    return paths
