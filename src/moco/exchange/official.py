"""The layout of facebookresearch/moco's checkpoints, written and read side by side.

    epoch, arch                    of torchvision
    state_dict                     module.encoder_q.* and module.encoder_k.*: torchvision's ResNet, its `fc` the head
                                   (v2: fc.0, ReLU, fc.2); module.queue (dim, K), unit columns; module.queue_ptr (1,)
    optimizer                      torch's SGD over the parameters of both encoders, the query encoder's first

Files of this program have one key more, `moco`, which the authors' scripts pass over: with it a run comes back whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from moco.errors import UserError
from moco.exchange.architecture import listed
from moco.exchange.incoming import Tensors, Weights, is_head
from moco.exchange.outgoing import Format, Outgoing, named_in, not_named
from moco.exchange.torchvision import headless

OWN = "moco"
QUERY, KEY = "encoder_q.", "encoder_k."


class Official(Format):
    """A checkpoint that the authors' `main_lincls.py --pretrained` and `main_moco.py --resume` take."""

    name, file = "official", "official.pth.tar"

    def refusal(self, run: Outgoing) -> str:
        named = named_in("torchvision", run)
        if named is None:
            return not_named("torchvision", run, "the authors' code has no other networks; {} would do".format)
        if not isinstance(getattr(headless(named), "fc", None), nn.Identity):
            return f"the authors' code puts its head at `fc`, which {named.bare} lacks; --format torchvision would do"
        model, features = run.config.model, run.model.feature_dim
        if (
            model.predictor
            or not is_head(run.model.encoder_q.head.state_dict())
            or model.head_width
            not in (
                None,
                features,
            )
        ):
            return "the authors' code has MoCo v1's head and v2's, not this one; --format torchvision would do"
        return ""

    def write(self, run: Outgoing, file: IO[bytes]) -> None:
        torch.save(to_official(run), file)

    def features(self, run: Outgoing, path: Path, images: Tensor) -> Tensor:
        named = named_in("torchvision", run)
        assert named is not None
        network = headless(named)
        width, hidden = run.config.model.dim, run.model.feature_dim
        last = nn.Linear(hidden, width)
        network.fc = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), last) if run.config.model.mlp else last
        prefix = "module." + QUERY
        stored: Tensors = torch.load(path, weights_only=True)["state_dict"]
        network.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
        return network.eval()(images)

    def expected(self, run: Outgoing, images: Tensor) -> Tensor:
        """The embeddings (N, dim), through the head too."""
        return run.model.encoder_q(images)

    def usage(self, run: Outgoing, path: Path) -> list[str]:
        return [
            "import torch",
            f'state = torch.load("{path}", weights_only=True)["state_dict"]',
            'query = {k[len("module.encoder_q."):]: v for k, v in state.items() if k.startswith("module.encoder_q.")}',
        ]


def to_official(run: Outgoing) -> dict[str, Any]:
    """The run's checkpoint in the authors' layout."""
    model, content = run.model, run.content
    state_dict: Tensors = {}
    for prefix, encoder in ((QUERY, model.encoder_q), (KEY, model.encoder_k)):
        tensors = {**encoder.backbone.state_dict(), **head_tensors(encoder.head)}
        state_dict |= {f"module.{prefix}{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}
    state_dict["module.queue"] = model.queue.T.contiguous()
    state_dict["module.queue_ptr"] = model.queue_ptr
    named = named_in("torchvision", run)
    assert named is not None
    found = {"epoch": len(content["state"]["rows"]), "arch": named.bare, "state_dict": state_dict}
    groups = content["optimizer"]["param_groups"]
    own: dict[str, Any] = {"config": run.shared_config()}
    if model.mask_own:
        own["queue_images"] = model.queue_images
    if run.config.optimizer.name != "sgd" or len(groups) > 1:
        return {**found, OWN: own}  # the layout has no place for another optimizer: nothing goes on from it
    own |= {name: content[name] for name in ("step", "state", "about")}
    return {**found, "optimizer": _optimizer(run), OWN: {**own, "param_groups": groups}}


def head_tensors(head: nn.Module) -> Tensors:
    """A projection head's tensors under the authors' names."""
    return {f"fc.{name}": tensor.detach() for name, tensor in head.state_dict().items()}


def _optimizer(run: Outgoing) -> dict[str, Any]:
    """SGD's state as the authors' script has it: over both encoders, of which the second gets no gradient."""
    count = sum(1 for _ in run.model.parameters())
    ours = run.content["optimizer"]
    told = {key: ours["param_groups"][0][key] for key in ("lr", "momentum", "dampening", "weight_decay", "nesterov")}
    plain = {"maximize": False, "foreach": None, "differentiable": False, "fused": None}
    return {"state": ours["state"], "param_groups": [{**told, **plain, "params": list(range(count))}]}


def from_official(content: dict[str, Any]) -> Weights | None:
    """The weights in a file of this layout; None if it is another. Raises `UserError` for names without a place."""
    stored = content.get("state_dict")
    if not isinstance(stored, dict):
        return None
    stored = {str(name).removeprefix("module."): tensor for name, tensor in stored.items()}
    if not any(name.startswith(QUERY) for name in stored):
        return None
    rest = [name for name in stored if not name.startswith((QUERY, KEY)) and name not in ("queue", "queue_ptr")]
    if rest:
        raise UserError(f"a checkpoint of facebookresearch/moco with names that have no place: {listed(rest)}")
    query, head = split_head(_below(QUERY, stored))
    key, key_head = split_head(_below(KEY, stored)) if any(name.startswith(KEY) for name in stored) else (None, None)
    own = content.get(OWN)
    version = {True: "MoCo v2", False: "MoCo v1"}[head is not None and "0.weight" in head] if head else "MoCo"
    momenta, sgd, left = _momenta(content.get("optimizer"), query, head)
    arch, epoch = content.get("arch"), content.get("epoch")
    return Weights(
        layout=f"{version} of facebookresearch/moco" + (", written by moco" if own else ""),
        backbone=query,
        head=head,
        key_backbone=key,
        key_head=key_head,
        queue=stored["queue"].T.contiguous() if "queue" in stored else None,
        queue_ptr=stored.get("queue_ptr"),
        epoch=epoch if isinstance(epoch, int) else 0,
        arch=arch if isinstance(arch, str) else None,
        momenta=momenta,
        sgd=sgd,
        left=tuple(left),
        own=own if isinstance(own, dict) else None,
    )


def _below(prefix: str, stored: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}


def split_head(encoder: Tensors) -> tuple[Tensors, Tensors | None]:
    """(backbone, head) of an encoder whose `fc` is the head: `fc` (v1) or `fc.0`, `fc.2` (v2)."""
    head = _below("fc.", encoder)
    backbone = {name: tensor for name, tensor in encoder.items() if not name.startswith("fc.")}
    if head and not is_head(head):
        raise UserError(f"a head that is neither MoCo v1's nor v2's: {listed([f'fc.{name}' for name in head])}")
    return backbone, head or None


def _momenta(
    optimizer: Any, backbone: Tensors, head: Tensors | None
) -> tuple[list[Tensor | None] | None, dict[str, float], list[str]]:
    """(buffers in the order of the query encoder's parameters, SGD's options, what was left) of its state."""
    if not isinstance(optimizer, dict):
        return None, {}, []
    moved = {**backbone, **({f"fc.{name}": tensor for name, tensor in head.items()} if head else {})}
    shapes = [t.shape for name, t in moved.items() if "running_" not in name and "num_batches" not in name]
    groups, state = optimizer.get("param_groups"), optimizer.get("state")
    if not (isinstance(groups, list) and len(groups) == 1 and isinstance(state, dict) and "momentum" in groups[0]):
        return None, {}, ["optimizer (not one group of SGD)"]
    found = [state.get(number, {}).get("momentum_buffer") for number in range(len(shapes))]
    strange = [n for n in state if n not in range(len(shapes)) and state[n].get("momentum_buffer") is not None]
    if strange or any(buffer is not None and buffer.shape != shape for buffer, shape in zip(found, shapes)):
        return None, {}, ["optimizer (its buffers are of other shapes)"]
    told = ("lr", "momentum", "weight_decay")
    return found, {name: float(groups[0][name]) for name in told if name in groups[0]}, []
