"""Checkpoints that lightly and solo-learn themselves wrote, where these libraries can be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import moco
from moco import checkpoint

WRITERS = Path(__file__).parent / "writers.py"
PYTHON = {"lightly": sys.executable, "sololearn": os.environ.get("MOCO_SOLO_PYTHON", sys.executable)}
MODULES = {"lightly": "lightly, pytorch_lightning", "sololearn": "solo.methods.mocov2plus"}
NAMES = {"lightly": "MoCo of lightly", "sololearn": "MoCo v2+ of solo-learn"}


@pytest.fixture(scope="module", params=list(PYTHON))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The library, and where it wrote."""
    library = request.param
    out = tmp_path_factory.mktemp(library)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIGHTLY_DID_VERSION_CHECK": "True"}
    environment.pop("PYTHONPATH", None)  # another environment's packages aren't the library's

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        command = [PYTHON[library], *words]
        return subprocess.run(command, check=False, env=environment, cwd=out, capture_output=True, text=True)

    there = python("-c", f"import {MODULES[library]}")
    if there.returncode:
        why = there.stderr.strip().splitlines()[-1]
        pytest.skip(f"{library} can't be imported by {PYTHON[library]} ({why}); how to have it: {WRITERS.name}")
    ran = python(str(WRITERS), library, str(out))
    assert ran.returncode == 0, ran.stderr[-2000:]
    return library, out


@pytest.mark.parametrize("file", ["last.ckpt", "afterwards.ckpt"])
def test_what_the_library_wrote_is_imported(
    written: tuple[str, Path], file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library, out = written
    run = moco.import_weights(out / file, tmp_path / "run")
    said = capsys.readouterr().err
    assert f"is {NAMES[library]}, resnet18, epoch 2: took backbone, head, key encoder" in said
    told = torch.load(out / "told.pt", weights_only=True)
    backbone, _ = moco.load_backbone(run)
    with torch.no_grad():
        torch.testing.assert_close(backbone(told["picture"]), told["features"], rtol=1e-4, atol=1e-5)
    model = checkpoint.load_for_evaluation(run.path / "checkpoints", "last")["model"]
    query, key = (model[f"encoder_{which}.backbone.layer4.1.conv2.weight"] for which in "qk")
    assert not torch.equal(query, key)  # a key encoder that lags behind, not a copy
    assert run.config.model.head_width == (None if library == "lightly" else 40)
    if library == "sololearn":  # lightly's bank of keys isn't in its checkpoints
        assert torch.equal(model["queue"], told["queue"][0].T)
