"""The same work by this project and by its peers, on this machine, in one run, interleaved.

    pip install -e '.[peers]'
    python benchmarks/peers.py --data IMAGENETTE [--setting small|large|wide] [--rounds 5] [--load N] [--json FILE]

`--data` takes what `moco pretrain --data` takes; what isn't a tree of files yet (tars) becomes one for the peers, in a
temporary folder. `--load N` keeps N processes busy meanwhile; `--parts` are this project's (`model.bn_splits`). Every
subject trains MoCo v2 from the image files, query and key encoder, queue of 4,096, SGD, one loss a pair:

- moco: this project, as `moco pretrain` runs it.
- lightly: LightlyDataset, MoCoV2Transform, NTXentLoss with memory bank, wired as its documentation wires it.
- loop: ImageFolder with torchvision's PIL transforms, a DataLoader and a training loop, as most repositories have it.
- compute_only: this project's step on views made beforehand: the limit.

`small`: ResNet-18, 64 px, batch 128. `large`: ResNeXt-50 32x4d, 224 px, batch 32. `wide`: ResNet-50, 224 px, batch 256.
The peers get `--workers` loader processes, persistent, so that a round never pays for their start. On a CUDA GPU they
compute in bf16 by autocast, as this project does, and copy from pinned memory without waiting.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from PIL import ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from moco.config import Config, ModelConfig, OptimizerConfig, TrainConfig, ViewsConfig
from moco.data.dataset import place
from moco.data.folder import scan
from moco.data.layout import arrange
from moco.environment import cores, describe
from moco.runs.preparing import prepare
from moco.timing.load import busy_neighbours
from moco.timing.measure import Subject, interleaved

SETTINGS = {"small": ("resnet18", 64, 128), "large": ("resnext50_32x4d", 224, 32), "wide": ("resnet50", 224, 256)}
QUEUE, DIM, LR, MOMENTUM, TEMPERATURE = 4096, 128, 0.06, 0.999, 0.2


@dataclass(frozen=True)
class Place:
    """Where a peer computes, and with how many loader processes."""

    device: torch.device
    workers: int

    def loader(self, dataset: Dataset, batch: int) -> Iterator:  # type: ignore[type-arg]
        """Batches without end."""
        made: DataLoader = DataLoader(  # type: ignore[type-arg]
            dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=self.workers,
            persistent_workers=self.workers > 0, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        return itertools.chain.from_iterable(itertools.repeat(made))

    def precision(self) -> AbstractContextManager[None]:
        """bf16 on a GPU; the peers have no choice of their own for a CPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()  # type: ignore[return-value]

    def moved(self, images: Tensor) -> Tensor:
        """`images`, there."""
        return images.to(self.device, non_blocking=True)


class LightlyPeer:
    """lightly's documented MoCo example."""

    def __init__(self, data: Path, backbone: str, size: int, batch: int, place: Place) -> None:
        from lightly.data import LightlyDataset
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad
        from lightly.transforms import MoCoV2Transform

        self.place = place
        network = getattr(torchvision.models, backbone)()
        features = network.fc.in_features
        self.backbone = nn.Sequential(*list(network.children())[:-1]).to(place.device)
        self.head = MoCoProjectionHead(features, features, DIM).to(place.device)
        self.backbone_momentum, self.head_momentum = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.head_momentum)
        dataset = LightlyDataset(str(data / "train"), transform=MoCoV2Transform(input_size=size))
        self.batches = place.loader(dataset, batch)
        self.criterion = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(QUEUE, DIM)).to(place.device)
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=LR)

    def step(self) -> None:
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.backbone_momentum, m=MOMENTUM)
        update_momentum(self.head, self.head_momentum, m=MOMENTUM)
        x_query, x_key = (self.place.moved(view) for view in next(self.batches)[0])
        with self.place.precision():
            query = self.head(self.backbone(x_query).flatten(start_dim=1))
            key = self.head_momentum(self.backbone_momentum(x_key).flatten(start_dim=1)).detach()
            loss = self.criterion(query, key)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Blur:
    """SimCLR's blur on PIL images, as the paper's code has it."""

    def __call__(self, image):  # type: ignore[no-untyped-def]
        sigma = float(torch.empty(()).uniform_(0.1, 2.0))
        return image.filter(ImageFilter.GaussianBlur(radius=sigma))


class TrainingViews:
    """Query and key view of one image."""

    def __init__(self, size: int) -> None:
        self.view = T.Compose(
            [
                T.RandomResizedCrop(size, scale=(0.2, 1.0)),
                T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                T.RandomGrayscale(p=0.2),
                T.RandomApply([Blur()], p=0.5),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __call__(self, image):  # type: ignore[no-untyped-def]
        return self.view(image), self.view(image)


class LoopPeer:
    """A DataLoader and a loop, as most repositories write it."""

    def __init__(self, data: Path, backbone: str, size: int, batch: int, place: Place) -> None:
        self.place = place
        self.q = getattr(torchvision.models, backbone)(num_classes=DIM)
        features = self.q.fc.in_features
        self.q.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(), self.q.fc)
        self.q.to(place.device)
        self.k = copy.deepcopy(self.q).requires_grad_(False)
        self.queue = F.normalize(torch.randn(DIM, QUEUE, device=place.device), dim=0)
        self.pointer = 0
        dataset = torchvision.datasets.ImageFolder(str(data / "train"), TrainingViews(size))
        self.batches = place.loader(dataset, batch)
        self.optimizer = torch.optim.SGD(self.q.parameters(), LR, momentum=0.9, weight_decay=1e-4)

    def step(self) -> None:
        im_q, im_k = (self.place.moved(view) for view in next(self.batches)[0])
        with self.place.precision():
            q = F.normalize(self.q(im_q), dim=1)
        with torch.no_grad(), self.place.precision():
            for param_q, param_k in zip(self.q.parameters(), self.k.parameters()):
                param_k.data = param_k.data * MOMENTUM + param_q.data * (1.0 - MOMENTUM)
            k = F.normalize(self.k(im_k), dim=1)
        logits = torch.cat([torch.einsum("nc,nc->n", [q, k])[:, None], q @ self.queue.clone()], dim=1) / TEMPERATURE
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.queue[:, self.pointer : self.pointer + len(k)] = k.T
        self.pointer = (self.pointer + len(k)) % QUEUE


class Ours:
    """This project's loop, one step at a time, and the same step on fixed views."""

    def __init__(self, data: str, backbone: str, size: int, batch: int, parts: int) -> None:
        config = Config(
            data=data,
            views=ViewsConfig(pipeline="v2", size=size),
            model=ModelConfig(backbone, DIM, QUEUE, MOMENTUM, TEMPERATURE, bn_splits=parts),
            optimizer=OptimizerConfig(lr=LR),
            train=TrainConfig(batch_size=batch),
        )
        prepared = prepare(config)
        self.training, self.device = prepared.training, prepared.runtime.device
        self.training.model.train()
        self.order = iter(itertools.cycle(self.training.sampler.order(0)))
        self.batch = self.training.batch(next(self.order))
        self.fixed = self.training.views(self.batch)

    def step(self) -> None:
        self.training.step(next(self.order))

    def compute_only(self) -> None:
        self.training.learn(self.fixed, self.batch)


def tree_of(spec: str, scratch: Path) -> Path:
    """A folder `train/<class>/<file>` of the training images that `spec` names: what the peers' loaders read."""
    if any(Path(spec).glob("train/*/*")):
        return Path(spec)
    layout = arrange(scan(place(spec)), "auto", 0.1, spec)
    for number, (item, label) in enumerate(zip(layout.train.items, layout.train.labels)):
        folder = scratch / "train" / (layout.classes[label] if layout.classes else "all")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}{Path(item.name).suffix}").write_bytes(item.read())
    return scratch


def subjects(
    spec: str, data: Path, setting: str, steps: int, without: list[str], parts: int, workers: int
) -> list[Subject]:
    backbone, size, batch = SETTINGS[setting]
    ours = Ours(spec, backbone, size, batch, parts)
    where = Place(ours.device, workers)
    step: dict[str, Callable[[], None]] = {"moco": ours.step, "compute_only": ours.compute_only}
    if "lightly" not in without:
        step["lightly"] = LightlyPeer(data, backbone, size, batch, where).step
    if "loop" not in without:
        step["loop"] = LoopPeer(data, backbone, size, batch, where).step

    def repeated(once: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(steps):
                once()
            if ours.device.type == "cuda":
                torch.cuda.synchronize()

        return run

    return [Subject(name, repeated(once), steps * batch) for name, once in step.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--setting", choices=SETTINGS, default="small")
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--without", nargs="*", default=[], choices=["lightly", "loop"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = tree_of(args.data, Path(scratch))
        measured = subjects(args.data, data, args.setting, args.steps, args.without, args.parts, args.workers)
        with busy_neighbours(args.load):
            found = interleaved(measured, args.rounds)
    about = describe()
    sets = " ".join(about["instruction_sets"])
    gpus = "".join(f"{gpu}; " for gpu in about["gpus"])
    print(f"{gpus}{about['processor']}, {about['cores']} cores, {sets}; torch {torch.__version__}")
    for name, figure in found.items():
        print(f"{name:>14}: {figure.median:8.1f} samples/s  ({figure.low:.1f} to {figure.high:.1f}, n={figure.rounds})")
    if args.json:
        rates = {name: vars(figure) for name, figure in found.items()}
        setting = {"setting": args.setting, "load": args.load, "parts": args.parts, "workers": args.workers}
        args.json.write_text(json.dumps({**setting, "rates": rates, "about": about}, indent=1))


if __name__ == "__main__":
    main()
