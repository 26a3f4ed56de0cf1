"""Convolutions with small maps: oneDNN's against products of matrices, on one CPU thread.

    python benchmarks/small_maps.py [--batch 64] [--rounds 7] [--precision float32]

For layers of ResNet-18 and ResNet-50 at several sizes of their maps: milliseconds of forward and backward (of weights
and inputs), medians of interleaved rounds, and how often the one goes into the other. All maps of up to 7x7 are taken,
also those that training leaves to oneDNN.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial

import torch
from torch import Tensor, nn

from moco.environment import describe
from moco.model import small_maps
from moco.model.small_maps import LARGEST, multiply_small_maps
from moco.timing.measure import Subject, interleaved

# (inputs, outputs, kernel, stride) and sides of the incoming map
LAYERS = [
    ((512, 512, 3, 1), (1, 2, 3, 4, 5, 7)),
    ((256, 512, 3, 2), (2, 4, 8, 14)),
    ((256, 256, 3, 1), (2, 4, 7)),
    ((128, 128, 3, 1), (4, 7)),
    ((256, 512, 1, 2), (4, 8)),
    ((2048, 512, 1, 1), (2, 7)),
]


def passes(layer: nn.Module, images: Tensor, bf16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        made = layer(images)
    made.backward(made.detach())


def times(plain: nn.Conv2d, side: int, batch: int, rounds: int, bf16: bool) -> tuple[float, float]:
    """Milliseconds by oneDNN and by products."""
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours = copy.deepcopy(plain)
    multiply_small_maps(ours)
    images = torch.randn(batch, plain.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    images = (images.bfloat16() if bf16 else images).requires_grad_()
    subjects = [
        Subject(name, partial(passes, layer, images, bf16), 1) for name, layer in (("one", plain), ("product", ours))
    ]
    found = interleaved(subjects, rounds)
    return 1000 / found["one"].median, 1000 / found["product"].median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    small_maps.LARGEST_BF16 = LARGEST
    about = describe()
    print(f"{about['processor']}, {', '.join(about['instruction_sets'])}; {args.precision}, batch {args.batch}\n")
    print("| convolution | map | oneDNN, ms | product, ms | times |\n|---|---|---|---|---|")
    for (inputs, outputs, kernel, stride), sides in LAYERS:
        for side in sides:
            layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            one, product = times(layer, side, args.batch, args.rounds, args.precision == "bf16")
            what = f"{inputs} to {outputs}, {kernel}x{kernel}" + (f", stride {stride}" if stride > 1 else "")
            print(f"| {what} | {side}x{side} | {one:.1f} | {product:.1f} | {one / product:.1f} |", flush=True)


if __name__ == "__main__":
    main()
