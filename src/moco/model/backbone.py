"""Backbones by name, headless: torchvision's where it has the name (the paper's code used them), else timm's."""

from __future__ import annotations

import torch
from torch import nn

from moco.errors import UserError, nearest

_PROBE_SIZES = (224, 64, 32)  # px; a fixed-size network takes one of them


def build_backbone(name: str, small_stem: bool = False) -> nn.Module:
    """The network `name` without its classifier: (N, 3, H, W) -> (N, F), randomly initialised.

    `torchvision/NAME` or `timm/NAME` insists on a library; a bare name takes torchvision's if it has it.
    `small_stem` replaces a ResNet's first convolution and pooling for images of about 32 px, as the MoCo
    authors' CIFAR notebook does. Raises `UserError` for an unknown name.
    """
    import timm
    from torchvision import models

    library, _, bare = name.rpartition("/")
    if library not in ("", "timm", "torchvision"):
        raise UserError(f"unknown backbone library {library!r} in {name!r}, valid: torchvision/NAME, timm/NAME")
    ours = models.list_models(module=models)
    if library in ("", "torchvision") and bare in ours:
        backbone = _without_classifier(models.get_model(bare, weights=None), bare)
    elif library in ("", "timm") and timm.is_model(bare):
        backbone = timm.create_model(bare, pretrained=False, num_classes=0)
    else:
        known = {"": [*ours, *timm.list_models()], "timm": timm.list_models(), "torchvision": ours}[library]
        raise UserError(f"unknown model.backbone {name!r}: {nearest(bare, known)}")
    return _small_stem(backbone, name) if small_stem else backbone


def feature_dim(backbone: nn.Module) -> int:
    """F, found by one forward pass in evaluation mode. Raises `UserError` if it doesn't map images to (N, F)."""
    training = backbone.training
    backbone.eval()
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    complaint = ""
    try:
        for size in _PROBE_SIZES:
            try:
                with torch.no_grad():
                    features = backbone(torch.zeros(1, 3, size, size, device=device))
            except (RuntimeError, ValueError, AssertionError) as error:  # not made for this size: try the next
                complaint = complaint or " ".join(str(error).split())[:200]
                continue
            if not isinstance(features, torch.Tensor) or features.ndim != 2:
                raise UserError("the backbone must map images (N, 3, H, W) to features (N, F)")
            return features.shape[1]
    finally:
        backbone.train(training)
    raise UserError(f"the backbone takes no images of {_PROBE_SIZES} px: {complaint}")


def _without_classifier(network: nn.Module, name: str) -> nn.Module:
    for attribute in ("fc", "classifier", "head", "heads"):
        if hasattr(network, attribute):
            setattr(network, attribute, nn.Identity())
            return network
    raise UserError(f"don't know the classifier of torchvision's {name}; timm/{name} may do")


def _small_stem(backbone: nn.Module, name: str) -> nn.Module:
    first = getattr(backbone, "conv1", None)
    if not (isinstance(first, nn.Conv2d) and hasattr(backbone, "maxpool")):
        raise UserError(f"model.small_stem is for ResNets, {name} has another stem")
    backbone.conv1 = nn.Conv2d(3, first.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()
    return backbone
