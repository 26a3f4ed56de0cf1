"""The table of docs/backbones.md: the smallest member of every family, at 64 and at 224 px.

python -m tests.model.backbone_table            # compares the page with what this torchvision and timm do
python -m tests.model.backbone_table --write    # writes it anew, in some ten minutes
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torchvision import models

from moco.errors import UserError
from moco.model.backbone import check_backbone, own_size

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
SIZES = (64, 224)  # px
HEAD = "| family | smallest | its size | F | 64 px | 224 px |\n|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """A line of the table: `answers` are `yes`, or the size to give instead, one for each of `SIZES`."""

    family: str
    name: str
    own_size: int
    features: int
    answers: tuple[str, ...]

    def line(self) -> str:
        return f"| {self.family} | {self.name} | {self.own_size} | {self.features} | {' | '.join(self.answers)} |\n"


def written() -> list[Row]:
    """The rows of the page."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines()]
    return [Row(c[0], c[1], int(c[2]), int(c[3]), tuple(c[4:])) for c in cells if len(c) == 6 and "/" in c[1]]


def families() -> dict[str, list[str]]:
    """Every family, `library/module`, and the names in it."""
    found = {f"timm/{module}": [f"timm/{name}" for name in timm.list_models(module=module)]
             for module in timm.list_modules()}  # fmt: skip
    for name in models.list_models(module=models):
        module = models.get_model_builder(name).__module__.rpartition(".")[2]
        found.setdefault(f"torchvision/{module}", []).append(f"torchvision/{name}")
    return found


def answer(name: str, size: int) -> tuple[str, int | None]:
    """(`yes` or the size to give instead, F if it works)."""
    try:
        return "yes", check_backbone(name, size)
    except UserError as error:
        advice = str(error).rpartition("give --views.size ")[2]
        return (f"no: {advice}" if advice.isdigit() else "no"), None


def smallest(names: list[str]) -> str:
    """The name with the fewest parameters."""
    return min(names, key=_parameters)


def _parameters(name: str) -> int:
    library, _, bare = name.partition("/")
    if library == "torchvision":
        weights = models.get_model_weights(bare)
        return min(weight.meta["num_params"] for weight in weights)
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(bare, pretrained=False, num_classes=0).parameters())


def row_of(family: str, name: str) -> Row:
    answers = [answer(name, size) for size in SIZES]
    features = next((f for _, f in answers if f), None) or check_backbone(name, own_size(name))
    return Row(family, name, own_size(name), features, tuple(words for words, _ in answers))


def main() -> int:
    if "--write" in sys.argv:
        rows = [row_of(family, smallest(names)) for family, names in sorted(families().items())]
        before, _, _ = PAGE.read_text().partition("| family |")
        PAGE.write_text(before + HEAD + "".join(row.line() for row in rows))
        return 0
    wrong = [row.family for row in written() if row_of(row.family, row.name) != row]
    print("\n".join(wrong) or "the page is true")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
