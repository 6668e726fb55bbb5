"""Generators that were trained on data: what they are shown, and how long they are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rayunlearn.serving.generators as generators
from rayunlearn.auditing.labelled import open_data
from rayunlearn.errors import BadInput
from rayunlearn.ledger.lineage import Version
from rayunlearn.methods.conditional_gan import ConditionalGAN, ConditionalGANSettings
from rayunlearn.models.weights import weights_from_bytes, weights_to_bytes
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.roles import Roles
from rayunlearn.serving.generators import (
    generator_to_begin_with,
    hand_on_generators,
    pretrained_name,
    train_on_data,
)
from rayunlearn.storage.store import Store
from tests.serving.tiny import memory_store, same_bits, stored_original, tiny_recipe

SPLIT, SEED = 3, 5


def recipe() -> Recipe:
    """A GAN of an epoch."""
    shape = ("few_shot.model_inversion.width=0.1", "few_shot.model_inversion.z_dim=8")
    tiny = tiny_recipe("digits_few_shot", *shape)
    gan = ConditionalGANSettings(epochs=1, batch_size=128, discriminator_width=0.1)
    return replace(tiny, few_shot=replace(tiny.few_shot, gan=gan), method="few_shot_pretrained")


def version(name: str, *forgotten: int) -> Version:
    """A version of the default lineage."""
    return Version(
        version=name, parent=None, lineage="default", path=name, request_ids=(), run_id=None,
        classes_forgotten=forgotten, model={},
    )  # fmt: skip


def test_what_the_lineage_has_forgotten_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its classes nor its single samples; everything else of the training images is."""
    shown = []

    class Watched(ConditionalGAN):
        def __init__(self, first, images, labels, *more):  # type: ignore[no-untyped-def]
            shown.append((images, labels))
            super().__init__(first, images, labels, *more)

    monkeypatch.setattr(generators, "ConditionalGAN", Watched)
    dataset, parts = open_data(DataSettings(), SPLIT)
    labels = dataset.labels[parts.train_ids]
    gone = parts.train_ids[labels == 2][:3]
    roles = Roles(retain=(), target=(), forgotten=(9, 4), forgotten_samples=tuple(gone.tolist()))
    spec, _ = stored_original()
    train_on_data(DataSettings(), spec, recipe().few_shot, SPLIT, SEED, roles)
    ((images, seen),) = shown
    expected = parts.train_ids[(labels != 9) & (labels != 4)]
    expected = expected[~torch.isin(expected, gone)]
    assert torch.equal(images, dataset.images[expected]) and torch.equal(seen, dataset.labels[expected])
    assert len(expected) == len(parts.train_ids) - int(((labels == 9) | (labels == 4)).sum()) - 3


@pytest.mark.learned
def test_it_begins_with_label_vectors_smaller_than_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the noise's size let a GAN do without the noise."""
    begun = []

    class Watched(ConditionalGAN):
        def __init__(self, first, *more):  # type: ignore[no-untyped-def]
            begun.append(float(first.embedding.weight.detach().std()))
            super().__init__(first, *more)

    monkeypatch.setattr(generators, "ConditionalGAN", Watched)
    spec, _ = stored_original()
    train_on_data(DataSettings(), spec, recipe().few_shot, SPLIT, SEED)
    assert begun[0] > 0.1 and begun[0] < 0.4


def test_it_is_handed_on_to_the_next_version_as_it_is() -> None:
    """And found there by whoever was given the same settings."""
    store, weights = memory_store(), {"a": torch.arange(3.0)}
    before = version("before")
    store.put(pretrained_name(recipe(), "default", "before"), weights_to_bytes(weights))
    hand_on_generators(store, recipe(), before, "after", {"b": torch.zeros(1)})
    found = store.get(pretrained_name(recipe(), "default", "after"))
    assert same_bits(weights_from_bytes(found), weights)
    other = replace(recipe(), few_shot=replace(recipe().few_shot, gan=ConditionalGANSettings(epochs=2)))
    assert not store.exists(pretrained_name(other, "default", "after"))


def test_who_declares_one_is_given_it_for_the_version_to_unlearn_from() -> None:
    """The version is named to whoever trains it; nobody there is an error."""
    asked: list[Version] = []

    def pretrained(parent: Version) -> dict[str, torch.Tensor]:
        asked.append(parent)
        return {"a": torch.ones(1)}

    store: Store = memory_store()
    given = generator_to_begin_with(store, recipe(), version("head", 9), pretrained)
    assert given is not None and asked == [version("head", 9)]
    with pytest.raises(BadInput, match="pretrained generator"):
        generator_to_begin_with(store, recipe(), version("head"), None)
