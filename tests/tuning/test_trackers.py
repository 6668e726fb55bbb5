"""Experiment trackers: which are there, and what each is told the sweep's name by."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.tuning.trackers import TRACKERS, trackers


class Callback:
    """Stands for Tune's callback: keeps what it was made with."""

    def __init__(self, **given: Any) -> None:
        self.given = given


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packages, as far as anybody looks; Tune's callbacks for two of them would import them."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for package, callback in (("mlflow", "MLflowLoggerCallback"), ("wandb", "WandbLoggerCallback")):
        module = ModuleType(package)
        setattr(module, callback, Callback)
        monkeypatch.setitem(sys.modules, f"ray.air.integrations.{package}", module)
    for key in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SETUP_API_KEY_HOOK", "WANDB_PROJECT_NAME"):
        monkeypatch.delenv(key, raising=False)


def test_each_is_named_after_the_sweep(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune refuses a nameless experiment of MLflow, and one of W&B that belongs to no project."""
    monkeypatch.setenv("WANDB_API_KEY", "k")
    made = [make("sweep-1") for make in trackers(["mlflow", "wandb", "tensorboard"])]
    assert made[0].given == {"experiment_name": "sweep-1"}
    assert made[1].given == {"project": "rayunlearn", "group": "sweep-1"}
    assert type(made[2]).__name__ == "TBXLoggerCallback"
    monkeypatch.setenv("WANDB_PROJECT_NAME", "theirs")
    assert trackers(["wandb"])[0]("s").given["project"] == "theirs"


def test_what_cannot_be_told_is_refused(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown tracker, one without a key, one that is not installed."""
    assert trackers([]) == []
    with pytest.raises(BadInput, match="--log is 'tensorbord'; allowed: 'tensorboard'"):
        trackers(["tensorbord"])
    with pytest.raises(BadInput, match="WANDB_API_KEY in the environment, or with WANDB_MODE=offline"):
        trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert len(trackers(["wandb"])) == 1
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, (package, _) in TRACKERS.items():
        with pytest.raises(BadInput, match=f"--log is '{name}'; allowed: .* this one's is {package}$"):
            trackers([name])
