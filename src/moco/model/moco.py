"""Momentum Contrast (He et al. 2019, arXiv:1911.05722; v2: Chen et al. 2020, arXiv:2003.04297), on one page."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.errors import UserError
from moco.model.backbone import build_backbone, check_backbone, feature_dim
from moco.model.batchnorm import split_batchnorm
from moco.model.head import Head, prediction_head, projection_head

NO_IMAGE = -1  # a key of nobody's: a random one of the beginning


class Encoder(nn.Module):
    """Backbone, then projection head, then (queries only) predictor: (N, 3, H, W) -> (N, dim), not normalised."""

    def __init__(self, backbone: nn.Module, head: nn.Module, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.predictor = predictor

    def forward(self, images: Tensor) -> Tensor:
        embeddings = self.head(self.backbone(images))
        return embeddings if self.predictor is None else self.predictor(embeddings)


class MoCo(nn.Module):
    """Query encoder, momentum (key) encoder and the queue of keys.

    `forward` only computes. The state moves in two methods that the training step calls, in this order:

        model.update_key_encoder()         # equation 2, before the keys are made
        logits, keys = model(im_q, im_k)   # against the queue as it was
        ...                                # loss, backward, optimizer step
        model.enqueue(keys)                # the oldest keys leave

    Args:
        backbone: torchvision or timm name, or any module (N, 3, H, W) -> (N, F).
        dim: width of the embedding.
        queue_size: K, keys in the queue (v1 section 3.3: 65536).
        momentum: m of the key encoder (v1 section 3.2: 0.999).
        temperature: T (v1: 0.07; v2: 0.2).
        mlp: the v2 head.
        head: the head in full, instead of `mlp`'s.
        predictor: two more layers behind the query's head (MoCo v3, arXiv:2104.02057, section 3).
        mask_own: the state dict has the image of each key too, for the step to give `logits` the images.
        bn_splits: parts of the batch with batch-norm statistics of their own (`batchnorm.py`); in training on the CPU
            each also goes through the encoders by itself (`train/parts.py`).
        small_stem: for ResNets by name on images of about 32 px.
        size: side of the images in pixels, for networks that are built for one; default: the name's own, and any
            for a module.

    Raises:
        UserError: an unknown backbone name, or one that yields no (N, F) at that size.
    """

    queue: Tensor
    queue_ptr: Tensor
    queue_images: Tensor

    def __init__(
        self,
        backbone: str | nn.Module,
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        mlp: bool = False,
        bn_splits: int = 1,
        small_stem: bool = False,
        size: int | None = None,
        head: Head | None = None,
        predictor: bool = False,
        mask_own: bool = False,
    ) -> None:
        super().__init__()
        if dim < 1 or queue_size < 1 or bn_splits < 1:
            raise UserError(f"dim {dim}, queue_size {queue_size} and bn_splits {bn_splits} must be 1 or more")
        if not (temperature > 0 and 0 <= momentum <= 1):
            raise UserError(f"temperature {temperature} must be above 0, momentum {momentum} from 0 to 1")
        self.m = momentum
        self.T = temperature
        self.bn_splits = bn_splits
        self.mask_own = mask_own
        if isinstance(backbone, str):
            features = check_backbone(backbone, size, small_stem, bn_splits)  # before gigabytes are asked for
            network = build_backbone(backbone, size, small_stem)
        else:
            features, network = feature_dim(backbone, size), backbone
        self.feature_dim = features
        head = head or Head(layers=2 if mlp else 1)
        self.encoder_q = Encoder(network, projection_head(features, dim, head))
        if bn_splits > 1:
            split_batchnorm(self.encoder_q, bn_splits)
        self.encoder_k = copy.deepcopy(self.encoder_q)  # theta_k starts as theta_q
        self.encoder_k.requires_grad_(False)  # not updated by gradient
        if predictor:
            self.encoder_q.predictor = prediction_head(dim, head.width or features, bn_splits)
        self.register_buffer("queue", random_queue(queue_size, dim))  # (K, dim), unit rows
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))  # (1,), the oldest row
        self.register_buffer("queue_images", torch.full((queue_size,), NO_IMAGE), mask_own)  # (K,), whose each key is
        self.register_load_state_dict_pre_hook(_without_images)

    def forward(self, im_q: Tensor, im_k: Tensor, key_order: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the queries against their keys and the queue, and the keys.

        Args:
            im_q, im_k: two views of the same images, (N, 3, H, W).
            key_order: permutation (N,) that shuffles the keys between the batch-norm parts; drawn from torch's
                generator if it is not given. Without splits it is not used.

        Returns:
            logits float32 (N, 1+K), column 0 the positive, divided by T; keys float32 (N, dim), unit rows.
        """
        k = self.keys(im_k, key_order)  # (N, dim)
        return self.logits(im_q, k), k

    def logits(self, im_q: Tensor, k: Tensor, images: Tensor | None = None) -> Tensor:
        """Logits float32 (N, 1+K) of the queries' images (N, 3, H, W) against their keys `k` (N, dim) and the queue.

        With the numbers of the `images`, int64 (N,), a queued key of a query's own image is no negative of it: -inf.
        """
        q = self.encode(self.encoder_q, im_q)  # (N, dim)
        with torch.autocast(q.device.type, enabled=False):  # similarities in float32
            l_pos = (q * k).sum(1, keepdim=True)  # (N, 1)
            l_neg = q @ self.queue.T  # (N, K)
            if images is not None:
                l_neg = l_neg.masked_fill(images[:, None] == self.queue_images, -torch.inf)
            return torch.cat([l_pos, l_neg], dim=1) / self.T  # (N, 1+K), column 0 positive

    @torch.no_grad()
    def keys(self, im_k: Tensor, key_order: Tensor | None = None) -> Tensor:
        """Keys of the key encoder, float32 (N, dim), unit rows, no gradient."""
        if self.bn_splits == 1 or not self.training:
            return self.encode(self.encoder_k, im_k)
        if len(im_k) % self.bn_splits:
            raise UserError(f"a batch of {len(im_k)} doesn't divide into {self.bn_splits} batch-norm parts")
        order = torch.randperm(len(im_k), device=im_k.device) if key_order is None else key_order
        k = self.encode(self.encoder_k, im_k[order])
        return torch.empty_like(k).index_copy_(0, order, k)  # back in the queries' order

    @staticmethod
    def encode(encoder: nn.Module, images: Tensor) -> Tensor:
        """Embeddings on the unit sphere, float32 (N, dim)."""
        return F.normalize(encoder(images).float(), dim=1)

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """Equation 2: theta_k <- m theta_k + (1 - m) theta_q. Buffers are the key encoder's own."""
        theta_k: list[Tensor] = list(self.encoder_k.parameters())
        theta_q: list[Tensor] = [*self.encoder_q.backbone.parameters(), *self.encoder_q.head.parameters()]
        torch._foreach_lerp_(theta_k, theta_q, 1 - self.m)

    def enqueue(self, keys: Tensor, images: Tensor | None = None) -> None:
        """Replace the oldest keys by `keys` (n, dim), n at most K. Call it after the gradient step.

        `images` int64 (n,) are the numbers of the images that they are of, for `logits` to know.
        """
        numbers = self.queue_ptr.new_full((len(keys),), NO_IMAGE) if images is None else images
        replace_oldest(self.queue_images, self.queue_ptr.clone(), numbers)
        replace_oldest(self.queue, self.queue_ptr, keys)


def random_queue(size: int, dim: int) -> Tensor:
    """Unit rows in random directions, float32 (size, dim): what the queue holds before any key."""
    return F.normalize(torch.randn(size, dim), dim=1)


@torch.no_grad()
def replace_oldest(queue: Tensor, pointer: Tensor, keys: Tensor) -> None:
    """Write `keys` (n, ...) over the oldest rows of `queue` (K, ...), in place, and move `pointer` (1,) on.

    Any n up to K fits, at any place: writing wraps around the end. Nothing is read back to the host.
    Raises `UserError` if n is larger than K.
    """
    size = queue.shape[0]
    if len(keys) > size:
        raise UserError(f"{len(keys)} keys don't fit a queue of {size}: make model.queue_size larger")
    rows = (pointer + torch.arange(len(keys), device=queue.device)) % size
    queue.index_copy_(0, rows, keys.to(queue.dtype))
    pointer.add_(len(keys)).remainder_(size)


def info_nce(logits: Tensor) -> Tensor:
    """InfoNCE (v1 equation 1): mean loss, float32 scalar, of logits (N, 1+K) whose column 0 is the positive."""
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def _without_images(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The keys of a model that didn't know their images are nobody's."""
    assert isinstance(model, MoCo)
    if model.mask_own:
        state.setdefault(f"{prefix}queue_images", torch.full_like(model.queue_images, NO_IMAGE))
