"""Settings of *Zero-Shot Machine Unlearning*, section V.A, for each of its datasets and models.

What the paper leaves open: how the originals were trained besides batch size and epochs (Adam with a
one-cycle rate here), the synthetic sets (DeepInversion settings by which a second model recognises 76 to
100 % of the images, docs/log.md, 38), and the settings of the methods that it compares with (their own
papers' defaults).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rayunlearn.evaluation.anamnesis import RelearnSettings
from rayunlearn.inversion.deep_inversion import InversionSettings
from rayunlearn.methods.gkt.settings import GatedInversionSettings, GKTSettings
from rayunlearn.methods.min_max import MinMaxSettings
from rayunlearn.methods.training import TrainSettings
from rayunlearn.methods.trivial import TrivialSettings
from rayunlearn.recipes.recipe import AuditSettings, DataSettings, ModelSettings, Recipe, ValidationSettings

DATASETS = ("cifar10", "svhn", "mnist")
MODELS = ("allcnn", "lenet", "resnet9")

EPOCHS = {"cifar10": 40, "svhn": 10, "mnist": 10}
"""Of originals and retrained models."""

TEMPERATURE = {"cifar10": 0.5, "svhn": 1.0, "mnist": 1.0}

IMPAIR = {"cifar10": (2, 0.01), "svhn": (3, 0.001), "mnist": (1, 0.01)}
"""Impair steps of Error min-max noise, and their rate."""


def paper_recipe(dataset: str, model: str) -> Recipe:
    """The paper's settings for a dataset and a model, of every method; `method` is GKT."""
    epochs, rate = IMPAIR[dataset]
    return Recipe(
        name=f"{dataset}_{model}",
        method="gkt",
        data=DataSettings(dataset=dataset, test_fraction=None),
        model=ModelSettings(name=model, width=1.0),
        train=TrainSettings(epochs=EPOCHS[dataset], batch_size=256, weight_decay=1e-4),
        # as the published code has it: both rates 1e-3 (the paper says 0.01 on MNIST, with which the loss on
        # synthetic images stays at 0.2 where this one comes to 0.03, docs/log.md, 40), the generator's halved
        # every 150 cycles, the student's on a plateau
        gkt=GKTSettings(
            temperature=TEMPERATURE[dataset], generator_halving=150, student_schedule="plateau"
        ),
        gated_inversion=_gated_inversion(model),
        min_max=MinMaxSettings(impair_epochs=epochs, impair_lr=rate),
        inversion=InversionSettings(
            iterations=200 if model == "lenet" else 300, lr=0.2, jitter=2, bounded=False
        ),
        validation=ValidationSettings(checkpoint_every=10),
        # 20, as for the digits, leaves LeNet on MNIST 41 % of the class (docs/log.md, 39)
        trivial=TrivialSettings(offset=100.0),
        audit=AuditSettings(relearn=RelearnSettings(batch_size=256), trivial_offset=100.0),
    )


def _gated_inversion(model: str) -> GatedInversionSettings:
    """The project's default, which the paper has not.

    The 60 cycles of the digits end while the student still learns at 28x28 pixels: after 240 its loss on
    synthetic images is a fifth (docs/log.md, 61).

    LeNet has no BatchNorm for inverted images to match: they cover little of what real ones are, so that
    the generator has to show more, and for longer, and the student has to look where the teacher looks: the
    paper's attention loss, whose beta is ten times as large where the divergence is a mean over samples
    (docs/log.md, 46 and 58).
    """
    if model != "lenet":
        return GatedInversionSettings(cycles=240, schedule_cycles=240)
    return GatedInversionSettings(
        cycles=360, schedule_cycles=360, generated_share=0.8, jitter=3, contrast=0.25, beta=2500.0
    )


def recipes() -> dict[str, Callable[[], Recipe]]:
    """The recipe of every dataset and model, by name."""
    return {f"{d}_{m}": partial(paper_recipe, d, m) for d in DATASETS for m in MODELS}
