"""Generators that a run does not train from nothing: pre-trained on data, given, or handed on by a version.

A generator shows every class that it was trained with. So none is handed on to a version that has forgotten
more than the one before, and one that is trained on data never meets what the lineage has forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import ray
from torch import Tensor

from rayunlearn.auditing.labelled import open_data
from rayunlearn.errors import BadInput
from rayunlearn.execution import torch_process
from rayunlearn.execution.device import own_device
from rayunlearn.inversion.model_inversion import generator_spec
from rayunlearn.ledger.lineage import Version
from rayunlearn.lineages.beside_versions import name_beside
from rayunlearn.methods.conditional_gan import ConditionalGAN
from rayunlearn.methods.few_shot import FewShotSettings
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.conditional_generator import build_conditional_generator
from rayunlearn.models.weights import (
    Weights,
    load_into,
    load_weights_file,
    weights_from_bytes,
    weights_to_bytes,
)
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed
from rayunlearn.serving.grants import not_forgotten
from rayunlearn.storage.store import Store

GENERATORS = "generators"
GAN_LABEL_STD = 0.2
"""Of the label vectors that a training on data begins with; see `conditional_gan` on larger ones."""


def generator_to_begin_with(
    store: Store, recipe: Recipe, parent: Version, pretrained: Callable[[Version], Weights] | None
) -> Weights | None:
    """The generator that a run takes over; None where it trains its own.

    Args:
        store: the storage location.
        recipe: of the run.
        parent: the version to unlearn from.
        pretrained: gives the one that the method declares, for a version to unlearn from.

    Raises:
        BadInput: the method declares one and there is none.
    """
    if "pretrained_generator" in method_named(recipe.method).data_access:
        if pretrained is None:
            allowed = f"a generator that was trained elsewhere, which {recipe.method!r} declares"
            raise BadInput("pretrained generator", None, allowed)
        return pretrained(parent)
    name = _trained(recipe, parent.lineage, parent.version)
    if not recipe.few_shot.keep_generator or not store.exists(name):
        return None
    return weights_from_bytes(store.get(name), name)


def hand_on_generators(store: Store, recipe: Recipe, parent: Version, version: str, trained: Weights) -> None:
    """Hand generators on to whoever unlearns from a version that has forgotten no more than its parent.

    The one that was trained on data is handed on as it is; the run's own where the recipe says so.

    Args:
        store: the storage location.
        recipe: of the run.
        parent: the version that was unlearned from.
        version: id of the one that is published.
        trained: the run's generator.
    """
    if recipe.few_shot.keep_generator:
        store.put(_trained(recipe, parent.lineage, version), weights_to_bytes(trained))
    before = pretrained_name(recipe, parent.lineage, parent.version)
    if store.exists(before):
        store.put(pretrained_name(recipe, parent.lineage, version), store.get(before))


def given_generator(path: str | Path, spec: ClassifierSpec, settings: FewShotSettings) -> Weights:
    """The weights in a file of a generator that was trained elsewhere, on CPU.

    Raises:
        BadInput: they are none, or not those of a generator of this shape.
    """
    shape = generator_spec(spec, settings.model_inversion)
    generator = build_conditional_generator(shape, 0)
    load_into(generator, load_weights_file(path), f"generator file {path}")
    return dict(generator.state_dict())


def pretrained_name(recipe: Recipe, lineage: str, version: str) -> str:
    """Where the generator that was trained on data for a version is stored."""
    inversion = recipe.few_shot.model_inversion
    made_by = {"gan": asdict(recipe.few_shot.gan), "z_dim": inversion.z_dim, "width": inversion.width}
    return name_beside(GENERATORS, lineage, version, made_by)


def train_on_data(
    data: DataSettings,
    spec: ClassifierSpec,
    settings: FewShotSettings,
    split_seed: int,
    seed: int,
    roles: Roles | None = None,
) -> Weights:
    """The conditional DCGAN of "Ours+", trained on the training images; opens the dataset.

    Its shape is that of the generator which model inversion would train, so that either does for a run.

    Args:
        data: the dataset.
        spec: of the classifier that will look at its images.
        settings: the GAN's, and the shape.
        split_seed: of training and test images.
        seed: of the training.
        roles: what was forgotten before, whose images it is not shown; None: nothing.
    """
    dataset, parts = open_data(data, split_seed)
    shape = generator_spec(spec, settings.model_inversion)
    first = build_conditional_generator(shape, derive_seed(seed, "generator"), label_std=GAN_LABEL_STD)
    ids = parts.train_ids if roles is None else not_forgotten(parts.train_ids, dataset.labels, roles)
    images, labels = dataset.images[ids], dataset.labels[ids]
    gan = ConditionalGAN(first, images, labels, settings.gan, derive_seed(seed, "gan"), own_device())
    gan.advance(1, gan.steps)
    return {name: value.cpu() for name, value in gan.generator().state_dict().items()}


@ray.remote
def train_on_data_task(
    data: DataSettings,
    spec: ClassifierSpec,
    settings: FewShotSettings,
    split_seed: int,
    seed: int,
    roles: Roles,
    threads: int,
) -> dict[str, Tensor]:
    """`train_on_data` in a process that may open data."""
    torch_process.set_up(threads)
    return train_on_data(data, spec, settings, split_seed, seed, roles)


def _trained(recipe: Recipe, lineage: str, version: str) -> str:
    return name_beside(GENERATORS, lineage, version, asdict(recipe.few_shot.model_inversion))
