"""Records of options from Python: a value of a wrong kind is one line, like one of a wrong size."""

from __future__ import annotations

from typing import Any

import pytest

import moco
from moco.runs.finetune_options import FinetuneOptions


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"epochs": "10"}, "--epochs is '10', give int | None"),
        ({"epochs": 2.5, "seed": True}, "--epochs is 2.5, give int | None; --seed is True, give int | None"),
        ({"protocol": "svm"}, "--protocol is 'svm', valid: cached, sgd"),
        ({"protocol": "sgd", "schedule": "linear"}, "--schedule is 'linear', valid: cosine, step"),
        ({"protocol": "sgd", "lr": "high"}, "--lr is 'high', give float | None"),
    ],
)
def test_of_a_linear_classification(options: dict[str, Any], answer: str) -> None:
    with pytest.raises(moco.UserError) as caught:
        moco.LinearOptions(**options).chosen()
    assert str(caught.value) == answer


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"labels": 10}, "--labels is 10, give str"),
        ({"batch_size": "64", "balance": "all"}, "--batch_size is '64', give int; --balance is 'all', valid: none, s"),
        ({"lr": [0.1]}, "--lr is [0.1], give float | None"),
    ],
)
def test_of_a_fine_tuning(options: dict[str, Any], answer: str) -> None:
    with pytest.raises(moco.UserError) as caught:
        FinetuneOptions(**options).checked()
    assert str(caught.value).startswith(answer)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"draws": "3"}, "--draws is '3', give int"),
        ({"shares": [1, 10]}, "--shares is [1, 10], give str"),
        ({"finetune": 1}, "--finetune is 1, give bool"),
    ],
)
def test_of_label_curves(options: dict[str, Any], answer: str) -> None:
    with pytest.raises(moco.UserError) as caught:
        moco.LabelsOptions(**options).checked()
    assert str(caught.value) == answer
