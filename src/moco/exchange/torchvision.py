"""torchvision: a state dict that its own model without classifier loads with strict=True."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from moco.exchange.outgoing import Format, Named, Outgoing, named_in, not_named
from moco.model.backbone import without_classifier


class Torchvision(Format):
    """`torch.save` of the backbone's state dict under torchvision's names."""

    name, file = "torchvision", "torchvision.pth"

    def refusal(self, run: Outgoing) -> str:
        return "" if named_in("torchvision", run) else not_named("torchvision", run)

    def write(self, run: Outgoing, file: IO[bytes]) -> None:
        torch.save(run.tensors(), file)

    def features(self, run: Outgoing, path: Path, images: Tensor) -> Tensor:
        named = named_in("torchvision", run)
        assert named is not None
        network = headless(named)
        network.load_state_dict(torch.load(path, weights_only=True), strict=True)
        return network.eval()(images)

    def usage(self, run: Outgoing, path: Path) -> list[str]:
        named = named_in("torchvision", run)
        assert named is not None
        return [
            "import torch, torchvision",
            f"net = {named.call('torchvision.models.get_model')}; {beheading(named)}",
            f'net.load_state_dict(torch.load("{path}", weights_only=True))',
        ]


def headless(named: Named) -> nn.Module:
    """torchvision's network without its classifier, randomly initialised."""
    from torchvision import models

    return without_classifier(models.get_model(named.bare, weights=None, **named.options), named.bare)


def beheading(named: Named) -> str:
    """The statement that takes the classifier off `net`."""
    network = headless(named)
    attribute = next(name for name in ("fc", "classifier", "head", "heads") if hasattr(network, name))
    left = getattr(network, attribute)
    if isinstance(left, nn.Sequential):
        return f"net.{attribute} = net.{attribute}[:{len(left)}]"
    made = "AdaptiveAvgPool2d(1)" if isinstance(left, nn.AdaptiveAvgPool2d) else "Identity()"
    return f"net.{attribute} = torch.nn.{made}"
