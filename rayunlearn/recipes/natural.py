"""Recipes of this project beyond the digits: AllCNN at the size of a few cores, served by partial restart.

An original is trained in 10 to 20 minutes on one core. The settings of images that a run is judged by are
those of `zero_shot`; a wider network wants no others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rayunlearn.inversion.deep_inversion import InversionSettings
from rayunlearn.methods.training import TrainSettings
from rayunlearn.recipes.recipe import DataSettings, ModelSettings, Recipe, ValidationSettings

EPOCHS = {"cifar10": 10, "svhn": 15, "mnist": 5}
"""Of originals and retrained models; of SVHN there are fewer images."""
WIDTH = {"cifar10": 0.25, "svhn": 0.25, "mnist": 0.125}


def natural(dataset: str) -> Recipe:
    """Partial restart of AllCNN on a data set."""
    return Recipe(
        name=dataset,
        method="partial_restart",
        data=DataSettings(dataset=dataset, test_fraction=None),
        model=ModelSettings(name="allcnn", width=WIDTH[dataset]),
        train=TrainSettings(
            epochs=EPOCHS[dataset], batch_size=128, weight_decay=0.01,
            crop=0 if dataset == "mnist" else 2, flips=dataset == "cifar10",
        ),
        inversion=InversionSettings(iterations=200, lr=0.2, jitter=2, bounded=False),
        validation=ValidationSettings(checkpoint_every=5),
    )  # fmt: skip


def recipes() -> dict[str, Callable[[], Recipe]]:
    """The recipe of every data set, by its name."""
    return {dataset: partial(natural, dataset) for dataset in EPOCHS}
