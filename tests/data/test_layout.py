"""Every shape of `--data` that the design lists, read off names alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from moco.data.item import Item
from moco.data.layout import VAL_NAMES, Layout, arrange
from moco.errors import UserError


def items(*names: str) -> list[Item]:
    return [Item(name, Path("/x"), 0, 1, 0) for name in sorted(names)]


def read(*names: str, labels: str = "auto", holdout: float = 0.1) -> Layout:
    return arrange(items(*names), labels, holdout)


def classes_of(folder: str, classes: str = "ab", count: int = 10) -> list[str]:
    return [f"{folder}{c}/{i:03}.jpg" for c in classes for i in range(count)]


def content(layout: Layout) -> dict[str, list[tuple[str, int]]]:
    splits = {"train": layout.train, "val": layout.val}
    return {name: [(i.name, n) for i, n in zip(s.items, s.labels, strict=True)] for name, s in splits.items() if s}


# --- split trees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("val", VAL_NAMES)
@pytest.mark.parametrize("root", ["", "imagenet/", "a/b/c/"])
def test_split_tree(val: str, root: str) -> None:
    layout = read(*classes_of(f"{root}train/"), *classes_of(f"{root}{val}/", count=3))
    assert layout.classes == ["a", "b"]
    assert layout.val is not None
    assert len(layout.train.items) == 20
    assert len(layout.val.items) == 6
    assert all(
        item.name.startswith(f"{root}train/{layout.classes[n]}/") for item, n in zip(*vars(layout.train).values())
    )
    assert all(item.name.startswith(f"{root}{val}/{layout.classes[n]}/") for item, n in zip(*vars(layout.val).values()))
    assert layout.note == "20 train and 6 validation images, 2 classes"


def test_val_wins_over_test() -> None:
    layout = read(*classes_of("train/"), *classes_of("test/"), *classes_of("val/", count=2), "cover.jpg")
    assert layout.val is not None
    assert {item.name.split("/")[0] for item in layout.val.items} == {"val"}
    assert "21 images outside train/ and val/ left out" in layout.note


def test_folders_inside_a_class_belong_to_it() -> None:
    layout = read("train/a/x/1.jpg", "train/b/2.jpg", "val/a/y/z/3.jpg", "val/b/4.jpg")
    assert content(layout) == {
        "train": [("train/a/x/1.jpg", 0), ("train/b/2.jpg", 1)],
        "val": [("val/a/y/z/3.jpg", 0), ("val/b/4.jpg", 1)],
    }


def test_val_may_lack_a_class() -> None:
    layout = read(*classes_of("train/", "abc"), *classes_of("val/", "ac"))
    assert layout.val is not None
    assert layout.classes == ["a", "b", "c"]
    assert set(layout.val.labels) == {0, 2}


def test_val_class_unknown_to_train() -> None:
    with pytest.raises(UserError, match=r"val/ has x\\n, y, which train/ has not"):
        read(*classes_of("train/"), *classes_of("val/", ["x\n", "y"]))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"c, d, e, f, g, \.\.\., which"):
        read(*classes_of("train/"), *classes_of("val/", "cdefghij"))


def test_val_without_class_folders() -> None:
    with pytest.raises(UserError, match=r"val/ has 2 images outside any class folder \(1.jpg\): sort them"):
        read(*classes_of("train/"), "val/1.jpg", "val/2.jpg")


def test_split_tree_without_val_holds_out() -> None:
    for root in ("", "data/"):
        layout = read(*classes_of(f"{root}train/"), holdout=0.2)
        assert layout.val is not None
        assert (len(layout.train.items), len(layout.val.items)) == (16, 4)


def test_unlabelled_split_tree_trains_on_train_only() -> None:
    for tree in (["train/1.jpg", "train/2.jpg", "val/3.jpg"], ["train/all/1.jpg", "train/all/2.jpg", "val/all/3.jpg"]):
        layout = read(*tree)
        assert len(layout.train.items) == 2
        assert (layout.val, layout.classes, layout.train.labels) == (None, [], [-1, -1])
        assert "without labels" in layout.note


def test_one_stray_image_is_named() -> None:
    layout = read(*classes_of("train/"), *classes_of("val/"), "train/contact sheet.jpg")
    assert layout.classes == []
    assert "contact sheet.jpg lies outside any class folder" in layout.note


@pytest.mark.parametrize("train", ["Train", "TRAIN", "training", "Training"])
@pytest.mark.parametrize("val", ["Val", "VALID", "Validation", "dev", "Dev", "eval", "Test", "TESTING", "testing"])
def test_any_spelling_of_the_splits(train: str, val: str) -> None:
    layout = read(*classes_of(f"x/{train}/"), *classes_of(f"x/{val}/", count=3))
    assert layout.val is not None
    assert (len(layout.train.items), len(layout.val.items), layout.classes) == (20, 6, ["a", "b"])


def test_which_of_two_validation_splits_is_said() -> None:
    layout = read(*classes_of("train/"), *classes_of("Test/"), *classes_of("valid/", count=2))
    assert layout.val is not None
    assert len(layout.val.items) == 4
    assert "20 images outside train/ and valid/ left out (validation is valid/, not Test/)" in layout.note


def test_two_spellings_of_one_split() -> None:
    with pytest.raises(UserError, match="both Train/ and train/ are there: which one is the split"):
        read(*classes_of("train/"), *classes_of("Train/"))


def test_two_unicode_forms_are_one_class() -> None:
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    layout = read(f"train/{nfd}/1.jpg", "train/tea/2.jpg", f"val/{nfc}/3.jpg", "val/tea/4.jpg")
    assert layout.val is not None
    assert layout.classes == [nfd, "tea"]
    assert layout.val.labels == [0, 1]
    tree = read(f"{nfd}/1.jpg", f"{nfc}/2.jpg", "tea/3.jpg", "tea/4.jpg")
    assert len(tree.classes) == 2


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ([*classes_of("train/"), "test/1.jpg", "test/2.jpg"], "--data X/train, of which a share"),
        ([*classes_of("deep/Train/"), "deep/Test/x/1.jpg"], "--data X/deep/Train, of which"),
        ([*classes_of("images/train/"), *classes_of("images/val/"), "cover.jpg"], "give --data X/images,"),
        ([*classes_of("a/seg_train/"), *classes_of("a/seg_test/"), "a/seg_pred/1.jpg"], "--data X/a/seg_train,"),
        ([*classes_of("training_set/"), *classes_of("test_set/")], "give --data X/training_set,"),
        ([*classes_of("test/"), *classes_of("val/")], "there is no train/: give --data X/test or --data X/val"),
    ],
    ids=["flat test", "unknown class", "inner", "seg", "set", "no train"],
)
def test_splits_that_cannot_be_used_say_which_data_would_do(names: list[str], hint: str) -> None:
    with pytest.raises(UserError, match=r"--store.labels none|the classes must be the same") as caught:
        arrange(items(*names), "auto", 0.1, "X")
    assert hint in str(caught.value)
    assert arrange(items(*names), "none", 0.1, "X").val is None  # there is a way out


VEHICLES = [f"{kind}/{n}.jpg" for kind in ("airplane", "bus", "train") for n in range(10)]


def test_a_class_called_train_is_asked_about() -> None:
    with pytest.raises(UserError, match="train/ lies beside airplane/, bus/: give --data DIR/train if it is the"):
        read(*VEHICLES)
    assert read(*VEHICLES, labels="folders").classes == ["airplane", "bus", "train"]
    assert len(read(*VEHICLES, labels="none").used) == 30


def test_a_flat_training_split_may_lie_beside_what_sounds_like_a_split() -> None:
    assert len(read("train/1.jpg", "train/2.jpg", "test1/1.jpg", "sheet.jpg").used) == 2


def test_a_folder_of_trains_is_no_split() -> None:
    layout = read("2023/train/1.jpg", "2023/beach/2.jpg", "2024/train/3.jpg")
    assert len(layout.train.items) == 3


def test_what_is_packed_does_not_depend_on_labels_or_holdout() -> None:
    tree = [*classes_of("train/"), *classes_of("val/", count=2), *classes_of("test/")]
    used = [[i.name for i in arrange(items(*tree), labels, 0.1).used] for labels in ("auto", "folders", "none")]
    assert used[0] == used[1] == used[2] == sorted(name for name in tree if not name.startswith("test/"))
    flat = classes_of("", "abc")
    for labels, holdout in (("auto", 0.0), ("auto", 0.5), ("none", 0.1)):
        assert [i.name for i in arrange(items(*flat), labels, holdout).used] == sorted(flat)


# --- nothing to validate on ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "labels", "holdout", "why"),
    [
        (classes_of("", "abc", 1), "auto", 0.1, "has labels, but nothing to validate on (no class has two images)"),
        (classes_of("", "abc", 9), "auto", 0.0, "has labels, but nothing to validate on (--store.holdout is 0)"),
        (classes_of("train/", "abc", 1), "auto", 0.1, "nothing to validate on (no class has two images)"),
        (classes_of("", "abc", 9), "none", 0.1, "has no labels (as asked)"),
        (["1.jpg", "2.jpg"], "auto", 0.1, "has no labels (1.jpg lies outside any class folder)"),
    ],
)
def test_why_there_is_no_validation_split(names: list[str], labels: str, holdout: float, why: str) -> None:
    layout = read(*names, labels=labels, holdout=holdout)
    assert layout.val is None
    assert why in layout.no_val
    assert why.split("(")[1] in layout.note


# --- class trees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["", "photos/", "home/me/photos/"])
def test_class_tree(root: str) -> None:
    layout = read(*classes_of(root, "abc", 20))
    assert layout.val is not None
    assert layout.classes == ["a", "b", "c"]
    assert [layout.val.labels.count(n) for n in range(3)] == [2, 2, 2]
    assert [layout.train.labels.count(n) for n in range(3)] == [18, 18, 18]
    assert layout.note == "60 images in 3 class folders, 6 held out for validation"


def test_held_out_images_never_train() -> None:
    layout = read(*classes_of("", "abc", 33), holdout=0.25)
    assert layout.val is not None
    train, val = ({item.name for item in split.items} for split in (layout.train, layout.val))
    assert not train & val
    assert len(train | val) == 99


def test_holdout_is_stable() -> None:
    def held(*names: str) -> set[str]:
        layout = read(*names)
        assert layout.val is not None
        return {item.name.removeprefix("photos/") for item in layout.val.items}

    base = held(*classes_of("", "ab", 50))
    assert held(*classes_of("photos/", "ab", 50)) == base  # the same pictures in a tar with a top folder
    with_another = held(*classes_of("", "abc", 50))
    assert {name for name in with_another if not name.startswith("c")} == base
    assert base == held(*reversed(classes_of("", "ab", 50)))
    grown = held(*classes_of("", "ab", 55))
    assert len(grown & base) >= len(base) - 2


@pytest.mark.parametrize(
    ("count", "holdout", "held"), [(2, 0.1, 1), (1, 0.5, 0), (2, 0.99, 1), (10, 0.0, 0), (10, 0.5, 5)]
)
def test_small_classes_keep_one_on_each_side(count: int, holdout: float, held: int) -> None:
    layout = read(*classes_of("", "ab", count), holdout=holdout)
    assert len(layout.train.items) == 2 * (count - held)
    assert (0 if layout.val is None else len(layout.val.items)) == 2 * held


def test_same_names_in_two_folders_stay_on_one_side() -> None:
    twice = [item for item in items(*classes_of("", "ab", 20)) for _ in range(2)]
    layout = arrange(twice, "auto", 0.1)
    assert layout.val is not None
    assert not {i.name for i in layout.val.items} & {i.name for i in layout.train.items}
    assert len(layout.train.items) + len(layout.val.items) == 80


# --- no labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["1.jpg", "2.jpg"], "lies outside any class folder"),
        (["a/1.jpg", "b/2.jpg", "3.jpg"], "3.jpg lies outside any class folder"),
        (["2023/05/1.jpg", "2024/2.jpg"], "2023/05/ is deeper than a class folder"),
        (["all/1.jpg", "all/2.jpg"], "lies outside any class folder"),
    ],
)
def test_no_labels(names: list[str], why: str) -> None:
    layout = read(*names)
    assert (layout.val, layout.classes) == (None, [])
    assert layout.train.labels == [-1] * len(names)
    assert f"{len(names)} images without labels" in layout.note
    assert why in layout.note


def test_labels_none() -> None:
    tree = classes_of("")
    assert content(read(*tree, labels="none")) == {"train": [(name, -1) for name in sorted(tree)]}
    split = [*classes_of("train/"), *classes_of("val/")]
    layout = read(*split, labels="none")
    assert (len(layout.train.items), layout.val, layout.classes) == (20, None, [])
    assert read(*classes_of("train/"), "val/loose.jpg", labels="none").val is None
    assert "as asked" in layout.note


def test_labels_folders() -> None:
    layout = read("a/deep/1.jpg", "a/2.jpg", "b/3.jpg", labels="folders", holdout=0)
    assert content(layout) == {"train": [("a/2.jpg", 0), ("a/deep/1.jpg", 0), ("b/3.jpg", 1)]}


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "2.jpg"],
        ["a/1.jpg", "b/2.jpg", "3.jpg"],
        ["train/1.jpg", "val/2.jpg"],
        ["train/1.jpg", "train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg"],
        ["train/a/1.jpg", "val/a/2.jpg"],
    ],
)
def test_labels_folders_where_there_are_none(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"labels from folders: .*; give --store.labels none"):
        read(*names, labels="folders")
