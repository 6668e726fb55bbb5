"""Supervised training, one step at a time, by one worker or by several.

Several workers give what one worker gives up to the order of floating-point sums: every worker takes a
slice of each *global* batch, the loss is the sum over its samples divided by the global batch's size,
gradients are summed over workers, and BatchNorm takes the statistics of the global batch
(`GlobalBatchNorm2d`). With one worker no module is converted and no collective is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.distributed as dist
from annotated_types import Ge, Gt, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.fields import Checked, ShareBelowOne
from rayunlearn.inversion.augmentations import moved
from rayunlearn.inversion.transformations import Transformation, check_names, transformations
from rayunlearn.methods.global_batchnorm import GlobalBatchNorm2d, convert_batchnorm, global_batchnorm
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.normalisation import BATCHNORMS
from rayunlearn.seeds import generator
from rayunlearn.streamed import Images

__all__ = [
    "GlobalBatchNorm2d",
    "StepInfo",
    "TrainResult",
    "TrainSettings",
    "TrainState",
    "batches",
    "convert_batchnorm",
    "global_batchnorm",
    "schedule_at",
    "steps_per_epoch",
    "train_classifier",
    "train_steps",
]

CYCLED_MOMENTUM = (0.85, 0.95)  # least and greatest, torch's OneCycleLR


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Checked, section="train"):
    """The recipe; the defaults train AllCNN (width 0.25) on digits to 98.5-99 % test accuracy.

    Attributes:
        epochs: passes over the samples.
        batch_size: samples in a global batch; an epoch's last incomplete batch is dropped, unless all
            samples together are fewer than a batch.
        lr: greatest learning rate.
        weight_decay: of every parameter; decoupled for AdamW, L2 for SGD.
        optimizer: "adamw" or "sgd".
        momentum: SGD's momentum or AdamW's beta1, where the schedule does not cycle it.
        schedule: "one_cycle" (as torch's OneCycleLR, cosine, over all steps) or "constant".
        warmup_fraction: one_cycle: share of the steps in which the rate rises.
        div_factor: one_cycle: `lr` over the first rate.
        final_div_factor: one_cycle: the first rate over the last.
        cycle_momentum: one_cycle: momentum goes from 0.95 to 0.85 and back as the rate rises and falls.
        transformations: names of `rayunlearn.inversion.transformations`; each time an image is learned from
            it is shown under one of them or as it is, drawn with equal chances. Eq. 1 of the few-shot paper
            sums over them, of which this is an estimate at the cost of one.
        update_statistics: BatchNorm normalises by the batch and updates its running statistics; if not, by
            those that it has, which stay as they are.
        flips: each time an image is learned from it is mirrored, left to right, with even chances.
        crop: each time it is moved by up to so many pixels in each direction, what comes in at an edge
            being the image's own reflection.
    """

    epochs: PositiveInt = 40
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 1e-2
    weight_decay: NonNegativeFloat = 0.05
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: ShareBelowOne = 0.9
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    warmup_fraction: Annotated[float, Gt(0), Lt(1)] = 0.3
    div_factor: Annotated[float, Ge(1)] = 25.0
    final_div_factor: Annotated[float, Ge(1)] = 1e4
    cycle_momentum: bool = True
    transformations: tuple[str, ...] = field(default=(), metadata={"before": ()})
    update_statistics: bool = field(default=True, metadata={"before": True})
    flips: bool = field(default=False, metadata={"before": False})
    crop: NonNegativeInt = field(default=0, metadata={"before": 0})

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        check_names(f"{self.section}.transformations", self.transformations)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepInfo:
    """What one optimizer step did; given after the update.

    A method that needs the parameters' change (rollback) copies the parameters before the first step
    and at each step's end, and takes the difference.

    Attributes:
        step: number of the step, from 0 ...
        total: ... of so many.
        sample_ids: `[B]` int64, the *global* batch, as indices into the images trained on.
        loss: mean cross-entropy over the global batch, before the update, nats.
        model: the model after the update, not a copy; put into training mode before every step, but for
            BatchNorm whose statistics are to stay.
    """

    step: int
    total: int
    sample_ids: Tensor
    loss: float
    model: nn.Module


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training did: number of steps, and mean loss of each epoch's batches, nats."""

    steps: int
    epoch_losses: tuple[float, ...]


class TrainState:
    """Model, optimizer and step counter: all that goes on from here, bit for bit."""

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        self.model = model
        self.step = 0
        parameters = [p for p in model.parameters() if p.requires_grad]
        lr, decay, momentum = settings.lr, settings.weight_decay, settings.momentum
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=decay)
        else:
            self.optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)

    def state_dict(self) -> dict[str, object]:
        """References, not copies, to all state; the next step changes them."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from what `state_dict` held."""
        self.model.load_state_dict(state["model"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.step = state["step"]  # type: ignore[assignment]


def steps_per_epoch(n: int, settings: TrainSettings) -> int:
    """Batches in an epoch over `n` samples; one, if they are fewer than a batch."""
    if n < 1:
        raise BadInput("number of samples to train on", n, "at least 1")
    return max(1, n // settings.batch_size)


def batches(n: int, settings: TrainSettings, seed: int, *, start_step: int = 0) -> Iterator[Tensor]:
    """Global batches of sample ids `[B]`, from `start_step` to the last epoch's end.

    An epoch's permutation depends on the seed and the epoch's number alone.
    """
    per_epoch = steps_per_epoch(n, settings)
    size = min(n, settings.batch_size)
    for epoch in range(start_step // per_epoch, settings.epochs):
        order = torch.randperm(n, generator=generator(seed, "batches", epoch))
        skip = start_step - epoch * per_epoch if epoch == start_step // per_epoch else 0
        for index in range(skip, per_epoch):
            yield order[index * size : (index + 1) * size]


def schedule_at(step: int, total: int, settings: TrainSettings) -> tuple[float, float]:
    """Learning rate and momentum of step `step` (from 0) of `total`.

    "one_cycle" is torch's OneCycleLR with cosine annealing (Smith and Topin, arXiv 1708.07120), as a
    function of the step; the peak is at step `warmup_fraction * total - 1`, which need not be whole.
    Deviation: where that is 0 or less the first step is at the peak, instead of a division by zero or
    an extrapolation (a single step would be at the last rate, next to nothing).

    >>> schedule_at(0, 100, TrainSettings(lr=1.0, div_factor=4.0))
    (0.25, 0.95)
    >>> schedule_at(29, 100, TrainSettings(lr=1.0))
    (1.0, 0.85)
    """
    if settings.schedule == "constant":
        return settings.lr, settings.momentum
    first = settings.lr / settings.div_factor
    last = first / settings.final_div_factor
    low, high = CYCLED_MOMENTUM if settings.cycle_momentum else (settings.momentum, settings.momentum)
    peak = max(settings.warmup_fraction * total - 1, 0.0)
    if step < peak:
        return _cosine(first, settings.lr, step / peak), _cosine(high, low, step / peak)
    share = (step - peak) / (total - 1 - peak) if total - 1 > peak else 0.0
    return _cosine(settings.lr, last, share), _cosine(low, high, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def train_steps(
    state: TrainState,
    images: Images,
    labels: Tensor,
    settings: TrainSettings,
    seed: int,
    *,
    shard: tuple[int, int] | None = None,
) -> Generator[StepInfo, None, None]:
    """Train from `state.step` to the end, yielding after each optimizer step.

    Args:
        state: changed in place; a state saved between two steps and loaded goes on identically.
        images: `[N, C, H, W]` normalised, all of them on every worker.
        labels: `[N]` int64, or probabilities `[N, K]`.
        settings: the recipe.
        seed: root seed of the batches' order.
        shard: (rank, world) of this worker. With world > 1 `torch.distributed` must be initialised
            with that rank and world size, all workers must start from equal states, and BatchNorm
            takes global-batch statistics until the iterator ends or is closed.

    Raises:
        BadInput: shapes, batch size and shard do not fit; a crop as wide as the image; or transformations of
            a model that does not say which pixel values are its background.
        RayUnlearnError: the loss is not finite.
    """
    rank, world = _checked_shard(shard, settings)
    n = len(images)
    if len(labels) != n:
        raise BadInput("number of labels", len(labels), f"{n}, one per image")
    total = settings.epochs * steps_per_epoch(n, settings)
    views = _views(state.model, settings)
    if settings.crop >= min(images.shape[-2:]):
        raise BadInput("crop", settings.crop, f"below {min(images.shape[-2:])}, the image's size")
    if min(n, settings.batch_size) < world:
        raise BadInput("samples in a batch", min(n, settings.batch_size), f"at least {world}, one per worker")
    with global_batchnorm(state.model) if world > 1 else nullcontext():
        for ids in batches(n, settings, seed, start_step=state.step):
            lr, momentum = schedule_at(state.step, total, settings)
            _set_rates(state.optimizer, lr, momentum)
            state.model.train()
            if not settings.update_statistics:
                _keep_statistics(state.model)
            part = slice(rank * len(ids) // world, (rank + 1) * len(ids) // world)
            mine = ids[part].to(images.device)
            shown = images[mine]
            if views:
                draws = generator(seed, "transformations", state.step)
                which = torch.randint(len(views) + 1, (len(ids),), generator=draws)
                shown = _shown(shown, views, which[part])
            if settings.flips or settings.crop:
                draws = generator(seed, "flips and crops", state.step)
                shown = _flipped_and_cropped(shown, settings, draws, len(ids), part)
            logits = state.model(shown)
            if world == 1:
                loss = F.cross_entropy(logits, labels[mine])
            else:
                loss = F.cross_entropy(logits, labels[mine], reduction="sum") / len(ids)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            value = loss.detach()
            if world > 1:
                value = _sum_gradients(state.model, value)
            if not math.isfinite(value.item()):
                at = f"at step {state.step}, learning rate {lr:.3g}"
                raise RayUnlearnError(f"training diverged: loss {value.item()} {at}")
            state.optimizer.step()
            step = state.step
            state.step += 1
            yield StepInfo(step=step, total=total, sample_ids=ids, loss=value.item(), model=state.model)


def train_classifier(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    settings: TrainSettings,
    seed: int,
    *,
    on_step: Callable[[StepInfo], None] | None = None,
    shard: tuple[int, int] | None = None,
) -> TrainResult:
    """Train `model` in place by cross-entropy; its mode is left as it was.

    Args:
        model: logits `[B, K]` of images `[B, C, H, W]`.
        images: `[N, C, H, W]` normalised.
        labels: `[N]` int64, or probabilities `[N, K]`.
        settings: the recipe.
        seed: root seed of the batches' order; the initial weights are the model's.
        on_step: called after every optimizer step; it may read the model, and leave it in any mode.
        shard: (rank, world), see `train_steps`.
    """
    state = TrainState(model, settings)
    per_epoch = steps_per_epoch(len(images), settings)
    was_training = model.training
    losses: list[float] = []
    try:
        with closing(train_steps(state, images, labels, settings, seed, shard=shard)) as steps:
            for info in steps:
                losses.append(info.loss)
                if on_step is not None:
                    on_step(info)
    finally:
        model.train(was_training)
    epochs = [losses[i : i + per_epoch] for i in range(0, len(losses), per_epoch)]
    return TrainResult(steps=len(losses), epoch_losses=tuple(sum(e) / len(e) for e in epochs))


def _checked_shard(shard: tuple[int, int] | None, settings: TrainSettings) -> tuple[int, int]:
    rank, world = shard or (0, 1)
    if world < 1 or not 0 <= rank < world:
        raise BadInput("shard", shard, "(rank, world) with 0 <= rank < world")
    if world > 1:
        known = dist.is_available() and dist.is_initialized()
        group = (dist.get_rank(), dist.get_world_size()) if known else None
        if group != (rank, world):
            raise BadInput("shard", shard, f"torch.distributed's own rank and world size, {group}")
    return rank, world


def _keep_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, BATCHNORMS):
            module.eval()


def _views(model: nn.Module, settings: TrainSettings) -> tuple[Transformation, ...]:
    if not settings.transformations:
        return ()
    if not isinstance(model, Classifier):
        raise BadInput("model", type(model).__name__, "a Classifier, where transformations are asked for")
    return transformations(settings.transformations, background=model.spec.pixel_range[0])


def _shown(images: Tensor, views: Sequence[Transformation], which: Tensor) -> Tensor:
    """Images `[B, C, H, W]`, each under the view of its number in `which` `[B]`, or as it is for the last."""
    shown = images.clone()
    for number, view in enumerate(views):
        chosen = (which == number).nonzero()[:, 0].to(images.device)
        if len(chosen):
            shown[chosen] = view(images[chosen])
    return shown


def _flipped_and_cropped(
    images: Tensor, settings: TrainSettings, draws: torch.Generator, batch: int, part: slice
) -> Tensor:
    """This worker's `part` of a global batch of so many images, `[B, C, H, W]`, each by a draw of its own."""
    flipped = torch.randint(2, (batch,), generator=draws)[part].bool().to(images.device)
    moves = torch.randint(2 * settings.crop + 1, (2, batch), generator=draws)[:, part]
    if settings.flips:
        images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
    return moved(images, settings.crop, moves).contiguous() if settings.crop else images


def _set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _sum_gradients(model: nn.Module, loss: Tensor) -> Tensor:
    """Sum all gradients over the workers in one call, in place; returns the summed loss."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients] + [loss.reshape(1).to(gradients[0].dtype)])
    dist.all_reduce(flat, op=dist.ReduceOp.SUM)
    for gradient, part in zip(gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
    return flat[-1]
