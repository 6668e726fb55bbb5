"""What models say about images, computed once: every accuracy and every distance is a function of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import ClassCounts, check_images
from rayunlearn.fields import check_value
from rayunlearn.models.modes import device_of, evaluating
from rayunlearn.streamed import Images

SUM_TOLERANCE = 1e-4
"""How far from 0 the log of an image's summed probabilities may be. Rounding of K <= 1000 log-probabilities
to float32 stays below 1e-5; logits, or probabilities without their logarithm, are far above as a rule."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """One model's answers for N images of K classes.

    >>> answers = Predictions(torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log(), torch.tensor([0, 1]))
    >>> answers.predicted, answers.counts().accuracy([0]), answers.of([1]).counts().sums([1])
    (tensor([0, 0]), 1.0, (0, 1))

    Raises:
        BadInput: another dtype, shape or device, labels that do not fit, or rows that are no
            log-probabilities: NaN, or a sum of probabilities other than 1 (logits given by mistake).
    """

    log_probs: Tensor
    """Natural log of the softmax, float32 [N, K] on CPU; minus infinity is allowed, NaN is not.

    Logarithms, because a float32 probability under 1e-45 is 0: what a masked or a very sure model
    says about its other classes would be gone.
    """
    labels: Tensor
    """What the images are, int64 [N] on CPU, ids of 0..K-1."""

    def __post_init__(self) -> None:
        """Refuse what is not log-probabilities of labelled images."""
        for name, tensor, dtype, shape in (
            ("log_probs", self.log_probs, torch.float32, "[N, K]"),
            ("labels", self.labels, torch.int64, "[N]"),
        ):
            if (tensor.dtype, tensor.device.type, tensor.dim()) != (dtype, "cpu", shape.count(",") + 1):
                found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
                raise BadInput(name, found, f"{dtype} {shape} on cpu", where="Predictions")
        check_images(self.log_probs, self.labels, self.num_classes, "Predictions")
        fine = self.log_probs.logsumexp(dim=1).abs() <= SUM_TOLERANCE  # False for NaN
        if not fine.all():
            thing = "number of images whose probabilities do not sum to 1"
            raise BadInput(thing, int((~fine).sum()), "0", where="Predictions")

    @property
    def num_classes(self) -> int:
        """K."""
        return self.log_probs.shape[1]

    @property
    def predicted(self) -> Tensor:
        """The likeliest class of each image, int64 [N]; of equally likely ones the first."""
        return self.log_probs.argmax(dim=1)

    def of(self, classes: Sequence[int]) -> Predictions:
        """The answers for the images of these classes, in their order.

        Raises:
            BadInput: no class, an unknown or a repeated one, or one that has no images.
        """
        ids = check_classes(classes, self.num_classes, "Predictions.of")
        for class_id in ids:
            if not (self.labels == class_id).any():
                thing = f"number of images of class {class_id}"
                raise BadInput(thing, 0, "at least 1", where="Predictions.of")
        kept = torch.isin(self.labels, torch.tensor(ids))
        return Predictions(self.log_probs[kept], self.labels[kept])

    def counts(self) -> ClassCounts:
        """Correct, shown and predicted images per class: what `class_counts` counts of the model."""
        return ClassCounts(
            correct=torch.bincount(self.labels[self.predicted == self.labels], minlength=self.num_classes),
            total=torch.bincount(self.labels, minlength=self.num_classes),
            predicted=torch.bincount(self.predicted, minlength=self.num_classes),
        )


def check_classes(classes: Sequence[int], num_classes: int, where: str) -> list[int]:
    """The class ids: at least one, each of 0..K-1 and given once.

    Raises:
        BadInput: named for `where`.
    """
    ids = [int(class_id) for class_id in classes]
    known = all(0 <= class_id < num_classes for class_id in ids)
    if not ids or not known or len(set(ids)) != len(ids):
        allowed = f"at least one of 0..{num_classes - 1}, each once"
        raise BadInput("classes", ids, allowed, where=where)
    return ids


def predict(
    models: Mapping[str, nn.Module], images: Images, labels: Tensor, batch_size: int = 1024
) -> dict[str, Predictions]:
    """What each model says about the images, in eval mode, by one pass over the data.

    A batch is moved once to each device and given to every model there: one forward pass for each
    model and batch, whatever is measured afterwards. Every model gets a copy of the batch, since one
    that changes its input in place would change what the next one sees. The models are left as they
    were. Four bytes are kept for each model, image and class.

    Args:
        models: by name; each images [B, C, H, W] -> logits [B, K], on any device.
        images: [N, C, H, W], normalised.
        labels: integers [N].
        batch_size: images per forward pass.

    Returns:
        The models' answers under their names, in their order. `predicted` is the argmax of the
        logits, ties that rounding to float32 makes included.

    Raises:
        BadInput: no model, no images, labels that do not fit, logits of another shape than [B, K],
            models with different K, or a logit that is NaN or infinite.
    """
    where = "predict"
    if not models:
        raise BadInput("models", [], "at least one", where=where)
    check_value("batch_size", batch_size, PositiveInt, where=where)
    if not len(images):
        raise BadInput("number of images", 0, "at least 1", where=where)
    devices = {name: device_of(model) for name, model in models.items()}
    parts: dict[str, list[Tensor]] = {name: [] for name in models}
    not_finite = dict.fromkeys(models, 0)
    first: tuple[str, int] | None = None  # whose number of classes the others must have
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        for batch in images.split(batch_size):
            moved: dict[torch.device, Tensor] = {}
            for name, model in models.items():
                device = devices[name]
                if device not in moved:
                    moved[device] = batch.to(device)
                logits = model(moved[device].clone())
                num_classes = _num_classes(name, logits, len(batch))
                if first is None:
                    first = (name, num_classes)
                    check_images(images, labels, num_classes, where)
                elif num_classes != first[1]:
                    allowed = f"{first[1]}, that of model {first[0]!r}"
                    raise BadInput(f"number of classes of model {name!r}", num_classes, allowed, where=where)
                not_finite[name] += int((~logits.isfinite().all(dim=1)).sum())
                parts[name].append(_log_probs(logits.cpu()))
    for name, number in not_finite.items():
        if number:
            sentence = f"the logits of model {name!r} are not finite for {number} of {len(images)} images"
            raise BadInput("number of images with NaN or infinite logits", number, "0", where=sentence)
    labels = labels.to("cpu", torch.int64, copy=True)
    return {name: Predictions(torch.cat(rows), labels) for name, rows in parts.items()}


def _num_classes(name: str, logits: Tensor, count: int) -> int:
    """K of a model's logits for `count` images."""
    if logits.dim() != 2 or logits.shape[0] != count or not logits.shape[1]:
        thing = f"shape of the logits of model {name!r}"
        raise BadInput(thing, list(logits.shape), f"[{count}, K]", where="predict")
    return logits.shape[1]


def _log_probs(logits: Tensor) -> Tensor:
    """Log of the softmax, computed in float64 and rounded to float32: [B, K] -> [B, K].

    Rounding keeps the order but can make two classes equal, and argmax would then name the first of
    them. The greatest logit's class is raised by one unit in the last place there: no more than
    rounding itself, and the prediction stays the model's.
    """
    log_probs = logits.double().log_softmax(dim=1).float()
    best = logits.argmax(dim=1)
    rows = (log_probs.argmax(dim=1) != best).nonzero().flatten()
    greatest = log_probs[rows, best[rows]]
    log_probs[rows, best[rows]] = greatest.nextafter(torch.zeros_like(greatest))
    return log_probs
