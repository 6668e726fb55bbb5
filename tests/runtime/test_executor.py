"""unlearn() beside Ray: the weights that a cluster serves, the same bits on one, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group_table

from rayunlearn.models import given as given_networks
from rayunlearn.results.schemas import without_volatile
from rayunlearn.runtime.cluster import Placement, open_ensemble
from tests.api.tiny import IMAGES, SHORTER, Stops, given, plain, published, served, state
from tests.runtime.tiny import rows, same_bits

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster", "few_draws")]


def test_it_gives_the_weights_that_are_served() -> None:
    """Bit for bit those of a request that Ray served from a storage location, and the ledger's checkpoints.

    Another seed, for control, gives others.
    """
    store, outcome = served(opened=lambda: open_ensemble(Placement.COLOCATED, cpus_per_role=0.5))
    found = given()
    assert outcome.version is not None and outcome.reason is None, outcome
    assert found.passed and found.reasons == () and found.verdict.passed
    assert same_bits(state(found.model), published(store, outcome))
    own = without_volatile("checkpoints", found.checkpoints).to_pylist()
    assert own == rows(store, "checkpoints") and len(own) == 3
    (begun,) = rows(store, "runs", event="started")
    assert found.seed == begun["seed"] and found.checkpoints["run_id"][0].as_py() == begun["run_id"]
    assert not same_bits(state(given(seed=1).model), state(found.model))


def test_a_cluster_gives_the_same_bits() -> None:
    """Of a model of this package and of a network of one's own; another seed, for control, gives others."""
    more = ("publish_refused=true", *SHORTER)
    inline, on_ray = given("digits", *more), given("digits", *more, executor="ray")
    assert same_bits(state(inline.model), state(on_ray.model))
    assert inline.checkpoints.drop(["at"]) == on_ray.checkpoints.drop(["at"])
    own = {"model": plain(), "input": IMAGES, "forget": [1]}
    first, second = given("digits", *more, **own), given("digits", *more, executor="ray", **own)
    other = given("digits", *more, executor="ray", seed=1, **own)
    assert same_bits(state(first.model), state(second.model))
    assert not same_bits(state(first.model), state(other.model))


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No actor, no placement group, no file here, no network that is held; the connection stays."""
    monkeypatch.chdir(tmp_path)
    before = {name for name, group in placement_group_table().items() if group["state"] != "REMOVED"}
    with pytest.raises(KeyboardInterrupt):
        given(
            "digits", *SHORTER, model=plain(), input=IMAGES, forget=[1], progress=Stops(), executor="ray"
        )
    assert ray.is_initialized() and given_networks._HELD == {} and list(tmp_path.iterdir()) == []
    groups = placement_group_table()
    assert {name for name, group in groups.items() if group["state"] != "REMOVED"} == before
    assert len(groups) > len(before), "one was made"
