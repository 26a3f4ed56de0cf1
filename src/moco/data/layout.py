"""What a tree of images means: its splits and classes, read off the folders."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, replace

from moco.data.item import Item
from moco.errors import UserError, printable

# In any mix of capitals; of several validation splits the first of these is taken.
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "dev", "eval", "test", "testing")

Paths = list[tuple[str, ...]]


@dataclass(frozen=True)
class Members:
    """Items of one split with their labels; -1 where there are none."""

    items: list[Item]
    labels: list[int]


@dataclass(frozen=True)
class Layout:
    """The splits and classes of a data set, and one line that says how they were read.

    `classes` is empty where there are no labels; `val` is None then, and where nothing is held out: `no_val` says
    why. `pools` are the items that any choice of labels and holdout would use, by the splits that the tree itself
    has: training first.
    """

    train: Members
    val: Members | None
    classes: list[str]
    note: str
    pools: list[list[Item]]
    no_val: str = ""

    @property
    def used(self) -> list[Item]:
        """All items of the pools, one after the other."""
        return [item for pool in self.pools for item in pool]

    @property
    def splits(self) -> dict[str, Members]:
        """The splits that there are, by name."""
        return {"train": self.train} if self.val is None else {"train": self.train, "val": self.val}


def arrange(items: list[Item], labels: str, holdout: float, where: str = "DIR") -> Layout:
    """Read splits and classes off the folder names.

    `labels` is `auto`, `folders` or `none`; `holdout` is the share of each class held out where there is no
    validation split; `where` is what a person typed for the tree. Raises `UserError` where `folders` is asked for
    and the folders don't say, and in `auto` where there are splits, but not at the top: test images would be
    trained on; or where `train` may be a class like those beside it.
    """
    paths, root = _without_common_root([tuple(item.name.split("/")) for item in items])
    where = "/".join([where.rstrip("/"), *map(printable, root)])
    tops = {path[0] for path in paths if len(path) > 1}
    train_name = _split_name(tops, TRAIN_NAMES)
    beside = _classes_beside(paths, tops, train_name)
    if labels == "auto" and beside:
        raise UserError(
            f"{train_name}/ lies beside {_some(beside)}: give --data {where}/{train_name} if it is the training split, "
            f"--store.labels folders where these are the classes, or --store.labels none for all {len(paths)} images"
        )
    if train_name is not None and not beside:
        splits = (train_name, _split_name(tops, VAL_NAMES))
        return _split_tree(items, paths, splits, labels, holdout, where)
    if labels == "auto":
        _check_hidden_splits(paths, tops, where)
    return _one_tree(items, paths, labels, holdout, deep=False)


def _classes_beside(paths: Paths, tops: set[str], train_name: str | None) -> list[str]:
    """The folders that make `train_name` look like a class, of vehicles say: images alone in it and in each of them."""
    others = [t for t in sorted(tops - {train_name}) if not _sounds_like(t, (*TRAIN_NAMES, *VAL_NAMES))]
    flat = all(len(path) <= 2 for path in paths)
    return others if flat and train_name is not None and _split_name(tops, VAL_NAMES) is None else []


def _split_name(tops: set[str], names: tuple[str, ...]) -> str | None:
    """The folder that is this split: the first of `names` that is there, however it is capitalised."""
    for name in names:
        found = sorted(top for top in tops if top.lower() == name)
        if len(found) > 1:
            both = " and ".join(f"{printable(top)}/" for top in found)
            raise UserError(f"both {both} are there: which one is the split? Rename or move the other")
        if found:
            return found[0]
    return None


def _split_tree(
    items: list[Item], paths: Paths, splits: tuple[str, str | None], labels: str, holdout: float, where: str
) -> Layout:
    train_name, val_name = splits
    train, inner = _below(train_name, items, paths)
    val, val_inner = _below(val_name, items, paths)
    pools = [train, val] if val else [train]
    more = _left_out_note(paths, train_name, val_name)
    if labels == "none" or not val or _obstacle(inner, deep=True):
        layout = _one_tree(train, inner, labels, holdout, deep=True)
        return replace(layout, note=layout.note + more, pools=pools)
    classes, number = _classes(inner)
    assert val_name is not None
    _check_val(val_name, train_name, val_inner, number, where)
    return Layout(
        Members(train, [number[_same(path[0])] for path in inner]),
        Members(val, [number[_same(path[0])] for path in val_inner]),
        classes,
        f"{len(train)} train and {len(val)} validation images, {len(classes)} classes{more}",
        pools,
    )


def _left_out_note(paths: Paths, train_name: str, val_name: str | None) -> str:
    """What lies outside the two splits, and which of several possible validation splits was taken."""
    chosen = [name for name in (train_name, val_name) if name is not None]
    outside = [path for path in paths if path[0] not in chosen or len(path) < 2]
    if not outside:
        return ""
    inside = " and ".join(f"{name}/" for name in chosen)
    note = f"; {len(outside)} images outside {inside} left out"
    rivals = sorted({path[0] for path in outside if len(path) > 1 and path[0].lower() in VAL_NAMES})
    if rivals:
        note += f" (validation is {val_name}/, not {', '.join(f'{name}/' for name in rivals)})"
    return note


def _below(top: str | None, items: list[Item], paths: Paths) -> tuple[list[Item], Paths]:
    """The items in the folder `top`, and their paths inside it."""
    chosen = [(item, path[1:]) for item, path in zip(items, paths) if path[0] == top and len(path) > 1]
    return [item for item, _ in chosen], [path for _, path in chosen]


def _check_val(val_name: str, train_name: str, paths: Paths, number: dict[str, int], where: str) -> None:
    way_out = f"or give --data {where}/{train_name}, of which a share is held out"
    loose = [path[0] for path in paths if len(path) < 2]
    if loose:
        raise UserError(
            f"{val_name}/ has {len(loose)} images outside any class folder ({printable(loose[0])}): "
            f"sort them into class folders as in {train_name}/, {way_out}, or --store.labels none"
        )
    strangers = sorted({path[0] for path in paths if _same(path[0]) not in number})
    if strangers:
        names = ", ".join(map(printable, strangers[:5])) + (", ..." if len(strangers) > 5 else "")
        raise UserError(
            f"{val_name}/ has {names}, which {train_name}/ has not: the classes must be the same, {way_out}"
        )


def _check_hidden_splits(paths: Paths, tops: set[str], where: str) -> None:
    """Raise `UserError` if there are splits that nothing would be made of, with the `--data` that would do."""
    inner = _parents_of_splits(paths)
    train = sorted(top for top in tops if _sounds_like(top, TRAIN_NAMES))
    val = sorted(top for top in tops if _sounds_like(top, VAL_NAMES))
    if inner:
        found = f"train/ and its like are not at the top, but in {_some(inner)}"
        better = inner
    elif train and val:
        found = f"{_some(train)} and {_some(val)} look like splits, but aren't named train/ and val/"
        better = train
    elif len(tops) > 1 and all(top.lower() in VAL_NAMES for top in tops):
        found, better = f"{_some(sorted(tops))} look like splits, but there is no train/", sorted(tops)
    else:
        return
    shown = " or ".join(f"--data {where}/{printable(name)}" for name in better[:3])
    raise UserError(
        f"{found}: give {shown}, or --store.labels none for all {len(paths)} images without labels, "
        "or --store.labels folders where these are the classes"
    )


def _parents_of_splits(paths: Paths) -> list[str]:
    """The folders further down that hold both a train and a validation folder."""
    children: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths:
        for depth in range(1, len(path) - 1):
            children[path[:depth]].add(path[depth])
    return sorted(
        "/".join(parent)
        for parent, names in children.items()
        if any(name.lower() in TRAIN_NAMES for name in names) and any(name.lower() in VAL_NAMES for name in names)
    )


def _sounds_like(top: str, names: tuple[str, ...]) -> bool:
    """Whether one of the words of `top` (`seg_train`, `test-set`) is one of `names`."""
    return any(word in names for word in re.split(r"[^a-z]+", top.lower()))


def _some(names: list[str]) -> str:
    return ", ".join(f"{printable(name)}/" for name in names[:3]) + ", ..." * (len(names) > 3)


def _one_tree(items: list[Item], paths: Paths, labels: str, holdout: float, deep: bool) -> Layout:
    """A tree without splits: unlabelled, or in class folders of which a share is held out."""
    obstacle = _obstacle(paths, deep or labels == "folders")
    if labels == "folders" and obstacle:
        raise UserError(f"labels from folders: {obstacle}; give --store.labels none")
    if labels == "folders" or (labels == "auto" and not obstacle):
        return _class_tree(items, paths, holdout)
    why = "as asked" if labels == "none" else obstacle
    note = f"{len(items)} images without labels ({why}): kNN, logistic regression and linear evaluation are off"
    return Layout(Members(items, [-1] * len(items)), None, [], note, [items], f"has no labels ({why})")


def _obstacle(paths: Paths, deep: bool) -> str:
    """Why the folders can't be classes, "" if they can; `deep` allows folders inside a class's folder."""
    loose = next((path for path in paths if len(path) < 2), None)
    if loose:
        return f"{printable(loose[-1])} lies outside any class folder"
    nested = next((path for path in paths if len(path) > 2), None)
    if nested and not deep:
        return f"{printable('/'.join(nested[:-1]))}/ is deeper than a class folder"
    only, _ = _classes(paths)
    return "" if len(only) > 1 else f"{printable(only[0])}/ is the only class folder"


def _class_tree(items: list[Item], paths: Paths, holdout: float) -> Layout:
    classes, number = _classes(paths)
    members: list[list[tuple[str, Item]]] = [[] for _ in classes]
    for item, path in zip(items, paths):
        members[number[_same(path[0])]].append(("/".join(path), item))
    train, val = Members([], []), Members([], [])
    for label, found in enumerate(members):
        held = _held_out([path for path, _ in found], holdout)
        for inside, item in found:
            split = val if inside in held else train
            split.items.append(item)
            split.labels.append(label)
    note = f"{len(items)} images in {len(classes)} class folders"
    if val.items:
        return Layout(train, val, classes, f"{note}, {len(val.items)} held out for validation", [items])
    why = "no class has two images" if holdout > 0 else "--store.holdout is 0"
    note += f", none for validation ({why}): kNN, logistic regression and linear evaluation are off"
    return Layout(train, None, classes, note, [items], f"has labels, but nothing to validate on ({why})")


def _held_out(paths: list[str], share: float) -> set[str]:
    """The held-out `share` of one class (one at least, never all): the paths that hash lowest.

    So the choice depends on the class's own file names alone: not on their order, on other classes, or on
    the tree being a folder or a tar.
    """
    names = sorted(set(paths), key=lambda path: hashlib.sha256(path.encode(errors="surrogateescape")).digest())
    count = min(max(round(len(names) * share), 1), len(names) - 1) if share > 0 else 0
    return set(names[:count])


def _classes(paths: Paths) -> tuple[list[str], dict[str, int]]:
    """Names of the class folders, sorted, and the number of each by what `_same` makes of it."""
    classes: list[str] = []
    number: dict[str, int] = {}
    for name in sorted({path[0] for path in paths}):
        if _same(name) not in number:
            number[_same(name)] = len(classes)
            classes.append(name)
    return classes, number


def _same(name: str) -> str:
    """The same for the two ways of writing an accent: macOS decomposes names that other systems don't."""
    return unicodedata.normalize("NFC", name)


def _without_common_root(paths: Paths) -> tuple[Paths, list[str]]:
    """The paths below the folder that all of them share, and the names on the way to it."""
    root: list[str] = []
    while paths and all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        if paths[0][0].lower() in TRAIN_NAMES:
            break
        root.append(paths[0][0])
        paths = [path[1:] for path in paths]
    return paths, root
