"""DELETE, data-free: the original unlearns on images of the class, taught its own answer without it.

"Decoupled Distillation to Erase" (CVPR 2025, arXiv 2503.23751): on the data to forget, D_KL(T || S) where T
is the softmax of the frozen original with the true class's logit masked. The target erases the class and
keeps what the original says of the others ("dark knowledge"), so no data to retain is needed. The paper
feeds it the real data to forget; here it is fed DeepInversion images of the class, made from the weights
alone.

Deviations. Every class to be gone is masked, not only the image's own: an image of one must not be taught
as another, nor as one forgotten earlier, which the original may still lean to. For a single first class
that is the paper's target. Images of the classes to retain can be added (`retain_weight`), with the same
targets; the paper has none.

The student starts from the original's weights, so retain accuracy says little of what was forgotten:
judge it by probe and relearning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, ShareBelowOne
from rayunlearn.methods.distillation import kl_divergence, mask_classes
from rayunlearn.methods.unlearning import Handed, Method, Stage, StagedTraining, batch_ids, required
from rayunlearn.models.classifiers import Classifier
from rayunlearn.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class DeleteSettings(Checked, section="delete"):
    """Settings of DELETE; the defaults are the published code's for CIFAR-10 and ResNet-18.

    Attributes:
        steps: optimizer steps; 20 epochs of 40 batches as published. They go with `lr`: a few steps need
            a higher one.
        batch_size: images to forget in a batch, and images to retain where they are added.
        lr: of SGD, constant; the published code has 5e-5 for its other data and models.
        momentum: of SGD.
        freeze_batchnorm: BatchNorm keeps the original's running statistics, rather than taking those of
            batches of the class to forget alone; as published for one class of Tiny ImageNet.
        retain_weight: of the divergence on images to retain; 0 in the paper.
        forget_images: DeepInversion images of each class to forget, in place of the paper's real ones.
        retain_images: of each class to retain, where `retain_weight` is above 0.
    """

    steps: PositiveInt = 800
    batch_size: PositiveInt = 128
    lr: PositiveFloat = 1e-4
    momentum: ShareBelowOne = 0.9
    freeze_batchnorm: bool = False
    retain_weight: NonNegativeFloat = 0.0
    forget_images: PositiveInt = 128
    retain_images: PositiveInt = 128


def begin(handed: Handed, settings: DeleteSettings, device: str = "cpu") -> StagedTraining:
    """A run that starts from the original; a step is an optimizer step.

    Raises:
        BadInput: a class that it learns from has no DeepInversion image.
    """
    terms = [(1.0, _divergence(handed, handed.roles.target, settings, device))]
    if settings.retain_weight > 0:
        terms.append((settings.retain_weight, _divergence(handed, handed.roles.retain, settings, device)))
    stage = Stage(
        steps=settings.steps,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum),
        loss=lambda student, step: torch.stack([w * term(student, step) for w, term in terms]).sum(),
        train_mode=not settings.freeze_batchnorm,
    )
    return StagedTraining(handed.model(device), [stage])


def _divergence(
    handed: Handed, classes: Sequence[int], settings: DeleteSettings, device: str
) -> Callable[[Classifier, int], Tensor]:
    """D_KL(T || S) on a step's batch of the inverted images of `classes`, T without the forget classes."""
    inverted = required(handed, "inverted", METHOD.name).of(classes)
    missing = sorted(set(classes) - set(inverted.labels.tolist()))
    if missing:
        raise BadInput("classes without an inverted image", missing, "none")
    images = inverted.images.to(device)
    with torch.no_grad():
        targets = mask_classes(handed.model(device)(images), handed.roles.forget)
    seed = derive_seed(handed.seed, "delete", *classes)

    def divergence(student: Classifier, step: int) -> Tensor:
        ids = batch_ids(len(images), settings.batch_size, step, seed)
        return kl_divergence(targets[ids], student(images[ids]))

    return divergence


def inverted_images(settings: DeleteSettings) -> tuple[int, int]:
    """DeepInversion images of each class to retain and to forget that it learns from."""
    return settings.retain_images if settings.retain_weight > 0 else 0, settings.forget_images


METHOD = Method(
    name="delete",
    summary="the original is taught its own answer without the class, on DeepInversion images of it",
    source="Decoupled Distillation to Erase (CVPR 2025), fed with DeepInversion images",
    data_access=frozenset({"weights"}),
    granularity=frozenset({"classes"}),
    section="delete",
    begin=begin,
    inverted=inverted_images,
)
