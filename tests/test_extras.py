"""What is said where a package of an extra is missing; which package is of which extra."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from rayunlearn import extras
from rayunlearn.errors import ExitCode, NotInstalled
from rayunlearn.extras import EXTRAS, require
from tests.test_architecture import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
MISSING = "no_such_package_of_ours"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that is not there, as if the extra `ray` brought it."""
    monkeypatch.setitem(extras.EXTRAS, MISSING, "ray")
    return MISSING


@pytest.mark.parametrize("statement", ["import {}", "import {}.tune", "from {}.util import x"])
def test_an_import_of_ours_names_the_extra(statement: str, missing: str) -> None:
    """Of the package itself and of a part; it is an ImportError, for those who go on without."""
    with pytest.raises(NotInstalled, match=rf"{missing} is not .* 'rayunlearn\[ray\]' brings it") as caught:
        exec(statement.format(missing), {"__name__": "rayunlearn.runtime.planted"})
    assert isinstance(caught.value, ImportError)
    assert (caught.value.name, caught.value.exit_code) == (missing, ExitCode.BAD_INPUT)


def test_imports_of_others_are_left_alone(missing: str) -> None:
    """Negative controls: other code's imports, packages that no extra brings, and a look whether it is there."""
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
    of_users = {"bayes", "evidence", "images", "optuna", "ray", "report", "s3", "timm"}
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
