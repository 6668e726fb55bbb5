"""A run whose result is a version that there is already has changed nothing: it fails, and says so."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from rayunlearn.auditing.labelled import open_data
from rayunlearn.errors import BadInput
from rayunlearn.execution import recovery
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, status, versions
from rayunlearn.ledger.verification import findings
from rayunlearn.lineages.published import load_version
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.models.weights import version_id, weights_from_bytes
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.grants import grant
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.storage.store import Store
from tests.serving.tiny import (
    NOON,
    Recording,
    forget,
    memory_store,
    original,
    original_job,
    rows,
    tiny_recipe,
    tiny_scheduler,
)


def verified(store: Store) -> list[str]:
    """What `models verify` finds of requests and versions, but for the receipt, which these have none of."""
    found = findings(store, lambda data, name: version_id(weights_from_bytes(data, name)))
    return [str(finding) for finding in found if "never received" not in str(finding)]


def chain(store: Store) -> list[str]:
    """Ids of the lineage's versions, the oldest first."""
    return [version.version for version in versions(LedgerReader(store), "default")]


@pytest.mark.parametrize(("alpha", "changes"), [(0, False), (1e-5, True)])
def test_noise_of_no_variance_is_refused(alpha: float, changes: bool) -> None:
    """Fisher forgetting of a sample with alpha 0 gives the version before, though all else would publish it.

    Negative control: with noise the same request is served, by a version of its own.
    """
    recipe = tiny_recipe(
        "digits", "method=fisher", f"fisher.alpha={alpha}", "fisher.max_samples=2", "publish_refused=true",
        "inversion.iterations=5",
    )  # fmt: skip
    store = memory_store()
    scheduler = tiny_scheduler(store, recipe)
    scheduler.grant = grant
    first = open_data(recipe.data, original_job().split_seed)[1].train_ids.tolist()[0]
    outcome = scheduler.serve(
        Request(
            request_id="r", kind="samples", target=(first,), data_access=("weights", "retain"),
            received_at=NOON,
        )  # fmt: skip
    )
    assert (outcome.version is not None) == changes
    assert len(chain(store)) == 1 + changes
    assert status(request_events(LedgerReader(store))["r"]) == ("served" if changes else "failed")
    if not changes:
        (run,) = rows(store, "runs", event="failed")
        said = f"result: nothing was changed: it is the version before, {chain(store)[0][:12]}, bit by bit"
        assert outcome.reason is not None and said in outcome.reason and said in run["reason"]
    assert verified(store) == []


def test_an_earlier_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is the original, of a lineage that has gone on since, knows again what was forgotten."""
    store = memory_store()
    scheduler = tiny_scheduler(store, tiny_recipe())
    assert scheduler.serve(forget(0)).version is not None
    before = chain(store)
    monkeypatch.setattr(RunFiles, "student", lambda self, step: original()[1])
    outcome = scheduler.serve(forget(1))
    assert outcome.version is None and outcome.reason is not None
    assert f"it is {before[0][:12]}, bit by bit, an earlier version of the lineage" in outcome.reason
    assert chain(store) == before and verified(store) == []


def test_no_version_is_published_for_a_second_run() -> None:
    """Whoever publishes: a version has the requests of the run that made it, and no others."""
    store = memory_store()
    scheduler = tiny_scheduler(store, tiny_recipe())
    (first,) = versions(LedgerReader(store), "default")
    given: dict[str, Any] = {
        "lineage": "default", "weights": load_version(store, first), "spec": original()[0], "parent": first,
        "request_ids": ["r"], "classes_forgotten": (1,),
    }  # fmt: skip
    with pytest.raises(BadInput, match="version to publish .*nothing was changed"):
        scheduler.publish(**given, run="run-r")
    assert len(rows(store, "versions")) == 1
    assert scheduler.publish(**given, run=None) == first  # the original again, as a job begun anew does


def test_a_run_that_lost_all_after_its_publication_knows_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun again, it finds its own result published, which is no earlier version: the request is served."""
    store, published = memory_store(), []
    scheduler = tiny_scheduler(store, tiny_recipe())
    publish = Scheduler.publish

    def lost(self: Scheduler, **given: Any) -> Any:
        version = publish(self, **given)
        published.append(version.version)
        if len(published) == 1:
            raise ActorDiedError
        return version

    monkeypatch.setattr(Scheduler, "publish", lost)
    monkeypatch.setattr(recovery.time, "sleep", lambda seconds: None)
    outcome = scheduler.serve(forget(0))
    assert published == [outcome.version] * 2
    assert chain(store)[1:] == [outcome.version] and verified(store) == []


def test_a_driver_killed_after_its_publication_knows_its_own() -> None:
    """From what the store held before each later write, the same request is served by the same version."""
    store = Recording()
    scheduler = tiny_scheduler(store, tiny_recipe())
    version = scheduler.serve(forget(0)).version
    kept = [files for _, files in store.before if len(chain(memory_store(files))) == 2]
    assert len(kept) >= 2
    for files in kept:
        again = memory_store(files)
        assert tiny_scheduler(again, tiny_recipe()).serve(forget(0)).version == version
        assert chain(again)[1:] == [version] and verified(again) == []
