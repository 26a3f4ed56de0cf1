"""`moco bench` gives every figure that it promises, on a small setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL

from moco.cli import main
from moco.errors import UserError
from moco.runs.bench import Bench
from moco.timing.measure import Subject, interleaved
from moco.timing.stopwatch import PARTS


def test_the_figures_and_their_json(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    words = [
        "bench",
        *SMALL,
        "--data",
        str(labelled),
        "--rounds=2",
        "--steps=1",
        "--model.bn_splits=2",
        "--load=1",
        "--json",
        str(out),
    ]
    assert main(words) == 0
    found = Bench.load(out)
    assert all(figure.median > 0 for figure in (found.full, found.compute_only, found.views, found.pack))
    assert set(found.breakdown_ms) == set(PARTS)
    assert all(value >= 0 for value in found.breakdown_ms.values())
    assert (found.setting["batch_size"], found.setting["bn_splits"], found.setting["load"]) == (8, 2, 1)
    assert (found.machine["precision"], found.machine["precision_reason"]) == ("float32", "as asked")
    assert json.loads(out.read_text())["full_to_compute_only"] == found.full_to_compute_only
    printed = capsys.readouterr().out
    assert "timm/test_resnet at 32 px, views v2, batch 8 in 2 parts on" in printed
    assert "beside 1 busy processes" in printed
    assert "full step, samples/s" in printed
    assert "full / compute only" in printed
    out.write_text("{}")
    with pytest.raises(UserError, match="is no benchmark"):
        Bench.load(out)


def test_without_data_or_rounds_it_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SMALL]) == 2
    assert "no data" in capsys.readouterr().err
    assert main(["bench", *SMALL, "--data=shapes", "--rounds=0"]) == 2
    assert "--rounds" in capsys.readouterr().err
    assert main(["bench", *SMALL, "--data=shapes", "--load=-1"]) == 2
    assert "--load" in capsys.readouterr().err
    assert main(["bench", *SMALL, "--data=shapes", "--runtime.devices=2"]) == 2
    assert "leave out --runtime.devices" in capsys.readouterr().err


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    ran: list[str] = []
    subjects = [Subject(name, lambda name=name: ran.append(name), 1) for name in "ab"]  # type: ignore[misc]
    figures = interleaved(subjects, rounds=3)
    assert len(ran) == 8
    assert all(ran[i : i + 2] in (["a", "b"], ["b", "a"]) for i in range(0, 8, 2))
    assert all(figure.rounds == 3 and figure.low <= figure.median <= figure.high for figure in figures.values())


def test_the_watch_leaves_the_objects_as_they_were(labelled: Path) -> None:
    from moco.commands.options import RecipeParser, config_of
    from moco.runs.preparing import prepare
    from moco.timing.stopwatch import Stopwatch

    words = [*SMALL, "--data", str(labelled)]
    prepared = prepare(config_of(RecipeParser("bench", "", "").parse_args(words)))
    model, runtime = prepared.training.model, prepared.runtime
    before = dict(vars(model)), dict(vars(runtime))
    watch = Stopwatch(runtime)
    watch.install(model, prepared.training.optimizer, [model])
    assert "enqueue" in vars(model)
    watch.remove()
    assert dict(vars(model)) == before[0]
    assert dict(vars(runtime)) == before[1]
    assert torch.is_tensor(model.queue)


def test_nobody_elses_file_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.json").write_text("{}")
    assert main(["bench", *SMALL, "--data=shapes", "--json", str(tmp_path / "notes.json")]) == 2
    assert "notes.json is there and doesn't say that moco bench wrote it" in capsys.readouterr().err
