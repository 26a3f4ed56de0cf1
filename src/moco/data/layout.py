"""What a tree of images means: its splits and classes, read off the folders."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from moco.data.folder import Item
from moco.errors import UserError

VAL_NAMES = ("val", "valid", "validation", "test")


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

    `labels` is `auto`, `folders` or `none`; `holdout` is the share held out where there is no validation
    split. Raises `UserError` where `folders` is asked for and the folders don't say.
    """
    paths = _without_common_root([tuple(item.name.split("/")) for item in items])
    tops = {path[0] for path in paths if len(path) > 1}
    val_name = next((name for name in VAL_NAMES if name in tops), None)
    if "train" in tops:
        return _split_tree(items, paths, val_name, labels, holdout)
    if labels == "none" or (labels == "auto" and not _is_class_tree(paths)):
        return Layout(Split(items, [-1] * len(items)), None, [], _unlabelled(len(items)))
    return _class_tree(items, paths, holdout)


def _unlabelled(count: int) -> str:
    return f"{count} images without labels: kNN, logistic regression and linear evaluation are off"


def _split_tree(
    items: list[Item], paths: list[tuple[str, ...]], val_name: str | None, labels: str, holdout: float
) -> Layout:
    train = [(item, path[1:]) for item, path in zip(items, paths) if path[0] == "train"]
    val = [(item, path[1:]) for item, path in zip(items, paths) if path[0] == val_name and len(path) > 1]
    train_items = [item for item, _ in train]
    inner = [path for _, path in train]
    if labels == "none" or (labels == "auto" and not all(len(path) > 1 for path in inner)):
        return Layout(Split(train_items, [-1] * len(train)), None, [], _unlabelled(len(train)))
    if not val:
        return _class_tree(train_items, inner, holdout)
    classes = _classes(inner)
    number = {name: i for i, name in enumerate(classes)}
    strangers = sorted({path[0] for _, path in val if len(path) < 2 or path[0] not in number})
    if strangers:
        raise UserError(
            f"{val_name}/ has {', '.join(strangers[:5])}, which train/ has not: the classes must be the same"
        )
    note = f"{len(train)} train and {len(val)} validation images, {len(classes)} classes"
    return Layout(
        Split(train_items, [number[path[0]] for path in inner]),
        Split([item for item, _ in val], [number[path[0]] for _, path in val]),
        classes,
        note,
    )


def _class_tree(items: list[Item], paths: list[tuple[str, ...]], holdout: float) -> Layout:
    if any(len(path) < 2 for path in paths):
        raise UserError("labels from folders: some images lie outside any class folder; give --store.labels none")
    classes = _classes(paths)
    members: dict[str, list[Item]] = defaultdict(list)
    for item, path in zip(items, paths):
        members[path[0]].append(item)
    train, val = Split([], []), Split([], [])
    for label, name in enumerate(classes):
        held = _held_out(members[name], holdout)
        for item in members[name]:
            split = val if item.name in held else train
            split.items.append(item)
            split.labels.append(label)
    kept = f"{len(val.items)} held out for validation" if val.items else "none for validation"
    note = f"{len(items)} images in {len(classes)} class folders, {kept}"
    return Layout(train, val if val.items else None, classes, note)


def _held_out(items: list[Item], share: float) -> set[str]:
    """Names of the held-out `share` of one class: those whose names hash lowest, so that it never moves."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(item.name.encode(errors="surrogateescape")).digest())
    return {item.name for item in ranked[: round(len(items) * share)]}


def _classes(paths: list[tuple[str, ...]]) -> list[str]:
    return sorted({path[0] for path in paths})


def _is_class_tree(paths: list[tuple[str, ...]]) -> bool:
    """Every image exactly one folder deep, in two folders or more."""
    return all(len(path) == 2 for path in paths) and len({path[0] for path in paths}) > 1


def _without_common_root(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    while paths and all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        if paths[0][0] == "train":
            break
        paths = [path[1:] for path in paths]
    return paths
