"""Accuracy per class, kept as sums and counts and divided once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.fields import check_value
from rayunlearn.models.modes import device_of, evaluating
from rayunlearn.streamed import Images


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """How often each class was shown, recognised and predicted.

    Counts of disjoint sets of images add up, so they are pooled first and divided once:

    >>> a = ClassCounts(torch.tensor([1, 0]), torch.tensor([1, 1]), torch.tensor([2, 0]))
    >>> b = ClassCounts(torch.tensor([2, 0]), torch.tensor([2, 0]), torch.tensor([2, 0]))
    >>> (a + b).accuracy([0, 1])
    0.75
    """

    correct: Tensor
    """Images of class k that were predicted as k, int64 [K]."""
    total: Tensor
    """Images of class k, int64 [K]."""
    predicted: Tensor
    """Images of any class that were predicted as k, int64 [K]."""

    def __post_init__(self) -> None:
        """Refuse counts that differ in their number of classes."""
        shapes = {tuple(counts.shape) for counts in (self.correct, self.total, self.predicted)}
        if len(shapes) != 1 or self.correct.dim() != 1:
            raise BadInput("shapes of the class counts", sorted(shapes), "one shape [K] for all three")

    def __add__(self, other: ClassCounts) -> ClassCounts:
        """Pool the counts of two sets of images."""
        if other.num_classes != self.num_classes:
            raise BadInput("number of classes", other.num_classes, str(self.num_classes), where="ClassCounts")
        return ClassCounts(
            self.correct + other.correct, self.total + other.total, self.predicted + other.predicted
        )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.total)

    def sums(self, classes: Sequence[int]) -> tuple[int, int]:
        """Correct predictions and images over `classes`; a class without images adds 0 to both."""
        ids = self._ids(classes)
        return int(self.correct[ids].sum()), int(self.total[ids].sum())

    def accuracy(self, classes: Sequence[int]) -> float:
        """Share of the images of `classes` that are predicted as what they are (micro average).

        Raises:
            BadInput: no class is given, or one of them has no images: a class that was never shown
                has no accuracy, and leaving it out silently would report another set of classes.
        """
        ids = self._ids(classes)
        if not ids:
            raise BadInput("classes", [], f"at least one of 0..{self.num_classes - 1}", where="accuracy")
        for class_id in ids:
            if int(self.total[class_id]) == 0:
                raise BadInput(f"number of images of class {class_id}", 0, "at least 1", where="accuracy")
        correct, count = self.sums(ids)
        return correct / count

    def _ids(self, classes: Sequence[int]) -> list[int]:
        """The class ids, each known and given once."""
        ids = [int(class_id) for class_id in classes]
        allowed = f"different ids of 0..{self.num_classes - 1}"
        if len(set(ids)) != len(ids) or any(not 0 <= class_id < self.num_classes for class_id in ids):
            raise BadInput("classes", ids, allowed, where="class counts")
        return ids


def check_images(images: Images, labels: Tensor, num_classes: int, where: str) -> None:
    """Refuse images and labels that do not belong together, or labels that are no class ids.

    Args:
        images: [N, ...].
        labels: [N] integers.
        num_classes: K; labels are 0..K-1.
        where: named in the error.
    """
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise BadInput("labels", f"{labels.dtype} {list(labels.shape)}", "integers of shape [N]", where=where)
    if len(images) != len(labels):
        raise BadInput("number of labels", len(labels), f"{len(images)}, one an image", where=where)
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < num_classes):
        found = [int(labels.min()), int(labels.max())]
        raise BadInput("range of the labels", found, f"0..{num_classes - 1}", where=where)


def class_counts(
    model: nn.Module, images: Images, labels: Tensor, num_classes: int, batch_size: int = 1024
) -> ClassCounts:
    """Count what the model predicts, per class, in eval mode; the model is left as it was.

    Args:
        model: images [B, C, H, W] -> logits [B, K].
        images: [N, C, H, W], normalised; moved to the model's device batch by batch.
        labels: int64 [N].
        num_classes: K.
        batch_size: images per forward pass; it does not change the result.

    Raises:
        BadInput: labels do not fit, the model has another number of classes, or a logit is NaN or
            infinite: argmax would still name a class, and the count would look like a measurement.
    """
    check_value("batch_size", batch_size, PositiveInt, where="class_counts")
    check_images(images, labels, num_classes, "class_counts")
    device = device_of(model)
    predictions: list[Tensor] = []
    not_finite = 0
    with evaluating(model):
        for batch in images.split(batch_size):
            if not len(batch):
                continue
            logits = model(batch.to(device))
            if tuple(logits.shape) != (len(batch), num_classes):
                allowed = str([len(batch), num_classes])
                raise BadInput("shape of the logits", list(logits.shape), allowed, where="class_counts")
            not_finite += int((~logits.isfinite().all(dim=1)).sum())
            predictions.append(logits.argmax(dim=1).cpu())
    if not_finite:
        sentence = f"the model's logits are not finite for {not_finite} of {len(images)} images"
        raise BadInput("number of images with NaN or infinite logits", not_finite, "0", where=sentence)
    labels = labels.cpu().long()
    predicted = torch.cat(predictions) if predictions else labels.new_empty(0)
    return ClassCounts(
        correct=torch.bincount(labels[predicted == labels], minlength=num_classes),
        total=torch.bincount(labels, minlength=num_classes),
        predicted=torch.bincount(predicted, minlength=num_classes),
    )
