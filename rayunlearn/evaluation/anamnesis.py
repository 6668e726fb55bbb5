"""Anamnesis Index: how fast a model relearns what it forgot, against a model that never knew it.

Source: zero-shot machine unlearning, section IV.D (eq. 11) and V.B. The relearn time r_t(M, M_orig, alpha)
is the number of mini-batches of the full training set (retain and forget) until M's accuracy on the
forget classes' validation images is within alpha of the original model's.

Not from the paper: relearning from retain data alone, or from a few forget images (`RelearnSettings`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import check_images, class_counts
from rayunlearn.fields import AtLeastTwo, Checked, PositiveShare, ShareBelowOne
from rayunlearn.models.modes import device_of, evaluating
from rayunlearn.seeds import derive_seed, generator, seeded_default_generators
from rayunlearn.streamed import Images

LOCAL_BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True)
class RelearnSettings(Checked, section="audit.relearn"):
    """How a model relearns; the paper's values (section V.B) where it gives them.

    A mini-batch of 256 is a third of the digits' training part, so that three or four steps are an
    epoch there: lower `batch_size` where a finer count is wanted, for every model alike.
    """

    batch_size: AtLeastTwo = 256
    lr: PositiveFloat = 0.1
    momentum: ShareBelowOne = 0.0
    """The paper names no optimizer; plain SGD here, Adam in its reference code. With 0.9 a gold model of
    the digits takes 8 to 12 mini-batches rather than about 40, too few to tell models apart."""
    alpha: ShareBelowOne = 0.05
    """Margin around the original's accuracy, a share of 1."""
    margin: Literal["absolute", "relative"] = "absolute"
    """absolute: accuracy >= original - alpha; relative (reference code): >= (1 - alpha) * original."""
    lr_decay: PositiveShare = 0.1
    """Factor on lr after `patience_epochs` epochs without gain in forget accuracy (section V.B).

    Deviation: epochs before the first forget image is recognised do not count. An epoch of the papers'
    data has 200 mini-batches, one of the digits four, and a gold model needs more than two of those to
    leave accuracy 0; its learning rate fell 0.1-fold at once and it never relearned (cap 150).
    """
    patience_epochs: PositiveInt = 2
    max_steps: PositiveInt = 400
    """Cap; a model that has not relearned by then is censored."""
    forget_per_class: NonNegativeInt | None = None
    """Training images shown of each forget class, drawn by seed; None: all (the paper), 0: none.

    Digits, batch 64, two classes, five seeds: from none a class that was pushed aside comes back in 5 to 21
    mini-batches, a masked logit never, nor does gold. From 5, masked takes 25 to 57 in eight of ten and gold
    is not back by 150, so that the index has an upper bound alone; from 20, gold takes 143 or more.
    """
    retain_data: bool = True
    """Whether the training images of all other classes are shown.

    False with few tells nothing: shown one class alone any model answers with it, gold in 3 to 7 steps.
    """

    def __post_init__(self) -> None:
        """Check every field; refuse to relearn from nothing."""
        super().__post_init__()
        if not self.retain_data and self.forget_per_class == 0:
            allowed = "True where forget_per_class is 0"
            raise BadInput(f"{self.section}.retain_data", self.retain_data, allowed)

    def threshold(self, target_accuracy: float) -> float:
        """Accuracy at which a model counts as having relearned.

        >>> round(RelearnSettings(alpha=0.05).threshold(0.9), 3)
        0.85
        >>> round(RelearnSettings(alpha=0.05, margin="relative").threshold(0.9), 3)
        0.855
        """
        if self.margin == "absolute":
            return target_accuracy - self.alpha
        return (1 - self.alpha) * target_accuracy

    def needed(self, target_accuracy: float, count: int) -> int:
        """Of `count` forget images, how many a model that has relearned recognises.

        >>> RelearnSettings(alpha=0.05).needed(0.8, 20)
        15
        """
        return math.ceil(self.threshold(target_accuracy) * count - 1e-9)

    def decay_after(self, epoch_ends: Sequence[float]) -> float:
        """Factor on lr after epochs that ended with these forget accuracies (or counts).

        >>> [RelearnSettings().decay_after([0, 0, 0, 3, 3, 3][:n]) for n in range(7)]
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1]
        """
        best, without_gain, factor = 0.0, 0, 1.0
        for accuracy in epoch_ends:
            if accuracy > best:
                best, without_gain = accuracy, 0
            elif best > 0:
                without_gain += 1
            if without_gain == self.patience_epochs:
                factor, without_gain = factor * self.lr_decay, 0
        return factor


@dataclass(frozen=True, kw_only=True)
class RelearnCurve:
    """Forget accuracy after 0, 1, 2, ... mini-batches, up to where it was reached or the cap."""

    correct: tuple[int, ...]
    """Forget images recognised after each step, step 0 (before any training) first."""
    count: int
    """Forget images evaluated at each step."""
    reached: int | None
    """Relearn time r_t in mini-batches; None: not within `settings.max_steps` (censored)."""
    target_accuracy: float
    """The original model's accuracy on the same images."""
    settings: RelearnSettings
    seed: int

    @property
    def accuracy(self) -> list[float]:
        """Accuracy after each step, step 0 first."""
        return [correct / self.count for correct in self.correct]

    @property
    def censored(self) -> bool:
        """The cap came first."""
        return self.reached is None

    @property
    def peak_step(self) -> int:
        """Mini-batches after which most forget images were recognised; the earliest of equals.

        The result of interest where the class is not expected back (retain data alone). A curve ends
        where the class was reached, so that its peak is then its end.
        """
        return self.correct.index(max(self.correct))


def relearn_ids(labels: Tensor, forget: Iterable[int], settings: RelearnSettings, seed: int) -> Tensor:
    """Which training samples are shown, int64 [n] ascending: the full set, retain data, or a few.

    A draw depends on the seed and the class alone, so every model is shown the same images, and a draw
    of fewer is part of a draw of more.

    Args:
        labels: int64 [N], of the full training set.
        forget: class ids.
        settings: `forget_per_class` and `retain_data`.
        seed: of the draw.

    Raises:
        BadInput: a forget class has fewer images than are to be shown, or fewer than two samples remain.

    >>> labels = torch.tensor([3, 0, 3, 1, 0])
    >>> relearn_ids(labels, [3], RelearnSettings(forget_per_class=0), 0).tolist()
    [1, 3, 4]
    >>> relearn_ids(labels, [3], RelearnSettings(forget_per_class=2, retain_data=False), 0).tolist()
    [0, 2]
    """
    where, wanted, labels = "relearn", settings.forget_per_class, labels.cpu()
    members = {class_id: (labels == class_id).nonzero().flatten() for class_id in sorted(set(forget))}
    if wanted is None:
        missing = [class_id for class_id, ids in members.items() if not len(ids)]
        if missing:
            allowed = "training images of every forget class: relearning is on the full training set"
            raise BadInput("forget classes without training images", missing, allowed, where=where)
    shown = torch.full((len(labels),), settings.retain_data)
    for class_id, ids in members.items():
        shown[ids] = False
        if wanted is not None and len(ids) < wanted:
            thing = f"number of training images of forget class {class_id}"
            raise BadInput(thing, len(ids), f"at least {wanted}, as forget_per_class is", where=where)
        order = torch.randperm(len(ids), generator=generator(seed, "relearn", "few", class_id))
        shown[ids[order[:wanted]]] = True
    count = int(shown.sum())
    if count < 2:
        raise BadInput("number of training images to relearn from", count, "at least 2", where=where)
    return shown.nonzero().flatten()


def relearn_batches(n: int, batch_size: int, seed: int) -> Iterator[list[Tensor]]:
    """Epochs without end, each a list of mini-batches of sample ids.

    A draw depends on the seed and the epoch alone, so every model relearns from the same batches. A
    last batch of one image is left out: BatchNorm has no variance of one value.
    """
    epoch = 0
    while True:
        order = torch.randperm(n, generator=generator(seed, "relearn", epoch))
        yield [ids for ids in order.split(batch_size) if len(ids) > 1]
        epoch += 1


def relearn(
    model: nn.Module,
    train_images: Images,
    train_labels: Tensor,
    eval_images: Tensor,
    eval_labels: Tensor,
    target_accuracy: float,
    settings: RelearnSettings,
    seed: int,
    *,
    shard: tuple[int, int] | None = None,
) -> RelearnCurve:
    """Train a copy of the model until it knows the forget classes again, or the cap comes.

    The data are the full training set (the paper) or what `settings` leave of it. SGD on the
    cross-entropy, all parameters, train mode; after every step the forget images are evaluated in eval
    mode, and nothing else is. The model itself and the global random state are left as they were.

    Several workers take a slice of every mini-batch and of the forget images; loss, gradients and counts
    are the sums over them. The curve is one worker's up to the order of floating-point sums, which can
    carry images that are nearly undecided to the other side. Dropout, where a model has it, is drawn by
    each worker for itself.

    Args:
        model: images [B, C, H, W] -> logits [B, K].
        train_images: [N, C, H, W], retain and forget classes, normalised.
        train_labels: int64 [N].
        eval_images: [M, C, H, W], validation images of the forget classes alone.
        eval_labels: int64 [M].
        target_accuracy: the original model's accuracy on `eval_images`.
        settings: what is shown, batch size, learning rate, margin, cap.
        seed: of the draw of few and of the batches' order; give unlearned and gold the same.
        shard: (rank, world) of this worker, as in `methods.training.train_steps`: with world > 1
            `torch.distributed` is initialised with these, and all workers call alike.

    Raises:
        BadInput: too few images, an original so poor that accuracy 0 is within the margin, forget
            classes that the training set lacks, logits that are not finite (before or during), or a
            shard that is not this process's or whose BatchNorm would take its own statistics.
    """
    where = "relearn"
    if len(train_images) < 2:
        raise BadInput("number of training images", len(train_images), "at least 2", where=where)
    if not len(eval_images):
        raise BadInput("number of forget-class validation images", 0, "at least 1", where=where)
    num_classes = _num_classes(model, eval_images)
    check_images(train_images, train_labels, num_classes, where)
    check_images(eval_images, eval_labels, num_classes, where)
    threshold = settings.threshold(target_accuracy)
    if not (target_accuracy <= 1 and threshold > 0):
        allowed = f"at most 1 and over the margin: a threshold above 0 (here {threshold:.4f})"
        raise BadInput("the original's accuracy on the forget classes", target_accuracy, allowed, where=where)
    chosen = relearn_ids(train_labels, set(eval_labels.tolist()), settings, seed)
    worker = _Worker.of(shard, model)

    device = device_of(model)
    images, labels = train_images.to(device), train_labels.to(device)
    part = worker.part(len(eval_labels))
    shown, known = eval_images[part].to(device), eval_labels[part].cpu()
    count, needed = len(eval_labels), settings.needed(target_accuracy, len(eval_labels))

    learner = copy.deepcopy(model).train().requires_grad_(True)
    optimizer = torch.optim.SGD(learner.parameters(), lr=settings.lr, momentum=settings.momentum)
    correct = [worker.recognised(learner, shown, known, num_classes)]
    epoch_ends: list[int] = []
    own = derive_seed(seed, "relearn", "dropout", *([worker.rank] if worker.world > 1 else []))
    with seeded_default_generators(own, device):
        for epoch in relearn_batches(len(chosen), settings.batch_size, seed):
            for ids in epoch:
                steps = len(correct) - 1
                if correct[-1] >= needed or steps == settings.max_steps:
                    return RelearnCurve(
                        correct=tuple(correct),
                        count=count,
                        reached=steps if correct[-1] >= needed else None,
                        target_accuracy=target_accuracy,
                        settings=settings,
                        seed=seed,
                    )
                optimizer.zero_grad(set_to_none=True)
                worker.backward(learner, images, labels, chosen[ids].to(device))
                optimizer.step()
                correct.append(worker.recognised(learner, shown, known, num_classes))
            epoch_ends.append(correct[-1])
            optimizer.param_groups[0]["lr"] = settings.lr * settings.decay_after(epoch_ends)
    raise AssertionError("the epochs have no end")


@dataclass(frozen=True)
class _Worker:
    """One of `world` processes that relearn one model together; alone it calls no collective."""

    rank: int
    world: int

    @classmethod
    def of(cls, shard: tuple[int, int] | None, model: nn.Module) -> _Worker:
        """The worker of a shard, checked against this process's group and the model's BatchNorm."""
        rank, world = shard or (0, 1)
        where, converted = "relearn", "GlobalBatchNorm2d: `convert_batchnorm` of methods.global_batchnorm"
        if world < 1 or not 0 <= rank < world:
            raise BadInput("shard", shard, "(rank, world) with 0 <= rank < world", where=where)
        if world > 1:
            known = dist.is_available() and dist.is_initialized()
            group = (dist.get_rank(), dist.get_world_size()) if known else None
            if group != (rank, world):
                allowed = f"torch.distributed's own rank and world size, {group}"
                raise BadInput("shard", shard, allowed, where=where)
            for name, module in model.named_modules():
                if type(module) in LOCAL_BATCHNORM:
                    raise BadInput(
                        f"module {name or '(root)'}", type(module).__name__, converted, where=where
                    )
        return cls(rank, world)

    def part(self, n: int) -> slice:
        """This worker's part of n things in a row."""
        return slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    def backward(self, model: nn.Module, images: Images, labels: Tensor, ids: Tensor) -> None:
        """Gradients of the mean cross-entropy over the mini-batch `ids` [B], on every worker."""
        if self.world == 1:
            functional.cross_entropy(model(images[ids]), labels[ids]).backward()
            return
        mine = ids[self.part(len(ids))]
        loss = functional.cross_entropy(model(images[mine]), labels[mine], reduction="sum") / len(ids)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def recognised(self, model: nn.Module, images: Tensor, labels: Tensor, num_classes: int) -> int:
        """Images predicted as what they are, over the parts of all workers."""
        correct = class_counts(model, images, labels, num_classes).correct.sum()
        if self.world > 1:
            correct = correct.to(device_of(model))
            dist.all_reduce(correct, op=dist.ReduceOp.SUM)
        return int(correct)


def _num_classes(model: nn.Module, images: Tensor) -> int:
    """The number of logits, from one image."""
    with evaluating(model):
        return int(model(images[:1].to(device_of(model))).shape[1])


@dataclass(frozen=True, kw_only=True)
class AnamnesisIndex:
    """Eq. 11, with what its value is worth."""

    value: float | None
    """r_t(unlearned) / r_t(gold); None where the two curves do not give a ratio."""
    censored: bool
    """A model's cap came first, so that the ratio is not known. With a value, that value is a lower bound."""
    informative: bool
    """False where gold relearned in 0 or 1 mini-batches, or not at all and no value is known."""
    note: str
    """What is wrong with the value, in words; empty where nothing is."""
    unlearned_steps: int | None
    gold_steps: int | None
    upper_bound: float | None = None
    """The ratio is below this; None where there is a value, or where neither model relearned."""


def anamnesis_index(unlearned: RelearnCurve, gold: RelearnCurve) -> AnamnesisIndex:
    """AIN = r_t(M_u, M_orig, alpha) / r_t(M_s, M_orig, alpha) (eq. 11).

    Near 1: the unlearned model relearns as slowly as one that never saw the forget classes. Much
    lower: it still knew them. Much higher: it was damaged, which is visible (Streisand effect).

    - Unlearned censored, gold not: the value is cap / gold, a lower bound, never below 1.
    - Gold censored, unlearned not: unlearned / cap, an upper bound and no value, unless unlearned took 0
      mini-batches, whose ratio to any time is 0.
    - Both censored: neither. So it mostly is where no forget image was shown: what gold never knew does not
      come back, and the curves' peaks are to be compared.
    - Gold time 0 or 1: not informative (the paper's 211 and 143 come from such gold times).

    Raises:
        BadInput: the curves were not measured alike (settings, seed, target, images).
    """
    for name in ("settings", "seed", "target_accuracy", "count"):
        ours, theirs = getattr(unlearned, name), getattr(gold, name)
        if ours != theirs:
            allowed = f"that of the gold model's curve, {theirs!r}"
            raise BadInput(f"{name} of the unlearned model's curve", ours, allowed, where="anamnesis_index")
    cap = unlearned.settings.max_steps
    notes: list[str] = []
    value: float | None = None
    upper_bound: float | None = None
    if gold.reached is None:
        notes.append(f"gold did not relearn within {cap} steps")
        if unlearned.reached is None:
            notes.append("nor did the unlearned model")
        elif unlearned.reached == 0:
            value = 0.0
        else:
            upper_bound = unlearned.reached / cap
            notes.append(f"the index is below {upper_bound:.3g}")
        if gold.settings.forget_per_class == 0:
            notes.append("no forget image was shown: compare the curves' peaks")
    else:
        if unlearned.reached is None:
            notes.append(f"lower bound: the unlearned model did not relearn within {cap} steps")
        if gold.reached > 0:
            value = (cap if unlearned.reached is None else unlearned.reached) / gold.reached
        if gold.reached <= 1:
            notes.append(f"not informative: gold relearned in {gold.reached} step(s)")
    return AnamnesisIndex(
        value=value,
        censored=unlearned.censored or gold.censored and value is None,
        informative=value is not None if gold.reached is None else gold.reached > 1,
        note="; ".join(notes),
        unlearned_steps=unlearned.reached,
        gold_steps=gold.reached,
        upper_bound=upper_bound,
    )


def distance_from_one(ain: float | AnamnesisIndex) -> float:
    """|log AIN|: how far from 1, a half and a double being equally far. Not from the paper.

    A relearn time of 0 (AIN 0: nothing was forgotten) is infinitely far. A censored index is a lower
    bound of at least 1, so its distance is a lower bound too: a model that is nearer to 1 than that
    is nearer to 1.

    Raises:
        BadInput: no value, or one that is negative or not a number.

    >>> distance_from_one(0.5) == distance_from_one(2.0), distance_from_one(1.0), distance_from_one(0.0)
    (True, 0.0, inf)
    """
    value = ain.value if isinstance(ain, AnamnesisIndex) else ain
    if value is None or math.isnan(value) or value < 0:
        raise BadInput("anamnesis index", value, "a number >= 0", where="distance_from_one")
    if value == 0 or math.isinf(value):
        return math.inf
    return abs(math.log(value))
