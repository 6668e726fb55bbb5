"""What is said where a package of an extra is missing; which package is of which extra."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from rayunlearn import extras
from rayunlearn.cli.commands import NAMES, NEEDS
from rayunlearn.errors import ExitCode, NotInstalled
from rayunlearn.extras import EXTRAS, require
from tests.packages import DISTRIBUTION, extras_of
from tests.test_architecture import failed_imports_without_ray

ROOT = Path(__file__).resolve().parents[1]
MISSING = "no_such_package_of_ours"
PARTS = (
    "recipes", "settings", "methods.registry", "data.datasets", "ledger.ledger", "storage.store",
    "cli.commands", "lineages.requested",
)  # fmt: skip
"""What an installation without any extra can import, besides the commands that `NEEDS` does not list."""


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that is not there, as if the extra `ray` brought it."""
    monkeypatch.setitem(extras.EXTRAS, MISSING, "ray")
    return MISSING


@pytest.mark.parametrize("statement", ["import {}", "import {}.tune", "from {}.util import x"])
def test_an_import_of_ours_names_the_extra(statement: str, missing: str) -> None:
    """Of the package itself and of a part; it is an ImportError, for those who go on without."""
    with pytest.raises(NotInstalled, match=rf"{missing} is not .* 'rayunlearn\[ray\]' brings it") as caught:
        exec(statement.format(missing), {"__name__": "rayunlearn.cli.planted"})
    assert isinstance(caught.value, ImportError)
    assert (caught.value.name, caught.value.exit_code) == (missing, ExitCode.BAD_INPUT)


def test_imports_of_others_are_left_alone(missing: str) -> None:
    """Controls: other code's imports, packages that no extra brings, and a look whether one is there."""
    for name, whose in ((missing, "rayunlearning.x"), (missing, "ray.train"), ("no_such", "rayunlearn.x")):
        with pytest.raises(ModuleNotFoundError, match="No module named") as caught:
            exec(f"import {name}", {"__name__": whose})
        assert not isinstance(caught.value, NotInstalled)
    assert find_spec(missing) is None


def test_what_is_required_is_looked_for_first(missing: str) -> None:
    """Without an import; what is there passes."""
    require("matplotlib", "jinja2")
    with pytest.raises(NotInstalled, match=missing):
        require("matplotlib", missing)


def misplaced(table: dict[str, str], brought: dict[str, set[str]]) -> list[str]:
    """Packages of a table whose extra does not bring them, and packages of extras that a table lacks."""
    wrong = [name for name, extra in table.items() if DISTRIBUTION.get(name, name) not in brought[extra]]
    told = {DISTRIBUTION.get(name, name) for name in table}
    of_users = {"bayes", "evidence", "http", "images", "optuna", "ray", "report", "s3", "timm"}
    return wrong + sorted(p for e in of_users for p in brought[e] - told if p != "rayunlearn")


def test_the_table_is_that_of_the_project() -> None:
    """Each package stands under its extra in pyproject.toml; negative controls: elsewhere, and left out."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {
        extra: {re.split(r"[\[<>=!~; ]", wanted)[0].lower() for wanted in packages}
        for extra, packages in declared.items()
    }
    assert misplaced(EXTRAS, brought) == []
    assert misplaced(EXTRAS | {"ray": "s3"}, brought) == ["ray"]
    assert misplaced({n: e for n, e in EXTRAS.items() if n != "optuna"}, brought) == ["optuna"]


def test_extras_are_of_few_files() -> None:
    """A bucket's file takes no plots, one of models no package of an extra."""
    assert extras_of("rayunlearn/storage/s3.py") == {"s3"}
    assert extras_of("rayunlearn/reports/page.py") == {"report"}
    assert extras_of("rayunlearn/storage/store.py") == set()
    assert extras_of("rayunlearn/models/weights.py") == extras_of("jobs/reproduce.py") == set()


def test_commands_that_need_no_extra_import_without_any() -> None:
    """Where all extras are blocked; negative control: those that serve fail to."""
    free = [f"rayunlearn.cli.{name}_command" for name in NAMES if name not in NEEDS]
    parts = [f"rayunlearn.{part}" for part in PARTS]
    assert len(free) > 5 and failed_imports_without_ray([*free, *parts], blocked=tuple(EXTRAS)) == {}
    needy = ["rayunlearn.cli.serve_command", "rayunlearn.cli.tune_command"]
    assert failed_imports_without_ray(needy, blocked=tuple(EXTRAS)).keys() == set(needy)
