"""Every shipped recipe: it has its header, it parses, it makes sense, and a step of it runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from moco.config import Config
from moco.config_check import check
from moco.model.backbone import build_backbone, check_backbone
from moco.runs.preparing import prepare
from moco.runs.recipe import recipe, shipped
from moco.sizing import LARGEST_BATCH, LARGEST_WITH_MUON, STEPS_AN_EPOCH, sized
from moco.views.parameters import centre
from moco.views.pipelines import IMAGENET_MEAN, pipeline

HEADER = ("# Source ", "# Command ", "# Batch ", "# Hardware ", "# Hours ", "# Expect ")


def parse(path: Path) -> Config:
    return recipe(str(path))


@pytest.mark.parametrize("name", shipped())
def test_the_header_is_a_record(name: str) -> None:
    text = shipped()[name].read_text()
    assert [line for line in HEADER if line not in text] == []


def test_imagenette_is_the_seeds_row() -> None:
    config = parse(shipped()["imagenette"])
    model, optimizer, schedule = config.model, config.optimizer, config.schedule
    assert (model.backbone, model.queue_size, model.momentum, model.temperature) == (
        "resnext50_32x4d",
        16384,
        0.999,
        0.2,
    )
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.03, 0.9, 1e-4)
    assert (schedule.name, schedule.min_lr, schedule.warmup_epochs) == ("cosine", 5e-7, 0)
    assert (config.train.epochs, config.train.batch_size, config.views.pipeline, model.mlp) == (600, 32, "v2", True)


@pytest.mark.parametrize("name", shipped())
def test_it_makes_sense_and_takes_a_step(name: str, labelled: Path, tmp_path: Path) -> None:
    """At the recipe's own network, loss, views and schedule; batch, queue and size made small."""
    config = parse(shipped()[name])
    check(config)
    init = weights_of(config.model.backbone, tmp_path / "weights.pth") if config.model.init else None
    small = replace(
        config,
        data=str(labelled),
        views=replace(config.views, size=32),
        store=replace(config.store, short_side=40),
        model=replace(config.model, queue_size=64, init=init),
        train=replace(config.train, batch_size=16, epochs=config.train.epochs or 20),
        runtime=replace(config.runtime, precision="float32"),
    )
    training = prepare(small).training
    head = training.model.encoder_q.head
    before = {key: value.clone() for key, value in head.state_dict().items()}
    training.model.train()
    training.step(training.sampler.order(0)[0])
    assert training.progress.step == 1
    assert torch.isfinite(training.totals.state_dict()).all()
    assert training.model.queue_ptr.item() == (32 if small.model.symmetric else 16)
    if config.schedule.warmup_epochs == 0:
        assert any(not torch.equal(before[key], value) for key, value in head.state_dict().items())


def weights_of(backbone: str, file: Path) -> str:
    """A file of the library's, as somebody else's weights come; here their network is as initialised."""
    torch.save(torchvision.models.get_model(backbone).state_dict(), file)
    return str(file)


def test_continued_pretraining_starts_from_the_weights_more_gently(labelled: Path, tmp_path: Path) -> None:
    file = weights_of("resnet18", tmp_path / "weights.pth")
    config, other = parse(shipped()["folder-finetune"]), parse(shipped()["imagenette-cpu"])
    assert config.model.init == "pretrained"
    assert config.optimizer.lr < other.optimizer.lr
    assert config.schedule.warmup_epochs > other.schedule.warmup_epochs
    assert config.model.momentum > other.model.momentum
    changes = {"model.init": file, "views.size": 32, "train.batch_size": 16, "runtime.precision": "float32"}
    training = prepare(recipe("folder-finetune", data=str(labelled), **changes)).training
    wanted = torch.load(file, weights_only=True)["layer1.0.conv1.weight"]
    for encoder in (training.model.encoder_q, training.model.encoder_k):
        assert torch.equal(encoder.backbone.layer1[0].conv1.weight, wanted)


# What the headers are held to.
COUNTS = {"imagenette": 9469, "imagenette-cpu": 9469, "imagenette-best": 9469, "cifar10": 50_000, "shapes": 5000,
          "imagenet-v1": 1_281_167, "imagenet-v2": 1_281_167}  # fmt: skip
IMAGENET_PIXELS = (375, 500)  # of most of its photographs, height and width


def header(name: str) -> dict[str, str]:
    """The lines of the header by their first word; a line that goes on is joined."""
    found: dict[str, str] = {}
    for line in shipped()[name].read_text().splitlines():
        if not line.startswith("#"):
            break
        words = line[1:].strip()
        if line.startswith("#     ") and found:
            found[list(found)[-1]] += " " + words
        else:
            found[words.split()[0]] = words.partition(" ")[2].strip()
    return found


def number(pattern: str, text: str) -> float:
    """The one number that `pattern` finds in `text`."""
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in {text!r}"
    return float(found[1].replace(",", ""))


@pytest.mark.parametrize("name", COUNTS)
def test_the_batch_line_is_the_recipes_arithmetic(name: str) -> None:
    config, line = parse(shipped()[name]), header(name)["Batch"]
    batch = config.train.batch_size
    assert batch is not None
    steps = COUNTS[name] // batch
    assert number(r"^([\d,]+) images a step", line) == batch
    assert number(r"([\d,]+) steps an epoch", line) == steps
    if "images:" in line:
        assert number(r"([\d,]+) images:", line) == COUNTS[name]
    if total := re.search(r"([\d,]+) steps, ([\d.,]+)( million)?", line):
        pairs = float(total[2].replace(",", "")) * (1e6 if total[3] else 1)
        assert int(total[1].replace(",", "")) == steps * config.train.epochs
        made = steps * config.train.epochs * batch * (2 if config.model.symmetric else 1)
        assert abs(pairs / made - 1) < 0.01
    if parts := re.search(r"in (\d+) batch-norm parts of (\d+)", line):
        assert (int(parts[1]), int(parts[2])) == (config.model.bn_splits, batch // config.model.bn_splits)
    else:
        assert config.model.bn_splits == 1
    assert ("twice" in line) == config.model.symmetric


@pytest.mark.parametrize("name", shipped())
def test_what_the_header_says_of_the_recipe_is_in_it(name: str) -> None:
    config, words = parse(shipped()[name]), header(name)
    assert f"--recipe {name} " in words["Command"]
    if epochs := re.search(r"after (\d+) epochs|, (\d+) epochs$", words["Expect"]):
        asked = int(epochs[1] or epochs[2])
        assert config.train.epochs is not None
        assert asked <= config.train.epochs
    assert ("by the number of images" in words["Source"]) == (name == "folder")
    if name.startswith("folder"):
        assert (config.model.queue_size, config.train.epochs, config.train.batch_size) == (None, None, None)
        largest = LARGEST_WITH_MUON if config.optimizer.name == "muon" else LARGEST_BATCH
        assert number(r"^(\d+) images a step", words["Batch"]) == largest
        assert number(r"makes (\d+) steps an epoch", words["Batch"]) == STEPS_AN_EPOCH
    if "symmetric loss" in words["Batch"]:
        assert config.model.symmetric
    assert ("batch-norm over the whole batch" not in words["Source"]) or config.model.bn_splits == 1


@pytest.mark.parametrize("name", ["imagenet-v1", "imagenet-v2"])
def test_to_the_letter_crops_come_from_the_original_pixels_and_the_disk_is_said(name: str) -> None:
    config, line = parse(shipped()[name]), header(name)["Disk"]
    height, width = IMAGENET_PIXELS
    assert config.short_side >= height  # nothing is made smaller: a store never goes above the source's size
    assert number(r"short side (\d+) px", line) == config.short_side
    whole = COUNTS[name] * height * width * 3 / 1e9
    small = COUNTS[name] * 256 * (256 * width / height) * 3 / 1e9
    assert abs(number(r"^about (\d+) GB", line) / whole - 1) < 0.02
    assert abs(number(r"256 takes about (\d+) GB", line) / small - 1) < 0.02


@pytest.mark.parametrize("name", ["cifar10", "folder", "imagenet-v1", "imagenet-v2", "imagenette"])
def test_the_hardware_can_run_the_pinned_torch(name: str) -> None:
    """A GPU is named by what it must have, and what it must have is enough for the wheel's code."""
    line = header(name)["Hardware"]
    capability = number(r"compute capability ([\d.]+) or newer", line)
    built_for = [int(arch[3:]) for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    if built_for:
        assert min(built_for) <= 10 * capability


@pytest.mark.parametrize("name", ["folder", "imagenet-v1", "imagenet-v2"])
def test_the_activations_fit_the_gpu_that_is_named(name: str) -> None:
    """What the backward pass keeps of a batch in bf16, counted without memory, and the line's own figures of it."""
    config, line = parse(shipped()[name]), header(name)["Hardware"]
    image_bytes = kept_bytes_an_image(config.model.backbone, config.views.size)
    images = (config.train.batch_size or LARGEST_BATCH) * (2 if config.model.symmetric else 1)
    assert abs(number(r"(\d+) MB an image", line) / (image_bytes / 1e6) - 1) < 0.05
    assert abs(number(r"keep (\d+) GB", line) / (images * image_bytes / 1e9) - 1) < 0.05
    assert images * image_bytes < 0.75e9 * number(r"one GPU with (\d+) GB", line)


def kept_bytes_an_image(backbone: str, size: int, batch: int = 2) -> float:
    """Bytes that a bf16 network keeps for its backward pass, its own weights left out, for each image."""
    with torch.device("meta"):
        network = build_backbone(backbone, size).to(torch.bfloat16).train()
        images = torch.zeros(batch, 3, size, size, dtype=torch.bfloat16)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights) / batch


@pytest.mark.parametrize(("name", "units"), [("imagenette-cpu", "bf16"), ("folder-cpu", "bf16")])
def test_hours_are_the_images_over_the_rate(name: str, units: str) -> None:
    config, words = parse(shipped()[name]), header(name)
    rate = number(r"about (\d+) images/s", words["Hardware"])
    count = COUNTS.get(name, 10_000)
    epochs = sized(config, count, "cpu")[0].epochs
    if name == "folder-cpu":
        assert number(r"10,000 images, (\d+) epochs", words["Hours"]) == epochs
    images = count * epochs
    stated = 0.5 if "half an hour" in words["Hours"] else number(rf"([\d.]+) with {units}", words["Hours"])
    assert abs(images / rate / 3600 / stated - 1) < 0.2


def test_cifar10_says_where_it_differs_from_the_notebook() -> None:
    config, line = parse(shipped()["cifar10"]), header("cifar10")["Differs"]
    spec = pipeline(config.views)
    features = check_backbone(config.model.backbone, config.views.size, config.model.small_stem)
    assert (spec.size, spec.scale, spec.jitter, spec.jitter_p) == (32, (0.08, 1.0), (0.4, 0.4, 0.4, 0.1), 0.8)
    assert (spec.grey_p, spec.flip_p, spec.blur_p, config.monitor.knn_k) == (0.2, 0.5, 0.0, 200)
    assert f"backbone's {features} features, there on the head's {config.model.dim}" in line
    assert ("ImageNet's mean" in line) == (spec.mean == IMAGENET_MEAN)
    view = centre(config.views.size, np.array([32], np.int32), np.array([32], np.int32))
    assert f"{round(32 * 32 / view.box[0, 2])} px" in line
