"""Three baselines that reach forget accuracy 0 without forgetting: they hide the class in the head.

None of them needs data and none touches the body, so the features hold the class as before: a probe,
or relearning, finds it. A method has to beat them on such measures, not on accuracy. Each is a function
of a model, and a method whose only step hides every class to be gone.

The relearn time of the first two is set by `offset` more than by what the model knows: SGD has to climb
it back. Digits, one seed, AllCNN width 0.25, class 0, relearning at batch 64, lr 0.1, no momentum: masked
4, 7 and 20 mini-batches at offset 20, 30 and 100; deleted row 9, 14 and 27 at 10, 20 and 100; Gaussian
head 9; two gold models 43 and 37. For class 3 the deleted row at 100 took 63 and gold 41, an anamnesis
index over 1 for a model that forgot nothing but its head: state the offset beside the index.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from rayunlearn.errors import BadInput
from rayunlearn.fields import Checked, check_value
from rayunlearn.methods.unlearning import Edit, Handed, Method
from rayunlearn.models.classifiers import Classifier
from rayunlearn.seeds import generator

DEFAULT_OFFSET = 100.0
"""By how much a hidden class's logit is lowered. On digits (AllCNN width 0.25, a model that saw all ten
classes) a class leads the others by at most 14.1 on any image, so that 20 hides it as well."""


def mask_logit(model: Classifier, classes: Sequence[int], *, offset: float = DEFAULT_OFFSET) -> Classifier:
    """Lower the forget logits by a constant, in the head's bias; everything else stays.

    Still weights of the same architecture with finite logits. Whoever can read the weights adds
    the constant back and has the original model: nothing at all was forgotten.

    Args:
        model: left as it is.
        classes: class ids to hide.
        offset: how much lower; above the widest lead of a forget logit over the others.

    Returns:
        A copy whose argmax is a retain class, the original's wherever that was one.
    """
    classes = _hidden_classes(model, classes)
    check_value("offset", offset, PositiveFloat, where="trivial baseline")
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.head.bias[classes] -= offset
    return masked


def delete_head_row(
    model: Classifier, classes: Sequence[int], *, offset: float = DEFAULT_OFFSET
) -> Classifier:
    """Empty the head's rows of the forget classes; everything else stays.

    A deleted row, in an architecture that keeps its K outputs, is a row that knows nothing of the
    class and never wins: weights 0, so that the logit is the same for every image, and a bias
    `offset` below the least bias of the head. What the row knew is gone for good, unlike in
    `mask_logit`; the features, from which it can be learned again, are as before.

    Args:
        model: left as it is.
        classes: class ids to hide.
        offset: how far below the least bias; the retain classes' best logit must stay above that.

    Returns:
        A copy whose argmax is a retain class, the original's wherever that was one.
    """
    classes = _hidden_classes(model, classes)
    check_value("offset", offset, PositiveFloat, where="trivial baseline")
    deleted = copy.deepcopy(model)
    with torch.no_grad():
        deleted.head.weight[classes] = 0
        deleted.head.bias[classes] = model.head.bias.min() - offset
    return deleted


@dataclass(frozen=True, kw_only=True)
class GaussianHeadSettings(Checked, section="trivial.gaussian"):
    """How the head is retrained on Gaussian embeddings; half a second at 48 features, 10 classes."""

    samples: PositiveInt = 10_000
    scale: PositiveFloat = 1.0
    """Standard deviation of the embeddings; 1 is N(0, I)."""
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 0.01
    """Of Adam, annealed to 0 by a cosine."""


def gaussian_head(
    model: Classifier,
    *,
    retain: Sequence[int],
    seed: int,
    settings: GaussianHeadSettings | None = None,
) -> Classifier:
    """Retrain a fresh head on Gaussian embeddings that the original head labels among `retain`.

    Embeddings z ~ N(0, I) stand in for the head's input; the label of each is the original head's
    argmax over the retain classes, so the other rows are never targets and sink. The body stays bit
    for bit, and so do the BatchNorm statistics.

    Source: synthetic embeddings (2026), as in the project's notes: N(0, I), labelled by the head. Real
    features are averages after a ReLU, so N(0, I) is off their support; it was kept all the same, because
    a linear head is recovered from its decision regions wherever they are sampled. Digits, AllCNN
    width 0.25, class 0 and class 3 forgotten, retain accuracy on test images: 97.8 and 98.1 % (the
    masked original 97.8 and 98.1 %), |N(0, I)| 97.3 and 98.4 %, relu(N(0, I)) 97.8 and 98.3 %.

    Args:
        model: left as it is.
        retain: class ids that keep their place; all others are hidden.
        seed: of embeddings, initialisation and order.
        settings: sample count and training; None for the defaults.
    """
    settings = settings or GaussianHeadSettings()
    num_classes, dim = model.head.out_features, model.head.in_features
    kept = sorted({int(class_id) for class_id in retain})
    _hidden_classes(model, [class_id for class_id in range(num_classes) if class_id not in kept])
    if any(not 0 <= class_id < num_classes for class_id in kept):
        raise BadInput("retain", kept, f"ids of 0..{num_classes - 1}", where="gaussian_head")

    draw = generator(seed, "gaussian_head", "embeddings")
    embeddings = settings.scale * torch.randn(settings.samples, dim, generator=draw)
    old_weight, old_bias = model.head.weight.detach().cpu(), model.head.bias.detach().cpu()
    labels = torch.tensor(kept)[functional.linear(embeddings, old_weight, old_bias)[:, kept].argmax(dim=1)]
    weight, bias = _fit_head(embeddings, labels, num_classes, settings, seed)

    retrained = copy.deepcopy(model)
    with torch.no_grad():
        retrained.head.weight.copy_(weight)
        retrained.head.bias.copy_(bias)
    return retrained


def _fit_head(
    embeddings: Tensor, labels: Tensor, num_classes: int, settings: GaussianHeadSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """Weight [K, D] and bias [K] of a head trained from scratch, on CPU so that every device agrees."""
    n, dim = embeddings.shape
    start = torch.rand(num_classes, dim, generator=generator(seed, "gaussian_head", "init"))
    weight = ((2 * start - 1) / math.sqrt(dim)).requires_grad_()  # the law of nn.Linear
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=settings.lr)
    steps = settings.epochs * math.ceil(n / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(settings.epochs):
        order = torch.randperm(n, generator=generator(seed, "gaussian_head", "order", epoch))
        for ids in order.split(settings.batch_size):
            optimizer.zero_grad(set_to_none=True)
            logits = functional.linear(embeddings[ids], weight, bias)
            functional.cross_entropy(logits, labels[ids]).backward()
            optimizer.step()
            schedule.step()
    return weight.detach(), bias.detach()


def _hidden_classes(model: Classifier, classes: Sequence[int]) -> list[int]:
    """The ids of the classes to hide: known, at least one, not all, in a head that has a bias."""
    num_classes = model.head.out_features
    ids = sorted({int(class_id) for class_id in classes})
    known = all(0 <= class_id < num_classes for class_id in ids)
    if not known or not 0 < len(ids) < num_classes:
        allowed = f"some, not all, of 0..{num_classes - 1}"
        raise BadInput("classes to hide", ids, allowed, where="trivial baseline")
    if model.head.bias is None:
        raise BadInput("the head's bias", None, "a head with a bias", where="trivial baseline")
    return ids


@dataclass(frozen=True, kw_only=True)
class TrivialSettings(Checked, section="trivial"):
    """Settings of the baselines where they run as methods.

    Attributes:
        offset: by how much `mask_logit` and `delete_head_row` lower a forget logit.
        gaussian: training of `gaussian_head`.
    """

    offset: PositiveFloat = 20.0
    gaussian: GaussianHeadSettings = field(default_factory=GaussianHeadSettings)


def begin_mask_logit(handed: Handed, settings: TrivialSettings, device: str = "cpu") -> Edit:
    """`mask_logit` as a run."""
    hidden = handed.roles.forget
    return Edit(handed.model(device), lambda model: mask_logit(model, hidden, offset=settings.offset))


def begin_delete_head_row(handed: Handed, settings: TrivialSettings, device: str = "cpu") -> Edit:
    """`delete_head_row` as a run."""
    hidden = handed.roles.forget
    return Edit(handed.model(device), lambda model: delete_head_row(model, hidden, offset=settings.offset))


def begin_gaussian_head(handed: Handed, settings: TrivialSettings, device: str = "cpu") -> Edit:
    """`gaussian_head` as a run."""
    retain, seed = handed.roles.retain, handed.seed
    return Edit(
        handed.model(device),
        lambda model: gaussian_head(model, retain=retain, seed=seed, settings=settings.gaussian),
    )


MASK_LOGIT = Method(
    name="mask_logit",
    summary="lowers the forget logits by a constant",
    source="baseline that hides the class and forgets nothing",
    data_access=frozenset({"weights"}),
    granularity=frozenset({"classes"}),
    section="trivial",
    begin=begin_mask_logit,
    fixed_length=True,
)

DELETE_HEAD_ROW = replace(
    MASK_LOGIT,
    name="delete_head_row",
    summary="empties the head's rows of the forget classes",
    source="baseline that hides the class: the features are as before",
    begin=begin_delete_head_row,
)

GAUSSIAN_HEAD = replace(
    MASK_LOGIT,
    name="gaussian_head",
    summary="retrains the head on Gaussian embeddings that the old head labels",
    source="baseline that hides the class: synthetic embeddings (2026), the features are as before",
    begin=begin_gaussian_head,
)
