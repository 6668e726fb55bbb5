"""The lines that the README shows are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, TensorDataset

from rayunlearn.data.datasets import load_dataset
from rayunlearn.recipes import RECIPES
from tests.api.tiny import SHORTER, original
from tests.serving.tiny import tiny_recipe

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.usefixtures("few_draws")
def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the default recipe made small; it prints what it says."""
    recipe = tiny_recipe("digits", *SHORTER)
    monkeypatch.setitem(RECIPES, "digits", lambda: recipe)
    data = load_dataset("digits")
    loader = DataLoader(TensorDataset(data.images[:200], data.labels[:200]), batch_size=100)
    names = {"model": original(), "gold": original(), "loader": loader, "mean": data.mean, "std": data.std}
    (text,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in text.splitlines() if line]) <= 6
    exec(compile(text, str(README), "exec"), names)
    assert capsys.readouterr().out.startswith("True () 1 ")
