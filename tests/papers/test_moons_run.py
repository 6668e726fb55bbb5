"""The moons example as tasks: a file a seed, run once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from papers import command as reproduce_command
from papers import moons_run as reproduce_moons
from papers.command import run_reproduction
from papers.moons import MoonsSettings
from papers.moons_run import (
    draw_seed,
    moons_picture,
    moons_results,
    moons_tasks,
    run_seed,
)
from rayunlearn import extras
from rayunlearn.errors import ExitCode
from rayunlearn.methods.variational_objectives import UnlearnSettings

SMALL = MoonsSettings(samples=100, unlearn=UnlearnSettings(steps=3, samples=20, lr=0.05))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds rather than minutes."""
    pytest.importorskip("gpytorch")
    monkeypatch.setattr(reproduce_moons, "SETTINGS", SMALL)
    monkeypatch.setattr(reproduce_moons, "RHOS", (0.25, 1.0))


def flags(**others: Any) -> dict[str, Any]:
    """Of the command."""
    return dict(
        paper="few-shot", table="1", figure=None, rows=["*"], scale="cpu", seeds=(0,), out=None, address=None,
        cpus_per_row=1.0, gpus_per_row=0.0, render_only=False,
    ) | others  # fmt: skip


def test_a_seed_that_is_done_is_not_run_again(small: None, tmp_path: Path) -> None:
    """Its file has rows, settings, time and versions; nothing is left to do, and other settings miss it."""
    run_seed(str(tmp_path), 0, 1)
    (result,) = moons_results(tmp_path, [0, 1])
    assert {(row["method"], row["rho"]) for row in result["rows"]} == {
        ("original", None), *((m, rho) for m in ("ours", "eubo", "rkl") for rho in (0.25, 1.0))
    }  # fmt: skip
    assert result["settings"]["moons.unlearn.steps"] == 3 and result["seconds"] > 0
    assert result["machine"]["gpytorch"]
    assert moons_tasks(tmp_path, [0], "table-1", cpus=1, gpus=0) == {}
    reproduce_moons.SETTINGS = MoonsSettings(samples=99)  # the fixture puts it back
    assert moons_results(tmp_path, [0]) == []


def test_the_command_writes_pages_and_pictures(small: None, tmp_path: Path) -> None:
    """Of what is stored: a table's page, and the figures' with their pictures."""
    run_seed(str(tmp_path / "kept"), 0, 1)
    draw_seed(str(tmp_path / "kept"), 0, 1)
    place = {"storage": tmp_path / "kept", "out": tmp_path, "render_only": True}
    assert run_reproduction(**flags(**place)) == ExitCode.OK
    assert "| EUBO | 1e-9 |" in (tmp_path / "few-shot-table-1-cpu.md").read_text()
    stored = json.loads((tmp_path / "few-shot-table-1-cpu.json").read_text())
    assert [result["seed"] for result in stored["results"]] == [0]
    assert moons_picture(tmp_path / "kept", [0], "table-1", stored["results"]) is None
    for number in ("2", "3"):
        assert run_reproduction(**flags(**place, table=None, figure=number)) == ExitCode.OK
        picture = tmp_path / f"few-shot-figure-{number}-cpu.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"({picture.name})" in picture.with_suffix(".md").read_text()


def test_without_gpytorch_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The extra is named before a cluster is looked for."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setattr(reproduce_command, "connect", lambda address: pytest.fail("connected"))
    assert run_reproduction(**flags(storage=tmp_path)) == ExitCode.BAD_INPUT
    assert "rayunlearn[bayes]" in capsys.readouterr().out.replace("\n", "")
