"""A method that keeps first layers keeps as many as the judge says, and the ledger says why."""

from __future__ import annotations

import json

import pytest

from rayunlearn.ledger.lineage import versions
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.layers import layers
from rayunlearn.models.weights import weights_from_bytes
from rayunlearn.reports.summary import summarise
from rayunlearn.scheduling.erasing import Recall, Scale, layers_to_keep
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from tests.serving.tiny import forget, memory_store, tiny_recipe, tiny_scheduler


def served(*settings: str) -> Store:
    """A request by partial restart."""
    store = memory_store()
    recipe = override(tiny_recipe("digits_partial_restart"), ["validation.per_retain_class=10", *settings])
    assert tiny_scheduler(store, recipe).serve(forget(0)).version is not None
    return store


@pytest.fixture(scope="module")
def chosen() -> Store:
    """By the judge."""
    return served("stand_ins.steps=30")


def unchanged(store: Store) -> int:
    """First layers whose weights are the original's, bit by bit."""
    reader = tiny_scheduler(store, tiny_recipe()).reader
    chain = versions(reader, "default")
    before, after = (weights_from_bytes(store.get(version.path)) for version in chain)

    found = layers(ClassifierSpec.from_dict(chain[0].model))
    same = [
        all(before[k].equal(after[k]) for k in before if k.startswith(tuple(f"{name}." for name in layer)))
        for layer in found
    ]
    return same.index(False)


def rows(store: Store, measure: str) -> list[dict[str, object]]:
    """Evaluations of a measure."""
    found: list[dict[str, object]] = (
        tiny_scheduler(store, tiny_recipe()).reader.read("evaluations", measure=measure).to_pylist()
    )
    return found


def test_as_many_as_the_judge_says(chosen: Store) -> None:
    """One row has what every layer knows, from which the number follows; so many are the original's."""
    (row,) = rows(chosen, "kept_layers")
    told = json.loads(str(row["parameters"]))["layers"]
    scales = [
        Scale(
            version=Recall(forget=layer["version"], retain=1),
            stand_ins=tuple(Recall(forget=f, retain=1) for f in layer["stand_ins"]),
        )
        for layer in told
    ]
    assert len(scales) == 8
    assert row["value"] == layers_to_keep(scales) == unchanged(chosen)
    assert 0 < unchanged(chosen) < 8


def test_settings_are_obeyed(chosen: Store) -> None:
    """Where they name a number nothing is chosen; control: another number than the judge's."""
    number = (unchanged(chosen) + 2) % 7
    store = served(f"partial_restart.kept={number}")
    assert unchanged(store) == number
    assert not rows(store, "kept_layers")


def test_the_summary_says_it(chosen: Store) -> None:
    """And the figure is not among those of the gate."""
    reader = tiny_scheduler(chosen, tiny_recipe()).reader
    (summary,) = summarise(reader, [forget(0).request_id])
    assert summary.kept_layers == (unchanged(chosen), 8)
    assert "kept_layers" not in summary.synthetic_check
    assert "layers" in summary.phase_seconds
