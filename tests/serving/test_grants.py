"""What a run is handed of real data: what is declared, and nothing else."""

from __future__ import annotations

import pytest
import torch

from rayunlearn.data.datasets import load_dataset
from rayunlearn.data.splits import split
from rayunlearn.errors import BadInput
from rayunlearn.recipes import DataSettings
from rayunlearn.roles import Roles
from rayunlearn.serving import grants
from rayunlearn.serving.grants import check_samples, grant, grant_by_task

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


def test_single_samples_are_handed_over_once() -> None:
    """Those named are to forget, the others of their class to retain; once forgotten, neither ever again."""
    train = grant(DATA, 1, ROLES, ["retain"]).retain
    assert train is not None
    first, second = tuple(train.ids[:3].tolist()), tuple(train.ids[3:5].tolist())
    some = Roles(retain=ROLES.retain, target=(), forgotten=(0, 3, 4), target_samples=first)
    both = grant(DATA, 1, some, ["forget", "retain"])
    assert both.forget is not None and both.retain is not None
    assert both.forget.ids.tolist() == list(first)
    assert torch.equal(both.retain.ids, train.ids[3:])
    more = Roles(
        retain=ROLES.retain, target=(), forgotten=(0, 3, 4), target_samples=second, forgotten_samples=first
    )
    assert more.forget_samples == (*first, *second)
    retain = grant(DATA, 1, more, ["retain"]).retain
    assert retain is not None and torch.equal(retain.ids, train.ids[5:])
    label = int(train.labels[0])
    later = Roles(
        retain=tuple(c for c in ROLES.retain if c != label), target=(label,), forgotten=(0, 3, 4),
        forgotten_samples=first,
    )  # fmt: skip
    whole = grant(DATA, 1, later, ["forget", "retain"])
    assert whole.forget is not None and whole.retain is not None
    assert torch.equal(whole.forget.ids, train.ids[3:][train.labels[3:] == label])
    assert not torch.isin(torch.cat([whole.forget.ids, whole.retain.ids]), torch.tensor(first)).any()


def test_samples_that_cannot_be_forgotten_are_named() -> None:
    """Beyond the dataset, held out for testing, of a class that is gone, all that is left of a class.

    Nothing is handed over. Negative control: the training samples beside them are no reason to refuse.
    """
    dataset = load_dataset("digits")
    few = DataSettings(train_per_class=2)
    train = grant(few, 1, Roles(retain=tuple(range(10)), target=()), ["retain"]).retain
    assert train is not None
    of = {c: train.ids[train.labels == c].tolist() for c in range(10)}
    held_out = int(split(dataset, few.test_fraction, 1).test_ids[0])
    good, (last, other) = of[1][0], sorted(of[5])
    for target, forgotten, before, named, allowed in (
        ((good, 1797, 2000), (), (), [1797, 2000], "indices into 'digits', 0 to 1796"),
        ((good, held_out), (), (), [held_out], "training samples of 'digits'; these are not trained on"),
        ((good, of[0][1]), (0,), (), [of[0][1]], "samples of classes not forgotten already, which are"),
        ((good, last, other), (), (), [last, other], "leaves a training sample of each class"),
        ((good, last), (), (other,), [last], "leaves a training sample of each class"),
    ):
        roles = Roles(
            retain=tuple(c for c in range(10) if c not in forgotten), target=(), forgotten=forgotten,
            target_samples=tuple(sorted(target)), forgotten_samples=before,
        )  # fmt: skip
        for ask in (check_samples, lambda *a: grant(*a, ["retain"])):
            with pytest.raises(BadInput) as error:
                ask(few, 1, roles)
            assert (error.value.thing, error.value.value) == ("target sample", named)
            assert allowed in error.value.allowed
    fine = Roles(retain=tuple(range(10)), target=(), target_samples=(good,))
    check_samples(few, 1, fine)
    many = Roles(retain=tuple(range(10)), target=(), target_samples=tuple(range(5000, 5300)))
    with pytest.raises(BadInput, match=r"5009\]; .*300 in all, the first are shown"):
        check_samples(few, 1, many)


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
