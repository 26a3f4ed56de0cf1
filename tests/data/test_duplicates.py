"""Groups of duplicates, from pairs and from the doctor's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moco.data.duplicates import read_groups, shown_by
from moco.errors import UserError


def test_what_images_show_by_their_groups() -> None:
    shown, groups = shown_by(["a", "b", "c", "d", "e"], [["b", "x"], ["c", "a"], ["e", "d", "y"], ["a", "e"]])
    assert shown.tolist() == [0, 1, 0, 0, 0] and groups == 1  # through a: {a, c, d, e}


def test_without_groups_each_image_is_its_own() -> None:
    shown, groups = shown_by(["a", "b"], [])
    assert shown.tolist() == [0, 1] and groups == 0


def test_a_name_that_two_images_have_says_nothing_of_either() -> None:
    shown, groups = shown_by(["a", "b", "a", "c"], [["b", "c"]])
    assert shown.tolist() == [0, 1, 2, 1] and groups == 1
    with pytest.raises(UserError, match="mask_groups: a stands for several images"):
        shown_by(["a", "b", "a", "c"], [["a", "b"]])


def test_the_doctors_file(tmp_path: Path) -> None:
    file = tmp_path / "doctor.json"
    file.write_text(json.dumps({"exact_duplicates": [["a", "b"]], "near_duplicates": [["c", "d", "e"]]}))
    assert read_groups(file) == [["a", "b"], ["c", "d", "e"]]


@pytest.mark.parametrize("content", ["[]", "{}", '{"exact_duplicates": [1], "near_duplicates": []}', "no json"])
def test_another_file_is_a_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "doctor.json"
    file.write_text(content)
    with pytest.raises(UserError, match="mask_groups"):
        read_groups(file)
