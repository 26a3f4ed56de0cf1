"""What is asked of `moco labels`: a record that the command line and Python share."""

from __future__ import annotations

from dataclasses import dataclass

from moco.config_check import wrong_types
from moco.errors import UserError


@dataclass(frozen=True)
class LabelsOptions:
    """How accuracy is measured against the number of labels.

    Attributes:
        draws: times that the labelled images are drawn anew, at each share below all.
        shares: of every class's labels, in percent, joined by commas.
        seed: of the draws.
        finetune: fine-tune the whole network, and train it from scratch, on each draw too: hours instead of seconds.
        finetune_epochs: of each of these; default: as `moco finetune` decides.
    """

    draws: int = 5
    shares: str = "1,2,5,10,20,50,100"
    seed: int = 0
    finetune: bool = False
    finetune_epochs: int | None = None

    def checked(self) -> list[float]:
        """The shares, ascending, from 0 to 1. Raises one `UserError` that lists every value that can't be right."""
        if wrong := list(wrong_types(self, "--")):
            raise UserError("; ".join(wrong))
        problems = []
        if self.draws < 1:
            problems.append(f"--draws is {self.draws}, give 1 or more")
        if self.seed < 0:
            problems.append(f"--seed is {self.seed}, give 0 or more")
        if self.finetune_epochs is not None and self.finetune_epochs < 1:
            problems.append(f"--finetune_epochs is {self.finetune_epochs}, give 1 or more")
        if self.finetune_epochs is not None and not self.finetune:
            problems.append("--finetune_epochs is of --finetune: give that too")
        percents: set[float] = set()
        try:
            percents = {float(word) for word in self.shares.split(",")}
        except ValueError:
            problems.append(f"--shares is {self.shares!r}, give percents joined by commas: 1,10,100")
        if any(not 0 < value <= 100 for value in percents):
            problems.append(f"--shares is {self.shares!r}, give percents above 0, at most 100")
        if problems:
            raise UserError("; ".join(problems))
        return [value / 100 for value in sorted(percents)]
