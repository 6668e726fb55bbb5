"""What the registry says of its methods, and the paper's Table III."""

from __future__ import annotations

import json

from rayunlearn.methods.catalogue import TABLE_THREE, described, table_three
from rayunlearn.methods.registry import METHODS
from rayunlearn.recipes import load_recipe
from rayunlearn.settings import paths

PRINTED = {
    # zero-shot paper, Table III, in the order of `attributes`
    "UNSIR": (True, False, True, False),
    "Amnesiac": (True, True, False, False),
    "Bad Teacher": (True, True, False, False),
    "Fisher": (True, True, False, False),
    "GKT": (True, False, True, True),
}
DIFFERENT = {("Fisher", "zero-glance")}
"""The Fisher information is taken from the samples to retain, so what is to be forgotten is not looked at."""


def test_table_three_is_the_papers_but_for_what_is_said() -> None:
    """Every cell of the generated table is the printed one, except those named, which are the opposite."""
    generated = table_three()
    assert generated.keys() == PRINTED.keys() == TABLE_THREE.keys()
    for column, printed in PRINTED.items():
        for (row, has), there in zip(generated[column].items(), printed, strict=True):
            assert has == (there != ((column, row) in DIFFERENT)), (column, row)


def test_the_table_follows_the_declarations() -> None:
    """A method is zero-shot exactly if it declares nothing but weights."""
    for name, columns in TABLE_THREE.items():
        only_weights = any(METHODS[c].data_access == {"weights"} for c in columns)
        assert table_three()[name]["zero samples"] == only_weights


def test_every_method_is_described_as_plain_data() -> None:
    """Name, access, granularity, source: nothing is empty, and JSON gives it back."""
    methods = described()
    assert [m["name"] for m in methods] == list(METHODS)
    assert json.loads(json.dumps(methods)) == methods
    for method in methods:
        assert all(method.values()), method


def test_every_method_has_a_section_in_every_recipe() -> None:
    """The settings that a method declares are there, under its section, in any recipe."""
    known = {path.split(".")[0] for path in paths(load_recipe("digits"))}
    assert {method.section for method in METHODS.values()} <= known
