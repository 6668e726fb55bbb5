"""Where workers find a factory's module."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rayunlearn.auditing.operator_code import code_found_by_workers
from rayunlearn.errors import BadInput
from rayunlearn.execution.user_code import found_by_workers
from rayunlearn.recipes import Recipe
from rayunlearn.settings import override


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a package in it."""
    (tmp_path / "my_nets").mkdir()
    (tmp_path / "my_nets" / "__init__.py").write_text("")
    (tmp_path / "my_file.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def test_workers_of_this_process_inherit_the_folder(folder: Path) -> None:
    """The folder of the package, before what was named already; once, however often it is asked."""
    for _ in range(2):
        assert found_by_workers("my_nets.deep:make", None) == {}
        assert os.environ["PYTHONPATH"] == f"{folder}{os.pathsep}/elsewhere"
    assert found_by_workers("my_file:make", "local") == {}


def test_another_cluster_is_sent_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray's runtime environment, be the cluster named by flag or by environment; nothing else is sent."""
    sent = {"runtime_env": {"py_modules": [str(folder / "my_nets")]}}
    assert found_by_workers("my_nets:make", "127.0.0.1:6379") == sent
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert found_by_workers("my_nets:make", None) == sent
    assert os.environ["PYTHONPATH"] == "/elsewhere"


def test_what_is_built_in_needs_nothing(folder: Path) -> None:
    """Nor what a library has; a module that is not there is refused, for control."""
    for name in ("allcnn", "torchvision:resnet18", "timm:any"):
        assert found_by_workers(name, "127.0.0.1:6379") == {} and os.environ["PYTHONPATH"] == "/elsewhere"
    with pytest.raises(BadInput, match="--model is .no_such_nets:make.; allowed: a module that can be"):
        found_by_workers("no_such_nets:make", None)


def test_the_code_that_gives_data_is_found_too(folder: Path) -> None:
    """Model and data of two packages are sent together; a set that is known by name sends nothing."""
    (folder / "my_data.py").write_text("")
    own = override(
        Recipe(name="made"), ["model.name=my_nets:make", "data.dataset=my_data:whole"]
    )
    sent = [str(folder / "my_nets"), str(folder / "my_data.py")]
    assert code_found_by_workers(own, "127.0.0.1:6379") == {"runtime_env": {"py_modules": sent}}
    for name in ("digits", "parquet:my_data", "torchvision:CIFAR10"):
        assert code_found_by_workers(override(Recipe(name="made"), [f"data.dataset={name}"]), "x:1") == {}
    wrong = override(Recipe(name="made"), ["data.dataset=my_datum:whole"])
    with pytest.raises(BadInput, match="--data is 'my_datum:whole'; allowed: a module that can be imported"):
        code_found_by_workers(wrong, None)
