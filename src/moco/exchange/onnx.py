"""ONNX by torch's dynamo exporter: the backbone as a graph that runs without torch, for any number of images."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from moco.errors import UserError, in_a_line
from moco.exchange.outgoing import Format, Outgoing

INPUT, OUTPUT = "images", "features"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Format):
    """`images` (N, 3, size, size), normalised; or, with the preprocessing baked in, uint8 RGB (N, size, size, 3)."""

    name, file = "onnx", "backbone.onnx"
    tolerance = 1e-4
    bakes = True

    def refusal(self, run: Outgoing) -> str:
        return ""

    def write(self, run: Outgoing, file: IO[bytes]) -> None:
        _check_installed()
        network: nn.Module = _Normalised(run) if run.bake else run.backbone
        with _quiet():
            try:
                program = torch.onnx.export(
                    network.eval(), (_input(run, run.probe),), dynamo=True, input_names=[INPUT], output_names=[OUTPUT],
                    dynamic_shapes=({0: torch.export.Dim("N")},), external_data=False, verbose=False,
                )  # fmt: skip
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                raise UserError(
                    f"torch can't export {run.config.model.backbone} to ONNX: {in_a_line(error)}"
                ) from error
        assert program is not None
        file.write(program.model_proto.SerializeToString())

    def features(self, run: Outgoing, path: Path, images: Tensor) -> Tensor:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        pixels = _input(run, images).numpy()
        parts = [session.run([OUTPUT], {INPUT: some})[0] for some in (pixels[:1], pixels[1:])]  # batches of two sizes
        return torch.cat([torch.from_numpy(part) for part in parts])

    def expected(self, run: Outgoing, images: Tensor) -> Tensor:
        return run.backbone(_scaled(run, _input(run, images)) if run.bake else images)

    def usage(self, run: Outgoing, path: Path) -> list[str]:
        takes = f"uint8 RGB (N, {run.size}, {run.size}, 3)" if run.bake else f"float32 (N, 3, {run.size}, {run.size})"
        return [
            "import onnxruntime",
            f'session = onnxruntime.InferenceSession("{path}")',
            f'features = session.run(None, {{"{INPUT}": images}})[0]  # images: {takes}',
        ]


class _Normalised(nn.Module):
    """The backbone behind the scaling of its pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, run: Outgoing) -> None:
        super().__init__()
        self.backbone = run.backbone
        self.register_buffer("mean", torch.tensor(run.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(run.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)


def _input(run: Outgoing, images: Tensor) -> Tensor:
    """What the graph takes, of normalised `images` (N, 3, H, W): themselves, or pixels like them."""
    if not run.bake:
        return images
    mean, std = torch.tensor(run.mean)[:, None, None], torch.tensor(run.std)[:, None, None]
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _scaled(run: Outgoing, pixels: Tensor) -> Tensor:
    mean, std = torch.tensor(run.mean)[:, None, None], torch.tensor(run.std)[:, None, None]
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install {' '.join(missing)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and logs what its registry lacks: none of it is about this network."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
