"""timm: a state dict that its own headless model loads with strict=True."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from moco.exchange.outgoing import Format, Outgoing, named_in, not_named


class Timm(Format):
    """`torch.save` of the backbone's state dict under timm's names."""

    name, file = "timm", "timm.pth"

    def refusal(self, run: Outgoing) -> str:
        return "" if named_in("timm", run) else not_named("timm", run)

    def write(self, run: Outgoing, file: IO[bytes]) -> None:
        torch.save(run.tensors(), file)

    def features(self, run: Outgoing, path: Path, images: Tensor) -> Tensor:
        import timm

        named = named_in("timm", run)
        assert named is not None
        network = timm.create_model(named.bare, pretrained=False, num_classes=0, **named.options)
        network.load_state_dict(torch.load(path, weights_only=True), strict=True)
        return network.eval()(images)

    def usage(self, run: Outgoing, path: Path) -> list[str]:
        named = named_in("timm", run)
        assert named is not None
        return [
            "import timm, torch",
            f"net = {named.call('timm.create_model', 'num_classes=0')}",
            f'net.load_state_dict(torch.load("{path}", weights_only=True))',
            "net.reset_classifier(10)  # to fine-tune it on 10 classes",
        ]
