"""lightly and solo-learn training MoCo for a few steps on noise, and writing the checkpoint that they write.

Started as a program of its own, so that these libraries stay out of the tests' process, and so that solo-learn can
live in an environment of its own, as its pins of torch and Lightning want it:

    python -m venv solo
    solo/bin/pip install torch torchvision timm scipy tqdm einops matplotlib
    solo/bin/pip install --no-deps solo-learn==1.0.2 lightning-bolts==0.7.0 pytorch-lightning==1.9.5 \
        lightning-fabric==1.9.5 torchmetrics==0.11.4 lightning-utilities
    MOCO_SOLO_PYTHON=solo/bin/python pytest tests/exchange/test_libraries.py
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

EPOCHS, BATCH, QUEUE, DIM = 2, 8, 24, 16


def lightly() -> Any:
    """lightly's documented MoCo example (docs.lightly.ai, "MoCo"): a LightningModule of four networks and a bank."""
    os.environ["LIGHTLY_DID_VERSION_CHECK"] = "True"  # it asks its server otherwise
    import torchvision
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from pytorch_lightning import LightningModule

    class Example(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
            self.projection_head = MoCoProjectionHead(512, 512, DIM)
            self.backbone_momentum = copy.deepcopy(self.backbone)
            self.projection_head_momentum = copy.deepcopy(self.projection_head)
            deactivate_requires_grad(self.backbone_momentum)
            deactivate_requires_grad(self.projection_head_momentum)
            self.criterion = NTXentLoss(memory_bank_size=(QUEUE, DIM))

        def training_step(self, batch: Any, number: int) -> Any:
            update_momentum(self.backbone, self.backbone_momentum, m=0.9)
            update_momentum(self.projection_head, self.projection_head_momentum, m=0.9)
            (x_query, x_key), _ = batch
            query = self.projection_head(self.backbone(x_query).flatten(start_dim=1))
            key = self.projection_head_momentum(self.backbone_momentum(x_key).flatten(start_dim=1)).detach()
            return self.criterion(query, key)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.06)

    return Example()


def sololearn() -> Any:
    """solo-learn's MoCo v2+, by its own class."""
    import numpy as np
    from solo.methods.mocov2plus import MoCoV2Plus

    np.Inf = np.inf  # type: ignore[attr-defined]  # Lightning 1.9 was written for NumPy 1

    class Adapted(MoCoV2Plus):  # type: ignore[misc]
        """Lightning gave this hook an argument more until 1.5."""

        def on_train_batch_end(self, outputs: Any, batch: Any, number: int, dataloader_idx: int = 0) -> None:
            super().on_train_batch_end(outputs, batch, number, dataloader_idx)

    return Adapted(
        proj_output_dim=DIM, proj_hidden_dim=40, temperature=0.2, queue_size=QUEUE, base_tau_momentum=0.99,
        final_tau_momentum=1.0, momentum_classifier=False, encoder="resnet18", num_classes=4,
        backbone_args={"cifar": False, "zero_init_residual": False}, max_epochs=EPOCHS, batch_size=BATCH,
        optimizer="sgd", lars=False, lr=0.03, weight_decay=1e-4, classifier_lr=0.1, exclude_bias_n_norm=False,
        accumulate_grad_batches=1, extra_optimizer_args={}, scheduler="none", min_lr=0.0, warmup_start_lr=0.0,
        warmup_epochs=0, num_large_crops=2, num_small_crops=0,
    )  # fmt: skip


def batch_for(library: str) -> Any:
    """Two views of noise with labels, in the order that each library's loader gives them."""
    views, labels = [torch.randn(BATCH, 3, 32, 32) for _ in range(2)], torch.arange(BATCH) % 4
    return (views, labels) if library == "lightly" else [torch.arange(BATCH), views, labels]


def main(library: str, out: Path) -> None:
    """Train, with checkpoints as Lightning writes them; beside them the weights alone, and features of a picture."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = lightly() if library == "lightly" else sololearn()
    import pytorch_lightning as pl

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    at_the_end_of_epochs = pl.callbacks.ModelCheckpoint(dirpath=str(out), save_last=True)
    trainer = pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", devices=1, callbacks=[at_the_end_of_epochs], **quiet)
    trainer.fit(model, DataLoader([batch_for(library) for _ in range(2)], batch_size=None))
    trainer.save_checkpoint(out / "afterwards.ckpt")
    backbone = (model.backbone if library == "lightly" else model.encoder).eval()
    picture = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = backbone(picture).flatten(1)
    told = {"picture": picture, "features": features, "queue": getattr(model, "queue", None)}
    torch.save({name: tensor for name, tensor in told.items() if tensor is not None}, out / "told.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
