"""safetensors: the backbone's tensors, and beside them what is known of the weights, as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from moco.exchange.outgoing import Format, Outgoing, named_in
from moco.exchange.torchvision import beheading
from moco.model.backbone import build_backbone

RECIPE = "recipe"  # in the metadata: the configuration as JSON, which an import takes up again


class Safetensors(Format):
    """Any backbone; the names are the library's, those of a changed first convolution too."""

    name, file = "safetensors", "backbone.safetensors"
    licensed = True

    def refusal(self, run: Outgoing) -> str:
        return ""

    def write(self, run: Outgoing, file: IO[bytes]) -> None:
        from safetensors.torch import save

        file.write(save(run.tensors(), metadata(run)))

    def features(self, run: Outgoing, path: Path, images: Tensor) -> Tensor:
        from safetensors.torch import load_file

        model = run.config.model
        network = build_backbone(model.backbone, run.size, model.small_stem)
        network.load_state_dict(load_file(path), strict=True)
        return network.eval()(images)

    def usage(self, run: Outgoing, path: Path) -> list[str]:
        model = run.config.model
        load = f'net.load_state_dict(load_file("{path}"))'
        if timm := named_in("timm", run):
            build = ["import timm", f"net = {timm.call('timm.create_model', 'num_classes=0')}"]
        elif vision := named_in("torchvision", run):
            made = vision.call("torchvision.models.get_model")
            build = ["import torch, torchvision", f"net = {made}; {beheading(vision)}"]
        else:
            made = f'build_backbone("{model.backbone}", {run.size}, small_stem={model.small_stem})'
            build = ["from moco.model.backbone import build_backbone", f"net = {made}"]
        return [build[0], "from safetensors.torch import load_file", build[1], load]


def metadata(run: Outgoing) -> dict[str, str]:
    """What the header of the file says: text by name, as safetensors has it."""
    values: dict[str, Any] = {
        "backbone": run.config.model.backbone,
        "size": run.size,
        "mean": list(run.mean),
        "std": list(run.std),
        **run.facts,
        RECIPE: run.shared_config(),
        "license": run.licence or "not stated",
    }
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return {"format": "pt", "made_by": "momentum-contrast", **told}
