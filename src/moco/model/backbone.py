"""Backbones by name, headless: torchvision's where it has the name (the paper's code used them), else timm's.

A name is tried before it is built: `check_backbone` makes it without memory (torch's `meta` device) and steps it at
the size and in the modes it will be used in. docs/backbones.md has a member of every family.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moco.errors import UserError, nearest
from moco.model.batchnorm import split_batchnorm

USUAL_SIZE = 224  # px; what networks without a size of their own are built for
MOST_FEATURES = 32_768  # an MLP head on more would take over 4 GB; VGG's unpooled 25,088 are the most in use
_OTHER_SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 240, 256, 288, 320, 336, 384, 448, 512, 896, 1024)  # px
_NOT_MADE_FOR_IT = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, NotImplementedError)


def build_backbone(name: str, size: int | None = None, small_stem: bool = False) -> nn.Module:
    """The network `name` without its classifier, for images of `size` px: (N, 3, size, size) -> (N, F).

    Randomly initialised by torch's generator. `torchvision/NAME` or `timm/NAME` insists on a library; a bare name
    takes torchvision's if it has it. `size` None is the network's own, or 224. `small_stem` replaces a ResNet's
    first convolution and pooling for images of about 32 px, as the MoCo authors' CIFAR notebook does.
    Raises `UserError` for an unknown name.
    """
    library, bare = library_of(name)
    network = _from_torchvision(bare, size) if library == "torchvision" else _from_timm(bare, size)
    return _small_stem(network, name) if small_stem else network


def library_options(library: str, bare: str, size: int | None) -> dict[str, Any]:
    """What `library` ("torchvision" or "timm") is told beside the name `bare` to build it for images of `size` px."""
    return _torchvision_options(bare, size) if library == "torchvision" else _timm_options(bare, size)


@cache
def headless_shapes(name: str, size: int | None = None, small_stem: bool = False) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in the state dict of what `build_backbone` makes, found without memory."""
    network = _unallocated(lambda: build_backbone(name, size, small_stem))
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


@cache
def check_backbone(
    name: str, size: int | None = None, small_stem: bool = False, bn_splits: int = 1, also: tuple[int, ...] = ()
) -> int:
    """F of the network that these make, found without making it: no memory, no draw, nothing on disk.

    It is stepped on the `meta` device as it will be used: in training mode on 2 images a batch-norm part, then in
    evaluation mode; and so on images of `also`, in pixels. Raises `UserError` where that fails, with what would do.
    """

    def features(pixels: int | None) -> int:
        network = _unallocated(lambda: build_backbone(name, pixels, small_stem))
        if bn_splits > 1:
            with torch.device("meta"):
                network = split_batchnorm(network, bn_splits)
        found = _stepped(network, pixels or own_size(name), 2 * bn_splits)
        for other in also if pixels == size else ():
            _also_stepped(network, other, 2 * bn_splits, name, found)
        return found

    asked = size or own_size(name)
    try:
        return features(size)
    except _NOT_MADE_FOR_IT as error:
        complaint = _in_a_line(error)
    others = {own_size(name), *_OTHER_SIZES} - {asked}
    for other in sorted(others, key=lambda pixels: (pixels < asked, abs(pixels - asked))):  # the next larger first
        try:
            features(other)
        except _NOT_MADE_FOR_IT:
            continue
        raise UserError(f"{name} takes no images of {asked} px{complaint}: give --views.size {other}")
    raise UserError(f"{name} can't be trained here{complaint}: docs/backbones.md has one of each family that can")


def feature_dim(backbone: nn.Module, size: int | None = None) -> int:
    """F of a module that maps images (N, 3, size, size) to (N, F), by a step without data; it stays as it is.

    `size` None tries 224, 64 and 32 px. A module that can't be stepped without data gets one batch of zeros, in
    evaluation mode. Raises `UserError` if it doesn't map images to (N, F).
    """
    complaint = ""
    sizes = (USUAL_SIZE, 64, 32) if size is None else (size,)
    for pixels in sizes:
        try:
            return _features_of(backbone, pixels)
        except _NOT_MADE_FOR_IT as error:  # not made for this size: try the next
            complaint = complaint or _in_a_line(error)
    raise UserError(f"the backbone takes no images of {' or '.join(map(str, sizes))} px{complaint}")


def own_size(name: str) -> int:
    """The side in pixels that the network `name` is made for. Raises `UserError` for an unknown name."""
    import timm

    library, bare = library_of(name)
    config = timm.get_pretrained_cfg(bare) if library == "timm" else None
    return USUAL_SIZE if config is None else int(config.input_size[-1])


def library_of(name: str) -> tuple[str, str]:
    """(`torchvision` or `timm`, the bare name in it). Raises `UserError` for an unknown name."""
    import timm
    from torchvision import models

    library, _, bare = name.rpartition("/")
    if library not in ("", "timm", "torchvision"):
        raise UserError(f"unknown backbone library {library!r} in {name!r}, valid: torchvision/NAME, timm/NAME")
    ours = models.list_models(module=models)
    if library in ("", "torchvision") and bare in ours:
        return "torchvision", bare
    if library in ("", "timm") and timm.is_model(bare):
        return "timm", bare
    known = {"": [*ours, *timm.list_models()], "timm": timm.list_models(), "torchvision": ours}[library]
    raise UserError(f"unknown model.backbone {name!r}: {nearest(bare, set(known))}")


def _from_timm(bare: str, size: int | None) -> nn.Module:
    import timm

    return timm.create_model(bare, pretrained=False, num_classes=0, **_timm_options(bare, size))


def _timm_options(bare: str, size: int | None) -> dict[str, Any]:
    import timm

    config = timm.get_pretrained_cfg(bare)
    if size is not None and config is not None and config.fixed_input_size and config.input_size[-1] != size:
        return {"img_size": size}  # tables of positions are made for one size
    return {}


def _from_torchvision(bare: str, size: int | None) -> nn.Module:
    from torchvision import models

    return without_classifier(models.get_model(bare, weights=None, **_torchvision_options(bare, size)), bare)


def _torchvision_options(bare: str, size: int | None) -> dict[str, Any]:
    if bare in ("googlenet", "inception_v3"):  # their second and third classifiers answer in training, as a tuple
        return {"aux_logits": False, "init_weights": True}
    if bare.startswith("vit_"):
        return {"image_size": size or USUAL_SIZE}
    if bare.startswith("maxvit"):
        return {"input_size": (size or USUAL_SIZE,) * 2}
    return {}


def without_classifier(network: nn.Module, name: str) -> nn.Module:
    """torchvision's `network` up to its features: its classifier gone, but for what pools and normalises before it."""
    for attribute in ("fc", "classifier", "head", "heads"):
        if hasattr(network, attribute):
            setattr(network, attribute, _before_classes(getattr(network, attribute), name))
            return network
    raise UserError(f"don't know the classifier of torchvision's {name}; timm/{name} may do")


def _before_classes(classifier: nn.Module, name: str) -> nn.Module:
    if name.startswith("squeezenet"):  # classifies each place, then pools
        return nn.AdaptiveAvgPool2d(1)
    if not isinstance(classifier, nn.Sequential):
        return nn.Identity()
    if name.startswith(("vgg", "alexnet")):  # its features are the layer before the classes, not 25,088 places
        return classifier[:-1]
    if name.startswith(("convnext", "maxvit")):
        layers = list(classifier)
        first = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
        return nn.Sequential(*layers[:first])
    return nn.Identity()


def _small_stem(backbone: nn.Module, name: str) -> nn.Module:
    first = getattr(backbone, "conv1", None)
    if not (isinstance(first, nn.Conv2d) and hasattr(backbone, "maxpool")):
        raise UserError(f"model.small_stem is for ResNets, {name} has another stem")
    backbone.conv1 = nn.Conv2d(3, first.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()
    return backbone


class _ParametersWithoutMemory(TorchFunctionMode):
    """Layers' parameters on `meta`; what a constructor computes with (widths, tables of positions) stays real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.randn, torch.rand) and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _unallocated(build: Callable[[], nn.Module]) -> nn.Module:
    """The module that `build` makes, on the `meta` device; torch's generator stays where it is."""
    with torch.random.fork_rng(devices=[]):
        try:
            with _ParametersWithoutMemory():
                network = build()
        except RuntimeError as error:
            if "meta" not in str(error):
                raise
            with torch.device("meta"):  # a constructor that tries its own first layers on an image
                network = build()
    return network.to("meta")


def _without_data(module: nn.Module) -> nn.Module:
    """A copy of `module` on the `meta` device."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(module, memo)


def _stepped(network: nn.Module, size: int, batch: int) -> int:
    """F of a `meta` network, in training and in evaluation mode."""
    widths = set()
    with torch.no_grad(), torch.device("meta"):
        for training in (True, False):
            widths.add(_width(network.train(training)(torch.zeros(batch, 3, size, size)), batch))
    if len(widths) > 1:
        raise UserError(
            f"the backbone gives {' or '.join(map(str, sorted(widths)))} features: others in training than after it"
        )
    return widths.pop()


def _also_stepped(network: nn.Module, size: int, batch: int, name: str, features: int) -> None:
    """Raises `UserError` unless the network for another size gives as many `features` of images of `size` px."""
    wayout = "give another --views.early_size or --views.small_size, or none, or --views.eval_zoom 1"
    try:
        found = _stepped(network, size, batch)
    except _NOT_MADE_FOR_IT as error:
        raise UserError(f"{name}, as made here, takes no images of {size} px{_in_a_line(error)}: {wayout}") from error
    if found != features:
        raise UserError(f"{name} gives {found} features of images of {size} px, and {features} otherwise: {wayout}")


def _features_of(backbone: nn.Module, size: int) -> int:
    try:
        return _stepped(_without_data(backbone), size, batch=2)
    except _NOT_MADE_FOR_IT as error:
        if "meta" not in str(error):
            raise
    modes = [module.training for module in backbone.modules()]
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            return _width(backbone.eval()(torch.zeros(2, 3, size, size, device=device)), 2)
    finally:
        for module, training in zip(backbone.modules(), modes):
            module.training = training


def _in_a_line(error: Exception) -> str:
    words = " ".join(str(error).split())[:160]
    return f" ({words})" if words else ""


def _width(features: object, batch: int) -> int:
    """F of what a backbone made of `batch` images."""
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != batch:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"the backbone must map images (N, 3, H, W) to features (N, F), this one gives {shape}")
    if features.shape[1] > MOST_FEATURES:
        raise UserError(f"the backbone gives {features.shape[1]:,} features an image: pool them over the places first")
    return features.shape[1]
