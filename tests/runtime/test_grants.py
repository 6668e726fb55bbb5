"""What a run is handed of real data: what is declared, and nothing else."""

from __future__ import annotations

import pytest
import torch

from rayunlearn.data.datasets import load_dataset
from rayunlearn.data.splits import split
from rayunlearn.recipes import DataSettings
from rayunlearn.roles import Roles
from rayunlearn.runtime import grants
from rayunlearn.runtime.grants import grant, grant_by_task

DATA = DataSettings()
ROLES = Roles(retain=(1, 2, 5, 6, 7, 8, 9), target=(0, 4), forgotten=(3,))


def test_only_what_is_declared_is_handed_over() -> None:
    """Retain alone hands over no forget sample, and the other way round; both hand over both."""
    retain, forget, both = (grant(DATA, 1, ROLES, a) for a in (["retain"], ["forget"], ["forget", "retain"]))
    assert retain.forget is None and forget.retain is None
    assert retain.retain is not None and set(retain.retain.labels.tolist()) == set(ROLES.retain)
    assert forget.forget is not None and set(forget.forget.labels.tolist()) == set(ROLES.target)
    assert both.forget is not None and both.retain is not None


def test_classes_forgotten_before_and_test_images_are_never_handed_over() -> None:
    """Samples are the split's training part, without the classes that earlier requests forgot."""
    dataset = load_dataset("digits")
    parts = split(dataset, DATA.test_fraction, 1)
    both = grant(DATA, 1, ROLES, ["forget", "retain"])
    assert both.forget is not None and both.retain is not None
    ids = torch.cat([both.forget.ids, both.retain.ids]).sort().values
    assert torch.equal(ids, parts.train_ids[dataset.labels[parts.train_ids] != 3])
    for samples in (both.forget, both.retain):
        assert torch.equal(samples.images, dataset.images[samples.ids])
        assert torch.equal(samples.labels, dataset.labels[samples.ids])


def test_limits_of_the_recipe_hold() -> None:
    """At most so many samples of a class, and the same ones each time."""
    few = DataSettings(train_per_class=7)
    samples = grant(few, 1, ROLES, ["retain"]).retain
    assert samples is not None and samples.labels.bincount().tolist() == [0, 7, 7, 0, 0, 7, 7, 7, 7, 7]
    again = grant(few, 1, ROLES, ["retain"]).retain
    assert again is not None and torch.equal(again.ids, samples.ids)


@pytest.mark.parametrize("ask", [grant, grant_by_task])
def test_zero_shot_opens_no_dataset(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that declares weights alone: no dataset is opened, and no other process is asked to."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a dataset was opened")

    monkeypatch.setattr(grants, "open_data", refuse)
    monkeypatch.setattr(grants, "_grant", None)
    nothing = ask(DATA, 1, ROLES, ["weights"])
    assert nothing.forget is None and nothing.retain is None
    if ask is grant:
        with pytest.raises(AssertionError):
            ask(DATA, 1, ROLES, ["weights", "retain"])
