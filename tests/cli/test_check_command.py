"""`python -m rayunlearn check`: what is told of a model before anything runs, and all that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayunlearn.cli.check_command import CheckOptions, run_check
from rayunlearn.cli.model_flags import ModelFlags
from rayunlearn.data import datasets
from rayunlearn.errors import ExitCode
from rayunlearn.methods.registry import METHODS
from rayunlearn.models.weights import weights_to_bytes
from tests.models.own_networks import Small
from tests.serving.tiny import stored_original

OWN = "tests.models.own_networks"
FEW = ("inversion.iterations=3", "inversion.min_confidence=0.0")
Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """The command's exit code and what it prints, with every dataset out of reach."""
    stored_original()

    def opened(*args: Any) -> Any:
        raise AssertionError("a dataset was asked for")

    monkeypatch.setattr(datasets, "_load", opened)

    def run(*settings: str, recipe: str = "digits", **flags: Any) -> tuple[int, str]:
        code = run_check(CheckOptions(recipe=recipe, model=ModelFlags(**flags), set=(*FEW, *settings)))
        return code, capsys.readouterr().out

    return run


def flags(folder: Path, **changes: Any) -> dict[str, Any]:
    """Of a network of one's own with a fitting checkpoint, sure of its answers as a trained one is."""
    weights = Small(3).state_dict()
    weights["classify.weight"] *= 100
    torch.save({"model": weights}, folder / "own.pt")
    said = {
        "model": f"{OWN}:Small", "input": "1,8,12", "mean": "0.5", "std": "0.25", "classes": 3,
        "checkpoint": folder / "own.pt",
    }  # fmt: skip
    return {**said, **changes}


def test_a_model_that_can_be_served(check: Check, tmp_path: Path) -> None:
    """Head, maps, layers, BatchNorm, the trial, and every method with its verdict."""
    code, said = check(**flags(tmp_path))
    assert code == ExitCode.OK and "to change" not in said
    for line in (
        "checkpoint: own.pt: taken from 'model'",
        "head: classify, 12 features to 3 logits",
        "maps: stem, features",
        "layers: 3 below the head",
        "BatchNorm: 2 layers with statistics",
        "\ninversion: 100% of 6 images are accepted after ",
        "method partial_restart: can serve it",
        "method gkt: can serve it",
        "method fine_tune: not: it needs the dataset: it declares retain",
        "method amnesiac_rollback: not: it needs the log",
    ):
        assert line in said, said
    assert all(f"method {name}: " in said for name in METHODS)


def test_a_built_in_model_needs_no_more_than_its_recipe(check: Check, tmp_path: Path) -> None:
    """Input and classes are declared; a method with data is refused as the recipe's."""
    (tmp_path / "w.safetensors").write_bytes(weights_to_bytes(stored_original()[1]))
    given = {"checkpoint": tmp_path / "w.safetensors"}
    code, said = check("model.width=0.125", **given)
    assert code == ExitCode.OK and "checkpoint: fits as it is" in said and "images (1, 8, 8)" in said
    code, said = check("model.width=0.125", "method=unsir", **given)
    assert code == ExitCode.BAD_INPUT and "1. to change: method 'unsir' cannot serve it" in said


def test_why_a_method_cannot(check: Check, tmp_path: Path) -> None:
    """Sizes that a generator does not make, and a network without BatchNorm: each method says its own."""
    code, said = check("method=partial_restart", **flags(tmp_path, input="1,9,14"))
    assert code == ExitCode.OK
    assert "method gkt: not: generator spec: image_size is (9, 14); allowed: a multiple of 4" in said
    assert "method few_shot: not: generator spec" in said and "method partial_restart: can serve it" in said
    code, said = check(model=f"{OWN}:Tokens", input="1,8,8", mean="0.5", std="0.25", classes=3)
    assert code == ExitCode.OK and "BatchNorm: none: images are made by the fallback" in said
    assert "method ispf: not: classifier of an ISPF run" in said and "one with BatchNorm" in said


def test_all_that_is_wrong_is_told_at_once(check: Check, tmp_path: Path) -> None:
    """A network that does not go with the classes, and a file that is none: both, with what to change."""
    (tmp_path / "w.pt").write_bytes(b"no weights")
    code, said = check(**flags(tmp_path, classes=4, checkpoint=tmp_path / "w.pt"))
    assert code == ExitCode.BAD_INPUT
    assert "1. to change: --classes is 4; allowed: 3" in said and "2. to change: weights file" in said
    torch.save(Small(4).state_dict(), tmp_path / "four.pt")
    code, said = check(**flags(tmp_path, checkpoint=tmp_path / "four.pt"))
    assert code == ExitCode.BAD_INPUT and "4 mis-shaped: auxiliary.bias" in said
    assert "\ninversion:" not in said


def test_a_recipe_of_unknown_data(check: Check, tmp_path: Path) -> None:
    """Nothing is declared of it and nothing stated: what to state is said."""
    code, said = check("data.dataset=parquet:any")
    assert code == ExitCode.BAD_INPUT and "state --input, --mean, --std, --classes" in said
    arguments = json.dumps({"num_classes": 3})
    code, said = check(**flags(tmp_path, model="torchvision:no_such", model_args=arguments))
    assert code == ExitCode.BAD_INPUT and "torchvision.models.list_models()" in said


def test_code_that_opens_data_is_told_before_a_run(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factory in a training script: this process imports it, a run's processes would not; it is said."""
    text = "import sklearn.datasets\nfrom tests.models.own_networks import Small\n"
    (tmp_path / "training_script.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, said = check(**flags(tmp_path, model="training_script:Small"))
    assert code == ExitCode.BAD_INPUT
    assert "1. to change: module of the factory is 'training_script'" in said and "ImportDenied" in said
