"""Generators that a run does not train from nothing: pre-trained on data, given, or handed on by a version.

A generator shows every class that it was trained with. So one that is handed on from request to request goes
with the first class that is forgotten, and one that was trained on data goes with the lineage's files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import ray
import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.methods.conditional_gan import ConditionalGAN
from rayunlearn.methods.few_shot import FewShotSettings
from rayunlearn.methods.registry import method_named
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.conditional_generator import ConditionalGeneratorSpec, build_conditional_generator
from rayunlearn.models.weights import weights_from_bytes, weights_to_bytes
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.results.store import Store
from rayunlearn.runtime.beside_versions import name_beside
from rayunlearn.runtime.device import own_device
from rayunlearn.runtime.labelled import open_data
from rayunlearn.seeds import derive_seed

Weights = dict[str, Tensor]
GENERATORS = "generators"
PRETRAINED = "generators/pretrained.safetensors"
"""Of the one that was trained on the data of a storage location."""


def generator_to_begin_with(
    store: Store, recipe: Recipe, lineage: str, version: str, pretrained: Callable[[], Weights] | None
) -> Weights | None:
    """The generator that a run takes over; None where it trains its own.

    Args:
        store: the storage location.
        recipe: of the run.
        lineage: of the version.
        version: to unlearn from.
        pretrained: gives the one that the method declares.

    Raises:
        BadInput: the method declares one and there is none.
    """
    if "pretrained_generator" in method_named(recipe.method).data_access:
        if pretrained is None:
            allowed = f"a generator that was trained elsewhere, which {recipe.method!r} declares"
            raise BadInput("pretrained generator", None, allowed)
        return pretrained()
    name = _name(recipe, lineage, version)
    if not recipe.few_shot.keep_generator or not store.exists(name):
        return None
    return weights_from_bytes(store.get(name), name)


def keep_generator(store: Store, recipe: Recipe, lineage: str, version: str, weights: Weights) -> None:
    """Hand a generator on to whoever unlearns from a version, where the recipe says so."""
    if recipe.few_shot.keep_generator:
        store.put(_name(recipe, lineage, version), weights_to_bytes(weights))


def train_on_data(
    data: DataSettings, spec: ClassifierSpec, settings: FewShotSettings, split_seed: int, seed: int
) -> Weights:
    """The conditional DCGAN of "Ours+", trained on the training images; opens the dataset.

    Its shape is that of the generator which model inversion would train, so that either does for a run.
    """
    dataset, parts = open_data(data, split_seed)
    low, high = spec.pixel_range
    shape = ConditionalGeneratorSpec(
        channels=spec.in_channels, image_size=spec.image_size, num_classes=spec.num_classes,
        low=low, high=high, z_dim=settings.model_inversion.z_dim, width=settings.model_inversion.width,
    )  # fmt: skip
    first = build_conditional_generator(shape, derive_seed(seed, "generator"))
    images, labels = dataset.images[parts.train_ids], dataset.labels[parts.train_ids]
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
    threads: int,
) -> dict[str, Tensor]:
    """`train_on_data` in a process that may open data."""
    torch.set_num_threads(threads)
    return train_on_data(data, spec, settings, split_seed, seed)


def _name(recipe: Recipe, lineage: str, version: str) -> str:
    return name_beside(GENERATORS, lineage, version, asdict(recipe.few_shot.model_inversion))
