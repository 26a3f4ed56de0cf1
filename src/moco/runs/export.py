"""Weights out: a run's checkpoint in the format of another tool, verified before it is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.checkpoint import Content
from moco.console import say
from moco.errors import UserError
from moco.evaluators.proof import fingerprint
from moco.exchange.formats import check_format, find_format
from moco.exchange.outgoing import Format, Outgoing, write_verified
from moco.files import locked
from moco.model.moco import MoCo
from moco.results import LinearResult
from moco.runs.trained import Run, open_model
from moco.tables import Row
from moco.views.pipelines import scaling


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the file or folder.
        format: by its name.
        difference: the largest of a feature between the file and the run, on three images of noise.
        usage: lines of Python that load it.
    """

    path: Path
    format: str
    difference: float
    usage: list[str]


def export(
    run: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str] | None = None,
    checkpoint: str = "last",
    license: str | None = None,
    preprocessing: bool = False,
) -> Exported:
    """Write a run's weights for other tools.

    Args:
        run: the run's path, or the run.
        format: `torchvision`, `timm`, `safetensors`, `official`, `onnx`, `detectron2` or `hf`.
        out: a new file (a folder for `hf`); default below `export` in the run, where an earlier one is replaced.
        checkpoint: `last`, `best`, or the number of an epoch whose checkpoint was kept.
        license: of the weights, by its SPDX name, for formats that say it.
        preprocessing: bake the pixels' normalisation in: `onnx` then takes uint8 RGB (N, size, size, 3).

    Raises:
        UserError: the format can't name the network (with the one that would do), its features would differ from the
            run's, or `out` is taken; nothing was written.
    """
    check_format(format)
    opened, content, model = open_model(run, checkpoint)
    made = find_format(format)
    own = opened.folder.export / made.file
    path = own if out is None else Path(out)
    if path != own:
        _check_free(path, made)
    views = scaling(opened.config.views)
    name = opened.path.resolve().name
    facts = _facts(opened, content, model)
    outgoing = Outgoing(name, opened.config, model, content, views.mean, views.std, facts, license, preprocessing)
    with locked(opened.path / ".export.lock", f"another `moco export` is at work in {opened.path}: wait for it"):
        difference = write_verified(made, outgoing, path)
    say(f"{path}: features equal the run's" + (f" to {difference:.1e}" if difference else ", bit for bit"))
    return Exported(path, format, difference, made.usage(outgoing, path))


def _check_free(path: Path, made: Format) -> None:
    """Raises `UserError` where something is at `path`: only the run's own exports are ever replaced."""
    if made.files and path.is_dir() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        raise UserError(f"--out {path} is there already: give another, or remove it")
    if path.suffix == "" and not made.files and str(path).endswith(os.sep):
        raise UserError(f"--out {path} is a folder, --format {made.name} writes a file: {path / made.file}, say")


def _facts(run: Run, content: Content, model: MoCo) -> dict[str, Any]:
    """What is known of the weights: where they stand, and what was measured of just them."""
    rows: list[Row] = content["state"]["rows"]
    data = content["about"]["data"]
    facts: dict[str, Any] = {
        "step": content["step"],
        "epoch": len(rows),
        "data_fingerprint": data["train"] if data else "unknown",
    }
    per_epoch = rows[-1].get("step") if rows else None
    if per_epoch == content["step"] and run.config.monitor.encoder == "query":  # what is exported
        measured = ("knn_top1", "logistic_val_top1")
        facts |= {name: rows[-1][name] for name in measured if rows[-1].get(name) is not None}
    file = run.folder.linear / "result.json"
    if file.is_file():
        linear = LinearResult.load(file)
        if linear.data_sha256 == data and linear.backbone_sha256 == fingerprint(model.encoder_q.backbone):
            facts["linear_val_top1"] = linear.val_top1
    return facts
