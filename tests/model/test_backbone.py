"""Backbones by name: tried without memory at the size they train at, one of every family."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

import pytest
import torch
from tests.model.backbone_table import PAGE, Row, answer, families, written
from torch import Tensor, nn

from moco import MoCo
from moco.errors import UserError
from moco.model.backbone import build_backbone, check_backbone, feature_dim

# sha256, 16 digits, of `MoCo(name, 16, 32, mlp=True)` after manual_seed(7) in torch 2.14, before sizes were asked for.
FIRST_WEIGHTS = {
    "resnet18": "b406aa1b27134f4e",
    "resnext50_32x4d": "29eb1a2e57497b0a",
    "timm/test_resnet": "f80bf6c44e7d2f30",
    "mobilenet_v3_small": "a8b9a31c94c90cef",
    "timm/vit_tiny_patch16_224": "ccc64dba846f8625",
    "timm/convnext_atto": "1ba0fcb9a3b5d7fb",
}


def digest(model: nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("name", FIRST_WEIGHTS)
def test_the_first_weights_of_a_seed_stay_what_they_were(name: str) -> None:
    """Trying the network draws nothing; another torch may draw otherwise, then the size alone must change nothing."""
    found = set()
    for options in ({}, {"size": 224}):
        check_backbone.cache_clear()
        torch.manual_seed(7)
        found.add(digest(MoCo(name, 16, 32, mlp=True, **options)))  # type: ignore[arg-type]
    assert len(found) == 1
    if torch.__version__.startswith("2.14."):
        assert found == {FIRST_WEIGHTS[name]}


def test_the_small_stem_and_split_batchnorm_keep_their_first_weights() -> None:
    torch.manual_seed(7)
    model = MoCo("resnet18", 16, 32, mlp=True, small_stem=True, bn_splits=8)
    if torch.__version__.startswith("2.14."):
        assert digest(model) == "c64e8cc59ee65839"


@pytest.mark.parametrize("row", written(), ids=lambda row: row.family)
def test_the_page_says_what_each_family_does_at_64_px(row: Row) -> None:
    assert answer(row.name, 64) == (row.answers[0], row.features if row.answers[0] == "yes" else None)


@pytest.mark.parametrize(
    "row", [row for row in written() if row.answers[0] != "yes" == row.answers[1]], ids=lambda row: row.family
)
def test_families_refused_at_64_px_that_the_page_gives_at_224(row: Row) -> None:
    assert answer(row.name, 224) == ("yes", row.features)


def test_the_page_has_every_family() -> None:
    if version("timm") not in PAGE.read_text() or version("torchvision").split("+")[0] not in PAGE.read_text():
        pytest.skip("the page is about other versions")
    found = families()
    rows = {row.family: row.name for row in written()}
    assert rows.keys() == found.keys()
    assert [name for family, name in rows.items() if name not in found[family]] == []


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm/vit_tiny_patch16_224", 64),
        ("timm/vit_small_patch16_384", 48),
        ("timm/swin_tiny_patch4_window7_224", 64),
        ("convnext_tiny", 64),
        ("googlenet", 64),
        ("squeezenet1_1", 64),
    ],
)
def test_what_a_check_promises_a_real_network_does(name: str, size: int) -> None:
    """In training mode with gradients, then in evaluation mode."""
    backbone = build_backbone(name, size).train()
    features = backbone(torch.rand(2, 3, size, size))
    features.sum().backward()
    assert features.shape == (2, check_backbone(name, size))
    with torch.no_grad():
        assert backbone.eval()(torch.rand(1, 3, size, size)).shape == (1, features.shape[1])
    assert feature_dim(backbone, size) == features.shape[1]


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("timm/vit_small_patch16_384", 384, 384),
        ("timm/vit_small_patch16_384", None, 384),
        ("timm/vit_small_patch16_384", 224, 384),
        ("maxvit_t", 224, 512),
        ("inception_v3", 80, 2048),
        ("vgg11", 64, 4096),
        ("googlenet", 32, 1024),
    ],
)
def test_features_by_name_and_size(name: str, size: int | None, features: int) -> None:
    assert check_backbone(name, size) == features


@pytest.mark.parametrize(
    ("name", "size", "advice"),
    [
        ("inception_v3", 64, "give --views.size 80"),
        ("maxvit_t", 64, "give --views.size 224"),
        ("vit_b_16", 100, "give --views.size 112"),
        ("timm/crossvit_tiny_240", 224, "give --views.size 240"),
        ("alexnet", 32, "give --views.size 64"),
    ],
)
def test_a_size_that_does_not_do_names_one_that_does(name: str, size: int, advice: str) -> None:
    with pytest.raises(UserError, match=advice) as caught:
        MoCo(name, 16, 32, size=size)
    assert "\n" not in str(caught.value)
    assert check_backbone(name, int(advice.split()[-1])) > 0


def test_a_network_for_one_size_has_no_other() -> None:
    assert check_backbone("resnet18", 64, also=(32, 48)) == 512
    with pytest.raises(UserError, match=r"takes no images of 32 px .*give another --views\.early_size or"):
        check_backbone("vit_tiny_patch16_224", 64, also=(32,))


def test_trying_a_network_takes_no_memory_and_no_draw() -> None:
    """632 million parameters; the generator stays where it was."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check_backbone.cache_clear()
    assert check_backbone("vit_h_14", 224) == 1280
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", ["timm/test_byobnet"])
def test_batchnorm_that_can_not_be_split_is_refused_before_anything_is_built(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.bn_splits") as caught:
        check_backbone(name, 64, bn_splits=2)
    assert "\n" not in str(caught.value)


class Own(nn.Module):
    """A network of a user's: `shape` of what it gives, and whether it looks at values."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.bn, self.kind = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), kind

    def forward(self, images: Tensor) -> object:
        maps = self.bn(self.conv(images))
        pooled = maps.mean((2, 3))
        if self.kind == "values":
            return pooled * float(pooled.detach().abs().max())
        if self.kind == "tuple in training":
            return (pooled, pooled) if self.training else pooled
        if self.kind == "wider in training" and self.training:
            return torch.cat([pooled, pooled], 1)
        if self.kind == "fixed size":
            assert images.shape[-1] == 32
        return {"maps": maps, "pixels": maps[:, :, :1, :1], "flat": maps.flatten(1)}.get(self.kind, pooled)


@pytest.mark.parametrize("kind", ["pooled", "values", "fixed size"])
def test_a_module_is_left_as_it_was(kind: str) -> None:
    own = Own(kind)
    own.conv.eval()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    assert feature_dim(own) == 6
    assert own.training
    assert not own.conv.training
    assert all(torch.equal(before[name], value) for name, value in own.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("wider in training", "6 or 12 features"),
        ("maps", r"\(2, 6, "),
        ("pixels", r"\(2, 6, 1, 1\)"),
        ("tuple in training", "tuple"),
        ("flat", "pool them"),
    ],
)
def test_a_module_that_gives_no_features_is_told_what_it_gives(kind: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        MoCo(Own(kind), 4, 16)  # type: ignore[arg-type]


def test_a_module_may_be_made_for_one_size() -> None:
    with pytest.raises(UserError, match="no images of 64 px"):
        feature_dim(Own("fixed size"), 64)
    assert feature_dim(Own("fixed size"), 32) == 6
