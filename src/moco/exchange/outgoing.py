"""What leaves a run, and what an export format is: a file written, read back and compared before it is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from moco import checkpoint
from moco.config import Config, RuntimeConfig
from moco.errors import UserError
from moco.files import atomic
from moco.folders import replaced
from moco.model.backbone import headless_shapes, library_of, library_options
from moco.model.moco import MoCo

PROBES = 3  # images that the exported file is compared on: more than one, so that the batch is seen to be free


@dataclass(frozen=True)
class Outgoing:
    """A checkpoint of a run, opened to be exported.

    Attributes:
        name: what the run's folder is called.
        model: float32, on the CPU, in evaluation mode.
        content: the checkpoint.
        mean, std: of each channel, pixels from 0 to 1: how the run's views are normalised.
        facts: what is known of the weights, by name, as plain values: accuracies, epoch, the data's fingerprint.
        licence: of the weights, as their owner says; None where nothing was said.
        bake: whether the file is to normalise pixels itself, where a format can.
    """

    name: str
    config: Config
    model: MoCo
    content: checkpoint.Content
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    facts: dict[str, Any]
    licence: str | None = None
    bake: bool = False

    @property
    def backbone(self) -> nn.Module:
        """The query encoder's, without head: (N, 3, size, size) -> (N, F)."""
        return self.model.encoder_q.backbone

    @property
    def size(self) -> int:
        """Side of an evaluation view, pixels."""
        return self.config.views.centre_size

    @cached_property
    def probe(self) -> Tensor:
        """Normalised noise, float32 (3, 3, size, size), the same in every process."""
        return torch.randn(PROBES, 3, self.size, self.size, generator=torch.Generator().manual_seed(0))

    def shared_config(self) -> dict[str, Any]:
        """The configuration without what belongs to this machine: places of data, cache and weights, `runtime`."""
        config = self.config
        model, store = replace(config.model, init=None), replace(config.store, cache=None)
        return replace(config, data=None, log=None, model=model, store=store, runtime=RuntimeConfig()).as_dict()

    def tensors(self) -> dict[str, Tensor]:
        """The backbone's state dict, contiguous: names and shapes are those of the library it comes from."""
        return {name: tensor.detach().contiguous() for name, tensor in self.backbone.state_dict().items()}


class Format(ABC):
    """A way out. A new one is a file with a subclass, and a line in `formats.py`.

    Attributes:
        name: as `--format` has it.
        file: what is written is called so in a run's export folder.
        files: where a folder is written, what is in it; empty for a file.
        tolerance: largest difference of a feature that passes, as a share of the largest feature.
    """

    name: str
    file: str
    files: tuple[str, ...] = ()
    tolerance: float = 0.0
    bakes: bool = False  # whether the file can normalise pixels itself
    licensed: bool = False  # whether the file can say the weights' licence

    @abstractmethod
    def refusal(self, run: Outgoing) -> str:
        """Why this format has no name for the run's network, and which would do; empty where it has."""

    def write(self, run: Outgoing, file: IO[bytes]) -> None:
        """Write the file."""
        raise NotImplementedError

    def write_folder(self, run: Outgoing, folder: Path) -> None:
        """Write every one of `files`."""
        raise NotImplementedError

    @abstractmethod
    def features(self, run: Outgoing, path: Path, images: Tensor) -> Tensor:
        """What comes of `images` (N, 3, size, size) through what was written at `path`, by its readers' own means."""

    def expected(self, run: Outgoing, images: Tensor) -> Tensor:
        """What is to come of them: the run's features (N, F)."""
        return run.backbone(images)

    @abstractmethod
    def usage(self, run: Outgoing, path: Path) -> list[str]:
        """Lines of Python that load it: the imports, then two."""


def write_verified(made: Format, run: Outgoing, path: Path) -> float:
    """Write `run` to `path` in a format: the largest difference of a feature that was found.

    Raises `UserError` for a network that the format can't name, for features that differ, and where the disk is full or
    read-only: nothing is left then, and what was at `path` is as it was.
    """
    complaint = made.refusal(run)
    if complaint:
        raise UserError(f"--format {made.name}: {complaint}")
    if run.bake and not made.bakes:
        raise UserError(f"--format {made.name} holds weights and no arithmetic: --preprocessing is for onnx")
    if run.licence is not None and not made.licensed:
        raise UserError(f"--format {made.name} has no place for a licence: --license is for safetensors and hf")
    if made.files:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path, made.files) as folder:
            made.write_folder(run, folder)
            return _compared(made, run, folder)
    with atomic(path) as file:
        made.write(run, file)
        file.flush()
        return _compared(made, run, Path(file.name))


@torch.no_grad()
def _compared(made: Format, run: Outgoing, path: Path) -> float:
    expected, found = made.expected(run, run.probe), made.features(run, path, run.probe)
    if found.shape != expected.shape:
        raise UserError(f"--format {made.name}: gives {tuple(found.shape)} instead of {tuple(expected.shape)}")
    difference = (found - expected).abs().max().item()
    if not difference <= made.tolerance * expected.abs().max().item():
        raise UserError(
            f"--format {made.name}: features differ by {difference:.2g} from the run's, nothing was written; "
            "--format safetensors or onnx would do"
        )
    return difference


@dataclass(frozen=True)
class Named:
    """A network as a library knows it: its name there, and what it is told beside it."""

    library: str
    bare: str
    options: dict[str, Any]

    def call(self, function: str, *more: str) -> str:
        """The Python that builds it: `function`("bare", ...)."""
        words = [f'"{self.bare}"', *more, *(f"{name}={value!r}" for name, value in self.options.items())]
        return f"{function}({', '.join(words)})"


def named_in(library: str, run: Outgoing) -> Named | None:
    """The run's network in `library`; None if it has none with these tensors under these names.

    torchvision and timm share the names of the classical ResNets and of their tensors; whether they compute the same is
    seen when the features are compared.
    """
    model = run.config.model
    own, bare = library_of(model.backbone)
    if model.small_stem:
        return None
    if own != library:
        try:
            theirs = headless_shapes(f"{library}/{bare}", run.size)
        except UserError:
            return None
        if theirs != {name: tuple(tensor.shape) for name, tensor in run.backbone.state_dict().items()}:
            return None
    return Named(library, bare, library_options(library, bare, run.size))


def not_named(library: str, run: Outgoing, say: Callable[[str], str] = "{} would do".format) -> str:
    """Why `named_in` found nothing, and what would do."""
    model = run.config.model
    if model.small_stem:
        why = f"{library} has no {model.backbone} with a 3x3 first convolution (model.small_stem)"
        return f"{why}; {say('--format safetensors or onnx')}"
    other = {"timm": "torchvision", "torchvision": "timm"}[library]
    return f"{library} has no network with the weights of {model.backbone}; {say(f'--format {other}')}"
