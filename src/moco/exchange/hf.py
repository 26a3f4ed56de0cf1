"""Hugging Face: a folder that timm loads from a disk or a hub, with a model card filled from the run."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor

from moco.config import CENTRE_SHARE
from moco.exchange.outgoing import Format, Outgoing, named_in, not_named
from moco.files import write_text

_CARD = """---
{front}---

# {name}

A {backbone} pre-trained without labels by Momentum Contrast ({version}), as a feature extractor: images of {size} px
to {features} numbers each, no classifier.

```python
import timm
net = timm.create_model("local-dir:FOLDER", pretrained=True)  # or "hf-hub:USER/NAME" once it is pushed
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
```

| | |
|---|---|
{rows}

Licence of the weights: {licence}.
"""


class HuggingFace(Format):
    """`config.json`, `model.safetensors`, `README.md`."""

    name, file = "hf", "hf"
    files = ("config.json", "model.safetensors", "README.md")
    licensed = True

    def refusal(self, run: Outgoing) -> str:
        return "" if named_in("timm", run) else not_named("timm", run)

    def write_folder(self, run: Outgoing, folder: Path) -> None:
        import timm

        named = named_in("timm", run)
        assert named is not None
        network = timm.create_model(named.bare, pretrained=False, num_classes=0, **named.options)
        network.load_state_dict(run.tensors(), strict=True)
        views = {
            "input_size": [3, run.size, run.size], "mean": list(run.mean), "std": list(run.std),
            "crop_pct": CENTRE_SHARE, "crop_mode": "center", "interpolation": "bilinear",
            "num_classes": 0, "tag": "moco", "license": run.licence or "not stated",
            # timm would fill these in by what it knows of weights of its own
            "test_input_size": [3, run.size, run.size], "test_crop_pct": CENTRE_SHARE, "origin_url": "",
            "paper_ids": ["arXiv:1911.05722", "arXiv:2003.04297"],
        }  # fmt: skip
        options = {"pretrained_cfg": views, "num_classes": 0}
        if named.options:
            options["model_args"] = named.options
        timm.models.save_for_hf(network, str(folder), model_config=options, safe_serialization=True)
        shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors lets its owner alone read
        write_text(folder / "README.md", card(run))

    def features(self, run: Outgoing, path: Path, images: Tensor) -> Tensor:
        import timm

        return timm.create_model(f"local-dir:{path}", pretrained=True).eval()(images)

    def usage(self, run: Outgoing, path: Path) -> list[str]:
        return [
            "import timm",
            f"net = timm.create_model({f'local-dir:{path}'!r}, pretrained=True).eval()",
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))",
        ]


def card(run: Outgoing) -> str:
    """The model card: what was trained, on what, and what it reached."""
    config, facts = run.config, run.facts
    model = config.model
    rows = {
        "epochs, steps": f"{facts['epoch']}, {facts['step']:,}",
        "batch, queue": f"{config.train.batch_size}, {model.queue_size}",
        "temperature, momentum": f"{model.temperature:g}, {model.momentum:g}",
        "views": f"{config.views.pipeline}, {config.views.size} px",
        "pixels": f"mean {_numbers(run.mean)}, std {_numbers(run.std)}, of 0 to 1",
        **{name.replace("_", " "): f"{100 * value:.2f} %" for name, value in facts.items() if name.endswith("_top1")},
        "data, fingerprint": facts["data_fingerprint"],
    }
    front = "library_name: timm\ntags: [self-supervised, image-feature-extraction, moco]\n"
    if run.licence:
        front += f"license: {run.licence}\n"
    return _CARD.format(
        front=front,
        name=run.name,
        backbone=model.backbone,
        version="v2, MLP head" if model.mlp else "v1, linear head",
        size=run.size,
        features=run.model.feature_dim,
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        licence=run.licence or "not stated",
    )


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
