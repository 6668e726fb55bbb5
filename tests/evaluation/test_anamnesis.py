"""Relearn times that are set by construction, and the ratio of two of them."""

import copy
import itertools
import math
from itertools import islice

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.anamnesis import (
    AnamnesisIndex,
    RelearnCurve,
    RelearnSettings,
    anamnesis_index,
    distance_from_one,
    relearn,
    relearn_batches,
)


class Climber(nn.Module):
    """One weight w that climbs by exactly lr a step (SGD, no momentum); image t is known once w > t.

    In train mode the logits are (0, w - 1000), so the cross-entropy's gradient for w is -1 in float32.
    In eval mode they are (0, w - t), t the image's one pixel; the label is 1 throughout.
    """

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2]."""
        t = torch.full((len(x),), 1000.0) if self.training else x.flatten()
        return torch.stack([torch.zeros(len(x)), self.w - t], dim=1)


def relearn_climber(
    thresholds: list[float], *, start: float = 0.0, target: float = 1.0, n: int = 4, **settings: object
) -> RelearnCurve:
    """Relearn a climber on n training images in batches of two, w rising by 1 a step by default."""
    images = torch.tensor(thresholds).reshape(-1, 1, 1, 1)
    chosen = RelearnSettings(**{"batch_size": 2, "lr": 1.0, "max_steps": 60} | settings)  # type: ignore[arg-type]
    labels = torch.ones(len(images)).long()
    return relearn(
        Climber(start), torch.zeros(n, 1, 1, 1), torch.ones(n).long(), images, labels, target, chosen, 0
    )


@pytest.mark.parametrize("steps", [0, 1, 7, 60])
def test_relearn_time_is_the_number_of_mini_batches(steps: int) -> None:
    """A model built to know the class after s mini-batches has relearn time s (two make an epoch)."""
    curve = relearn_climber([steps - 0.5])
    assert curve.reached == steps
    assert curve.accuracy == [0.0] * steps + [1.0]
    assert not curve.censored


def test_the_cap_censors() -> None:
    """A model that needs 61 steps under a cap of 60 has no relearn time, and 60 evaluations after step 0."""
    curve = relearn_climber([60.5])
    assert curve.reached is None and curve.censored
    assert curve.accuracy == [0.0] * 61


def test_the_curve_counts_forget_images_after_every_step() -> None:
    """Thresholds 0.5, 1.5, 1.5 and 3.5 are passed at steps 1, 2, 2 and 4: the curve in images."""
    curve = relearn_climber([0.5, 1.5, 1.5, 3.5])
    assert curve.correct == (0, 1, 3, 3, 4) and curve.count == 4
    assert curve.accuracy == [0.0, 0.25, 0.75, 0.75, 1.0]


@pytest.mark.parametrize(("margin", "images"), [("absolute", 15), ("relative", 16)])
def test_margins(margin: str, images: int) -> None:
    """Original 0.8 on 20 images, alpha 5 %: absolute 0.75 is 15 images, relative 0.76 (15.2 images) is 16.

    The model learns one image a step, so the relearn time is that number.
    """
    curve = relearn_climber([i + 0.5 for i in range(20)], target=0.8, margin=margin)
    assert curve.reached == images


@pytest.mark.parametrize("count", [7, 20, 89, 91, 178])
def test_a_margin_met_exactly_is_met(count: int) -> None:
    """Exactly original - alpha counts, and one image less does not, whatever float rounding does."""
    for k in range(1, count):
        settings = RelearnSettings(alpha=1 / count)
        assert settings.needed((k + 1) / count, count) == k
        assert settings.needed((k + 1) / count - 0.01 / count, count) == k


def test_momentum_in_closed_form() -> None:
    """With momentum m the weight after s steps is lr * sum_i (1 - m^i) / (1 - m); without it, s * lr."""
    m, lr, wanted = 0.5, 1.0, 8.3
    w, steps = 0.0, 0
    while w <= wanted:
        steps += 1
        w += lr * (1 - m**steps) / (1 - m)
    assert relearn_climber([wanted], momentum=m).reached == steps == 6
    assert relearn_climber([wanted]).reached == 9


def test_the_rate_falls_after_two_epochs_without_gain() -> None:
    """Epoch 1 gains, epochs 2 and 3 do not: lr falls to 0.1 at step 6, and 6.35 is passed at step 10.

    With a patience of three epochs, or without decay, it is passed at step 7.
    """
    assert relearn_climber([0.5, 6.35]).reached == 10
    assert relearn_climber([0.5, 6.35], patience_epochs=3).reached == 7
    assert relearn_climber([0.5, 6.35], lr_decay=1.0).reached == 7


def test_the_rate_stays_until_the_first_gain() -> None:
    """Ten epochs at accuracy 0 are not a plateau: the model still gets there by steps of the full rate."""
    assert relearn_climber([20.5]).reached == 21


def test_a_last_batch_of_one_image_is_left_out() -> None:
    """Three images in batches of two are one mini-batch an epoch; five steps see ten images."""
    sizes = [len(ids) for epoch in islice(relearn_batches(3, 2, 0), 4) for ids in epoch]
    assert sizes == [2, 2, 2, 2]
    assert relearn_climber([4.5], n=3).reached == 5


def test_batches_are_the_same_for_every_model_and_new_each_epoch() -> None:
    """Epochs are permutations set by the seed alone: equal for equal seeds, different between epochs."""
    first, second = (
        [torch.cat(epoch) for epoch in islice(relearn_batches(50, 16, seed), 3)] for seed in (3, 3)
    )
    other = torch.cat(next(relearn_batches(50, 16, 4)))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(epoch.sort().values, torch.arange(50)) for epoch in first)
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], other)


def small_task() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model with BatchNorm and dropout, and 30 images of three classes."""
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 3)
        )
    labels = torch.arange(30) % 3
    images = torch.randn(30, 1, 4, 4, generator=g) + labels.reshape(-1, 1, 1, 1)
    return model, images, labels


def test_the_model_is_copied() -> None:
    """A frozen model in eval mode relearns, and itself keeps weights, statistics, mode and flags."""
    model, images, labels = small_task()
    model.eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    forget = labels == 0
    settings = RelearnSettings(batch_size=8, max_steps=80)
    curve = relearn(model, images, labels, images[forget], labels[forget], 1.0, settings, 0)
    assert curve.accuracy[-1] > curve.accuracy[0]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_relearning_is_a_function_of_its_seed() -> None:
    """Twice the same curve, dropout included, whatever the global generator does; it is left alone."""
    model, images, labels = small_task()
    forget = labels == 0
    settings = RelearnSettings(batch_size=8, max_steps=12, alpha=0.0)
    curves = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        state = torch.get_rng_state()
        curves.append(relearn(model, images, labels, images[forget], labels[forget], 1.0, settings, 5))
        assert torch.equal(state, torch.get_rng_state())
    assert curves[0] == curves[1]


def test_relearning_equals_a_plain_float64_loop() -> None:
    """A softmax regression relearns its class exactly when a hand-written float64 loop says so."""
    g = torch.Generator().manual_seed(2)
    labels = torch.arange(40) % 4
    images = (torch.randn(40, 1, 2, 2, generator=g) + 2 * torch.eye(4)[labels].reshape(40, 1, 2, 2)).double()
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
        layer.bias.copy_(torch.tensor([-6.0, 0, 0, 0]))
    model = nn.Sequential(nn.Flatten(), layer).double()
    forget = labels == 0
    settings = RelearnSettings(batch_size=16, lr=0.2, momentum=0.9, max_steps=200, lr_decay=1.0)
    curve = relearn(model, images, labels, images[forget], labels[forget], 1.0, settings, 9)

    x = torch.cat([images.flatten(1), torch.ones(40, 1).double()], dim=1)
    weight = torch.cat([torch.eye(4), torch.tensor([[-6.0], [0], [0], [0]])], dim=1).double()
    velocity, expected = torch.zeros_like(weight), []
    for epoch in relearn_batches(40, 16, 9):
        for ids in epoch:
            expected.append(int(((x[forget] @ weight.T).argmax(1) == 0).sum()))
            error = (x[ids] @ weight.T).softmax(1) - torch.eye(4).double()[labels[ids]]
            velocity = 0.9 * velocity + error.T @ x[ids] / len(ids)
            weight = weight - 0.2 * velocity
        if len(expected) >= len(curve.correct):
            break
    assert curve.reached is not None and curve.reached > 3
    assert list(curve.correct) == expected[: len(curve.correct)]


@pytest.mark.learned
def test_the_full_training_set_is_relearned_by_plain_sgd() -> None:
    """Each count is that of a loop with torch's SGD: BatchNorm, momentum and a relative margin, in float64.

    Without momentum, and on batches of another seed, the counts are others.
    """
    model, images, labels = small_task()
    model[4] = nn.Identity()  # what dropout draws depends on how torch was built
    model, images, forget = model.double(), images.double(), labels == 0
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([-4.0, 0, 0]))
    settings = RelearnSettings(
        batch_size=7, lr=0.05, alpha=0.2, max_steps=60, momentum=0.5, margin="relative"
    )

    def plain(momentum: float, seed: int) -> list[int]:
        own, counts = copy.deepcopy(model), []
        optimizer = torch.optim.SGD(own.parameters(), lr=0.05, momentum=momentum)
        for ids in islice(itertools.chain.from_iterable(relearn_batches(len(labels), 7, seed)), 61):
            with torch.no_grad():
                counts.append(int((own.eval()(images[forget]).argmax(dim=1) == 0).sum()))
            optimizer.zero_grad()
            F.cross_entropy(own.train()(images[ids]), labels[ids]).backward()
            optimizer.step()
        return counts

    curve = relearn(model, images, labels, images[forget], labels[forget], 1.0, settings, 5)
    expected = plain(0.5, 5)
    reached = next(step for step, known in enumerate(expected) if known >= 0.8 * 10)
    assert (curve.count, curve.reached) == (10, reached) and 3 < reached < 60
    assert list(curve.correct) == expected[: reached + 1]
    for flawed in (plain(0.0, 5), plain(0.5, 6)):
        assert list(curve.correct) != flawed[: reached + 1]


def curve_of(reached: int | None, **changes: object) -> RelearnCurve:
    """A curve with a given relearn time under a cap of 100."""
    fields: dict[str, object] = {
        "correct": (0,), "count": 10, "reached": reached, "target_accuracy": 1.0,
        "settings": RelearnSettings(max_steps=100), "seed": 0,
    }  # fmt: skip
    return RelearnCurve(**fields | changes)  # type: ignore[arg-type]


def test_the_index_of_two_models_whose_times_are_known() -> None:
    """Eq. 11 on models that need 6 and 8 mini-batches: 0.75, and 4/3 the other way round."""
    unlearned, gold = relearn_climber([5.5], start=0.0), relearn_climber([5.5], start=-2.0)
    index = anamnesis_index(unlearned, gold)
    assert (index.value, index.censored, index.informative, index.note) == (0.75, False, True, "")
    assert (index.unlearned_steps, index.gold_steps) == (6, 8)
    assert anamnesis_index(gold, unlearned).value == pytest.approx(4 / 3)
    assert anamnesis_index(gold, gold).value == 1.0


@pytest.mark.parametrize(
    ("unlearned", "gold", "value", "censored", "informative", "note"),
    [
        (None, 40, 2.5, True, True, "lower bound"),
        (40, None, None, True, False, "below 0.4"),
        (0, None, 0.0, False, True, "gold did not relearn within 100 steps"),
        (None, None, None, True, False, "gold did not relearn within 100 steps"),
        (0, 40, 0.0, False, True, ""),
        (30, 1, 30.0, False, False, "not informative: gold relearned in 1 step"),
        (30, 0, None, False, False, "not informative: gold relearned in 0 step"),
        (0, 0, None, False, False, "not informative"),
        (None, 1, 100.0, True, False, "not informative"),
    ],
)
def test_what_the_value_is_worth(
    unlearned: int | None, gold: int | None, value: float | None, censored: bool, informative: bool, note: str
) -> None:
    """Caps and gold times of 0 and 1 are said, and give no figure that passes for a ratio."""
    index = anamnesis_index(curve_of(unlearned), curve_of(gold))
    assert (index.value, index.censored, index.informative) == (value, censored, informative)
    assert note in index.note and bool(note) == bool(index.note)
    assert index.upper_bound == (0.4 if (unlearned, gold) == (40, None) else None)


@pytest.mark.parametrize(
    ("unlearned", "gold", "value", "note"),
    [
        (None, None, None, "gold did not relearn within 100 steps; nor did the unlearned model; {peaks}"),
        (5, None, None, "gold did not relearn within 100 steps; the index is below 0.05; {peaks}"),
        (5, 40, 0.125, ""),  # both had a way back: a ratio as any other
    ],
)
def test_an_index_from_retain_data_points_to_the_peaks(
    unlearned: int | None, gold: int | None, value: float | None, note: str
) -> None:
    """Gold is not expected back without forget images: no value, and the note says what to compare.

    From the full set the same times get no such advice.
    """
    retain_only = RelearnSettings(max_steps=100, forget_per_class=0)
    index = anamnesis_index(curve_of(unlearned, settings=retain_only), curve_of(gold, settings=retain_only))
    peaks = "no forget image was shown: compare the curves' peaks"
    assert (index.value, index.note) == (value, note.format(peaks=peaks))
    assert index.censored == (gold is None) and index.informative == (gold is not None)
    assert "peaks" not in anamnesis_index(curve_of(unlearned), curve_of(gold)).note


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1), ("count", 11), ("target_accuracy", 0.9), ("settings", RelearnSettings(max_steps=99)),
     ("settings", RelearnSettings(max_steps=100, forget_per_class=0))],
)  # fmt: skip
def test_curves_measured_differently_have_no_ratio(name: str, value: object) -> None:
    """Another seed, image set, original or setting: an error that names which, never a number."""
    with pytest.raises(BadInput, match=name):
        anamnesis_index(curve_of(4, **{name: value}), curve_of(5))


def test_distance_from_one() -> None:
    """|log AIN|: 0 at 1, equal for a half and a double, infinite at 0, and refused without a value."""
    assert distance_from_one(1.0) == 0.0
    assert distance_from_one(0.5) == pytest.approx(distance_from_one(2.0)) == pytest.approx(math.log(2))
    assert distance_from_one(0.0) == math.inf == distance_from_one(math.inf)
    assert distance_from_one(anamnesis_index(curve_of(None), curve_of(50))) == pytest.approx(math.log(2))
    nothing = AnamnesisIndex(
        value=None, censored=True, informative=False, note="", unlearned_steps=None, gold_steps=None
    )
    for wrong in (nothing, -0.1, math.nan):
        with pytest.raises(BadInput, match="anamnesis index"):
            distance_from_one(wrong)


def test_too_few_or_unfit_data_is_named() -> None:
    """No forget images, one training image, a class missing from training, an original that never knew it."""
    images, labels = torch.zeros(4, 1, 1, 1), torch.ones(4).long()
    settings = RelearnSettings(max_steps=2)

    def attempt(n: int = 4, m: int = 1, label: int = 1, target: float = 1.0) -> None:
        shown = torch.full((m,), label)
        relearn(Climber(), images[:n], labels[:n], torch.zeros(m, 1, 1, 1), shown, target, settings, 0)

    attempt()
    for wrong, message in [
        ({"n": 1}, "number of training images is 1; allowed: at least 2"),
        ({"m": 0}, "number of forget-class validation images"),
        ({"label": 0}, r"forget classes without training images is \[0\]"),
        ({"label": 5}, "range of the labels"),
        ({"target": 0.05}, "original's accuracy on the forget classes is 0.05"),
        ({"target": 1.5}, "original's accuracy"),
        ({"target": math.nan}, "original's accuracy"),
    ]:
        with pytest.raises(BadInput, match=message):
            attempt(**wrong)  # type: ignore[arg-type]


def test_logits_that_are_not_finite_are_an_error() -> None:
    """A model that is NaN, or becomes NaN while it relearns, ends in an error and not in a count."""
    with pytest.raises(BadInput, match="not finite for 1 of 1 images"):
        relearn_climber([5.5], start=math.nan)
    model, images, labels = small_task()
    forget = labels == 0
    broken = torch.where(torch.arange(30).reshape(-1, 1, 1, 1) == 7, math.nan, images)
    with pytest.raises(BadInput, match="not finite for 10 of 10 images"):
        relearn(model, broken, labels, images[forget], labels[forget], 1.0, RelearnSettings(), 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 1), ("lr", 0.0), ("lr", math.nan), ("momentum", 1.0), ("alpha", 1.0), ("alpha", -0.1),
     ("margin", "both"), ("lr_decay", 0.0), ("patience_epochs", 0), ("max_steps", 0),
     ("forget_per_class", -1), ("forget_per_class", 2.0), ("forget_per_class", True)],
)  # fmt: skip
def test_settings_are_checked(name: str, value: object) -> None:
    """Each wrong field is refused by its name."""
    with pytest.raises(BadInput, match=f"audit.relearn.{name}"):
        RelearnSettings(**{name: value})  # type: ignore[arg-type]


def test_something_must_be_shown() -> None:
    """Neither forget nor retain images is refused; each alone is not."""
    with pytest.raises(BadInput, match="audit.relearn.retain_data is False; allowed: True where"):
        RelearnSettings(forget_per_class=0, retain_data=False)
    assert RelearnSettings(forget_per_class=0).retain_data
    assert RelearnSettings(retain_data=False).forget_per_class is None
