"""`moco linear`: linear classification on the frozen backbone of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moco.commands.parsing import Parser
from moco.errors import UserError
from moco.rundir import RunDir

if TYPE_CHECKING:
    from torch import Tensor

    from moco.evaluate.protocol import Proof
    from moco.runs.trained import Labelled, TrainedRun

PROTOCOLS = ("cached", "sgd")
_ONLY_FOR = {"passes": "cached", "lr": "sgd", "weight_decay": "sgd", "schedule": "sgd", "init": "sgd"}
_COMMON = ("epochs", "batch_size", "seed")
_LEAST = {"epochs": 1, "batch_size": 1, "seed": 0, "passes": 0, "weight_decay": 0}
COLUMNS = (
    "epoch", "lr", "loss", "train_top1", "val_top1", "val_loss", "held_out_top1", "held_out_loss", "seconds",
)  # fmt: skip

Row = dict[str, float | int | None]
Fitted = tuple["Tensor", "Tensor", list[Row], dict[str, Any]]  # weight, bias, metrics, what result.json says of it


def parser() -> Parser:
    made = Parser(
        "linear",
        "Linear classification on a run's frozen backbone. `cached` extracts the features once and finds learning "
        "rate and weight decay by itself; `sgd` is the literature's protocol.",
        "moco linear runs/a    |    moco linear runs/a --protocol sgd --epochs 100 --lr 30",
    )
    made.add_argument("run", help="run directory of `moco pretrain`")
    made.add_argument("--protocol", choices=PROTOCOLS, default="cached", help="default: cached")
    made.add_argument("--checkpoint", choices=("last", "best"), default="last", help="default: last")
    made.add_argument("--data", metavar="DIR", help="other labelled data than the run was trained on")
    made.add_argument("--epochs", type=int, help="passes over the data; default: 10 (cached), 100 (sgd)")
    made.add_argument("--batch_size", type=int, help="views a step; default: 1024 (cached), 256 (sgd)")
    made.add_argument("--seed", type=int, help="of views and order; default: 0")
    made.add_argument("--passes", type=int, help="cached: augmented views of each image; default: 3")
    made.add_argument("--lr", type=float, help="sgd: peak learning rate; default: from the features' length")
    made.add_argument("--weight_decay", type=float, help="sgd: default 0")
    made.add_argument("--schedule", choices=("cosine", "step"), help="sgd: default cosine; step: /10 at 60 and 80 %%")
    made.add_argument("--init", choices=("zero", "logistic"), help="sgd: first weights, default zero")
    return made


def run(args: Any) -> None:
    """Train the classifier, store it with its metrics and result, and print what came out."""
    given = given_options(args)
    RunDir.open(args.run)  # a wrong name is answered before torch is loaded
    from moco.commands.linear_summary import final_scores, summary
    from moco.environment import describe
    from moco.evaluate.protocol import proven
    from moco.files import write_json
    from moco.runs.trained import open_trained

    trained = open_trained(args.run, args.checkpoint, args.data)
    data = trained.labelled()
    started = time.perf_counter()
    with proven(trained.backbone) as proof:
        fit = _fit_cached if args.protocol == "cached" else _fit_sgd
        weight, bias, rows, about = fit(trained, data, given, proof)
    source = {
        "protocol": args.protocol, "checkpoint": args.checkpoint, "step": trained.step, "epoch": trained.epoch,
        "backbone_sha256": proof.backbone_sha256,
    }  # fmt: skip
    result = source | about | final_scores(rows, args.protocol) | {
        "train_images": len(data.train), "val_images": len(data.val), "classes": data.classes,
        "data": args.data or trained.config.data, "seconds": time.perf_counter() - started, "proof": proof.as_dict(),
    }  # fmt: skip
    _store(trained, weight, bias, data.classes, source)
    write_json(trained.run.linear / "result.json", result | {"environment": describe()})
    print(summary(args.run, result))


def given_options(args: Any) -> dict[str, Any]:
    """The options typed, by name. Raises one `UserError` that lists every one that can't be right."""
    problems, given = [], {}
    for name in (*_COMMON, *_ONLY_FOR):
        value = args.get(name)
        if value is None:
            continue
        given[name] = value
        if _ONLY_FOR.get(name, args.protocol) != args.protocol:
            problems.append(f"--{name} is for --protocol {_ONLY_FOR[name]}, not {args.protocol}")
        elif name in _LEAST and not value >= _LEAST[name]:
            problems.append(f"--{name} is {value}, give {_LEAST[name]} or more")
        elif name == "lr" and not 0 < value < float("inf"):
            problems.append(f"--lr is {value}, give a number above 0")
    if problems:
        raise UserError("; ".join(problems))
    return given


def _fit_cached(trained: TrainedRun, data: Labelled, given: dict[str, Any], proof: Proof) -> Fitted:
    from moco.evaluate.linear_cached import CachedOptions, all_views, linear_cached

    options, size = CachedOptions(**given), trained.config.views.size
    views = all_views(trained.backbone, data.train, size, options.passes, options.seed, trained.runtime)
    fitted = linear_cached(views, data.train_labels, len(data.classes), options, trained.runtime, proof)
    rows = fitted.rows
    rows[-1] |= _validation(trained, data, fitted.weight, fitted.bias)  # once, after everything was decided
    _metrics_writer(trained)(rows)
    about = {
        "options": asdict(options), "lr": fitted.lr, "weight_decay": fitted.weight_decay,
        "held_out_top1": fitted.held_out_top1, "held_out_images": fitted.held_out_images, "grid": fitted.grid,
    }  # fmt: skip
    return fitted.weight, fitted.bias, rows, about


def _fit_sgd(trained: TrainedRun, data: Labelled, given: dict[str, Any], proof: Proof) -> Fitted:
    from moco.evaluate.features import features_of
    from moco.evaluate.linear_sgd import SgdOptions, Split, linear_sgd

    options, size = SgdOptions(**given), trained.config.views.size
    pairs = {"train": (data.train, data.train_labels), "val": (data.val, data.val_labels)}

    def split(name: str) -> Split:
        images, labels = pairs[name]
        features = features_of(trained.backbone, images, size, trained.runtime, progress=f"features, {name}")
        return Split(images, labels, features)

    report = _metrics_writer(trained, say_each=options.epochs)
    fitted = linear_sgd(
        trained.backbone, split("train"), split("val"), len(data.classes), size, options, trained.runtime, proof, report
    )
    about = {"options": asdict(options), "lr": fitted.lr, "weight_decay": options.weight_decay}
    return fitted.weight, fitted.bias, fitted.rows, about


def _validation(trained: TrainedRun, data: Labelled, weight: Tensor, bias: Tensor) -> Row:
    from moco.evaluate.classifier import Classifier
    from moco.evaluate.classify import classify

    classifier = Classifier(weight, bias, data.classes, {})
    size = trained.config.views.size
    scores = classify(
        trained.backbone, classifier, data.val, data.val_labels, size, trained.runtime, "features, validation"
    )
    return {"val_top1": scores.top1, "val_loss": scores.loss}


def _metrics_writer(trained: TrainedRun, say_each: int | None = None) -> Callable[[list[Row]], None]:
    """Writes `linear/metrics.csv`; an earlier classifier leaves first, so that the folder never mixes two fits."""
    from moco.console import percent, say
    from moco.train.metrics import write_csv

    def write(rows: list[Row]) -> None:
        folder = trained.run.linear
        if len(rows) == 1 or say_each is None:
            for name in ("classifier.pt", "result.json"):
                (folder / name).unlink(missing_ok=True)
        write_csv(folder / "metrics.csv", rows, COLUMNS)
        if say_each is not None:
            row = rows[-1]
            scores = f"top-1 {percent(row['train_top1'])} train, {percent(row['val_top1'])} val"
            say(f"epoch {row['epoch']}/{say_each}  lr {row['lr']:.3g}  loss {row['loss']:.3f}  {scores}")

    return write


def _store(trained: TrainedRun, weight: Tensor, bias: Tensor, classes: list[str], source: dict[str, Any]) -> None:
    from moco.evaluate.classifier import Classifier

    Classifier(weight, bias, classes, source).save(trained.run.linear / "classifier.pt")
