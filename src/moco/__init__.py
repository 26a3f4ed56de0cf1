"""Momentum Contrast (MoCo v1/v2): from a folder of images to a tested backbone.

Every command is a function first, offered here and imported on first use, so that `import moco` costs nothing:

    run = moco.pretrain(moco.recipe("imagenette-cpu", data="photos"), out="runs/a")
    backbone, preprocess = moco.load_backbone(run)
    scores = moco.linear(run)

`moco.MoCo` is the model for people who bring their own loop. The types stand in `__init__.pyi`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "MoCo": "moco.model.moco",
    "Config": "moco.config",
    "UserError": "moco.errors",
    "recipe": "moco.runs.recipe",
    "pretrain": "moco.runs.pretrain",
    "resume": "moco.runs.pretrain",
    "Run": "moco.runs.trained",
    "open_run": "moco.runs.trained",
    "load_backbone": "moco.runs.trained",
    "linear": "moco.runs.linear",
    "LinearOptions": "moco.evaluators.linear_options",
    "evaluate": "moco.runs.evaluate",
    "verify": "moco.runs.verify",
    "doctor": "moco.runs.doctor",
    "embed": "moco.runs.embed",
    "search": "moco.runs.search",
    "finetune": "moco.runs.finetune",
    "resume_finetune": "moco.runs.finetune",
    "load_finetuned": "moco.runs.finetune",
    "FinetuneOptions": "moco.runs.finetune_options",
    "labels": "moco.runs.labels",
    "LabelsOptions": "moco.runs.labels_options",
    "export": "moco.runs.export",
    "import_weights": "moco.runs.import_weights",
    "preview": "moco.runs.preview",
    "report": "moco.runs.report",
    "list_runs": "moco.runs.listing",
    "compare_runs": "moco.runs.listing",
    "pack": "moco.runs.pack",
    "list_stores": "moco.runs.cache",
    "prune_stores": "moco.runs.cache",
    "submit": "moco.runs.submit",
    "SlurmOptions": "moco.runs.slurm_options",
    "bench": "moco.runs.bench",
    "Silent": "moco.console",
    "listening": "moco.console",
}
__all__ = ["__version__"]
__all__ += list(_PLACES)


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'moco' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
