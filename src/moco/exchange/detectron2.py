"""detectron2: the pickle of numpy arrays that its C4 and FPN configurations start from.

The names are those that the MoCo authors' converter (detection/convert-pretrain-to-detectron2.py) makes of their
checkpoints: detectron2 counts stages from 2 and calls a batch-norm the `norm` of its convolution.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from moco.exchange.architecture import RESNETS
from moco.exchange.official import head_tensors
from moco.exchange.outgoing import Format, Outgoing, named_in
from moco.exchange.torchvision import headless


class Detectron2(Format):
    """ResNets, by the names that detectron2 has for them."""

    name, file = "detectron2", "detectron2.pkl"

    def refusal(self, run: Outgoing) -> str:
        named = named_in("torchvision", run)
        if named is not None and named.bare in RESNETS:
            return ""
        stem = " with a 3x3 first convolution (model.small_stem)" if run.config.model.small_stem else ""
        return f"detectron2 reads ResNets, not {run.config.model.backbone}{stem}; --format safetensors or onnx would do"

    def write(self, run: Outgoing, file: IO[bytes]) -> None:
        tensors = {**run.tensors(), **head_tensors(run.model.encoder_q.head)}
        arrays = {detectron2_name(name): tensor.numpy() for name, tensor in tensors.items()}
        pickle.dump({"model": arrays, "__author__": "MOCO", "matching_heuristics": True}, file)

    def features(self, run: Outgoing, path: Path, images: Tensor) -> Tensor:
        named = named_in("torchvision", run)
        assert named is not None
        network = headless(named)
        arrays = read_arrays(path.read_bytes())["model"]
        names = network.state_dict()
        network.load_state_dict({name: torch.from_numpy(arrays[detectron2_name(name)]) for name in names}, strict=True)
        return network.eval()(images)

    def usage(self, run: Outgoing, path: Path) -> list[str]:
        return [
            "from detectron2.config import get_cfg",
            "cfg = get_cfg(); cfg.merge_from_file(CONFIG)  # R_50_C4 or R_50_FPN, with SyncBN, INPUT.FORMAT RGB",
            f'cfg.MODEL.WEIGHTS = "{path}"  # and cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False',
        ]


def detectron2_name(name: str) -> str:
    """What detectron2 calls a tensor of torchvision's ResNets."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for stage in (1, 2, 3, 4):
        name = name.replace(f"layer{stage}", f"res{stage + 1}")
    for number in (1, 2, 3):
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


class _Arrays(pickle.Unpickler):
    """Reads numpy arrays and plain containers, and no other class."""

    _allowed: tuple[str, ...] = ("dtype", "ndarray", "_reconstruct", "_frombuffer", "scalar")

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self._allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def read_arrays(data: bytes) -> dict[str, Any]:
    """The file's dictionary. Raises `pickle.UnpicklingError` that names any class but numpy's arrays."""
    return _Arrays(io.BytesIO(data)).load()
