"""`python -m rayunlearn methods`."""

from __future__ import annotations

import json

import pytest

from rayunlearn.cli.methods_command import MethodsOptions, run_methods
from rayunlearn.methods.catalogue import table_three
from rayunlearn.methods.registry import METHODS


def test_json_lists_every_method_with_access_granularity_and_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a program reads is the registry's."""
    assert run_methods(MethodsOptions(json=True)) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {m["name"]: (set(m["data_access"]), set(m["granularity"]), m["source"]) for m in listed} == {
        m.name: (set(m.data_access), set(m.granularity), m.source) for m in METHODS.values()
    }


def test_the_table_names_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    """What a person reads: a line for each, with what it is handed."""
    run_methods(MethodsOptions())
    lines = capsys.readouterr().out.splitlines()
    for name, method in METHODS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert sorted(method.data_access)[0] in line


def test_table_three(capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell says yes or no as the registry does."""
    run_methods(MethodsOptions(table_three=True))
    out = capsys.readouterr().out
    for row in ("class-level", "random samples", "zero-glance", "zero samples"):
        (line,) = [line for line in out.splitlines() if line.strip().startswith(row)]
        said = [word for word in line.split() if word in ("yes", "no")]
        assert said == ["yes" if column[row] else "no" for column in table_three().values()]
