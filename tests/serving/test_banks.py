"""Images of retain classes are made once for a lineage, and are gone with their classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.ledger.lineage import versions
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.roles import Roles
from rayunlearn.serving.banks import handed_on, keep_bank
from rayunlearn.serving.retention import purge
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import forget, memory_store, tiny_recipe, tiny_scheduler

ROLES = Roles(retain=(1, 2), target=(0,))
BANK = SyntheticSet(
    images=torch.arange(6.0).reshape(6, 1, 1, 1), labels=torch.tensor([0, 0, 1, 1, 2, 2]), requested=8
)


class Counting(InlineExecutor):
    """Notes how many sets each request has synthesised."""

    made: list[int] = []

    def map(self, jobs: Any) -> list[Any]:
        """The synthesis is the first that is asked for."""
        if len(self.made) < 2 and not hasattr(self, "asked"):
            self.asked = True
            self.made.append(len(jobs))
        return super().map(jobs)


@pytest.fixture(scope="module")
def served() -> Store:
    """Two requests of one lineage, by the method that learns from images."""
    store = memory_store()
    scheduler = tiny_scheduler(store, tiny_recipe(), open_executor=Counting)
    Counting.made.clear()
    for target in (0, 3):
        assert scheduler.serve(forget(target)).version is not None
    return store


def test_the_second_request_learns_from_the_firsts_images(served: Store) -> None:
    """Four sets are made for the first, three for the second, whose bank is the first's without class 3."""
    scheduler = tiny_scheduler(served, tiny_recipe())
    runs = [v.run_id for v in versions(scheduler.reader, "default")[1:]]
    assert len(runs) == 2 and all(runs)
    first, second = (RunFiles(served, str(run)).synthetic() for run in runs)
    assert first is not None and second is not None
    assert Counting.made == [4, 3]
    assert set(second["bank"].labels.tolist()) == set(range(10)) - {0, 3}
    assert torch.equal(second["bank"].images, first["bank"].of(list(set(range(10)) - {0, 3})).images)
    assert not torch.equal(second["stop"].images[:5], first["stop"].images[:5])


def test_what_is_handed_on_shows_retain_classes_alone(served: Store) -> None:
    """A file for each version but the original, the last without both classes; a purge leaves that one."""
    scheduler = tiny_scheduler(served, tiny_recipe())
    chain = versions(scheduler.reader, "default")
    names = served.list("banks/default")
    assert sorted(name.split("/")[-1].split("-")[0] for name in names) == sorted(v.version for v in chain[1:])
    roles = Roles(retain=tuple(c for c in range(10) if c not in (0, 3)), target=())
    last = handed_on(served, tiny_recipe(), "default", chain[-1].version, roles)
    assert last is not None and set(last.labels.tolist()) == set(roles.retain)
    with_target = Roles(retain=(*roles.retain, 3), target=())
    assert handed_on(served, tiny_recipe(), "default", chain[-1].version, with_target) is None
    purge(served, scheduler.context.ledger, scheduler.context.clock)
    assert [name.split("/")[-1].split("-")[0] for name in served.list("banks/default")] == [chain[-1].version]


def test_images_made_under_other_settings_are_not_taken() -> None:
    """The same lineage and version, another inversion or another number of images."""
    store, recipe = memory_store(), tiny_recipe()
    keep_bank(store, recipe, "default", "v", ROLES, BANK)
    found = handed_on(store, recipe, "default", "v", ROLES)
    assert found is not None and found.labels.tolist() == [1, 1, 2, 2] and found.requested == 8
    for change in ("inversion.lr=0.5", "gated_inversion.inverted_per_class=9"):
        assert handed_on(store, tiny_recipe("digits", change), "default", "v", ROLES) is None
    assert handed_on(store, recipe, "default", "w", ROLES) is None


@pytest.mark.parametrize("method", ["gkt", "delete"])
def test_other_methods_hand_nothing_on(method: str) -> None:
    """One that learns from no images, and one that needs images of the class to forget besides."""
    store, recipe = memory_store(), tiny_recipe("digits", f"method={method}")
    keep_bank(store, recipe, "default", "v", ROLES, BANK)
    assert store.list("banks") == []
    assert handed_on(store, recipe, "default", "v", ROLES) is None
