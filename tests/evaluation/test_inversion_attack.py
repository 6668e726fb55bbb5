"""The attack on models whose answer is known, its score, and digits by an original against a gold model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.inversion_attack import (
    InversionAttack,
    InversionAttackSettings,
    class_means,
    gaussian_blur,
    inversion_attack,
    invert,
    pearson,
    process_images,
    specific_part,
    starting_images,
)
from rayunlearn.methods.trivial import mask_logit
from rayunlearn.models.classifiers import Classifier, ClassifierSpec
from tests.stored.models import trained_on_half

SIZE, CLASSES, TARGET = 6, 4, 1
PIXELS = SIZE * SIZE
PLAIN = InversionAttackSettings(
    attacks=3, epochs=1, steps_per_epoch=1, step="plain", lr=0.5, noise=0.3, blur=0, sharpen=0
)
UNIT = replace(PLAIN, step="normalised", lr=0.2)


class Linear(Classifier):
    """Logits that are linear in the pixels, which range from -2 to 2."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(
            ClassifierSpec(
                name="allcnn", width=1.0, in_channels=1, image_size=SIZE, num_classes=len(weight),
                mean=(0.5,), std=(0.25,),
            )
        )  # fmt: skip
        self.head = nn.Linear(PIXELS, len(weight))
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        return x.flatten(1)


def weights(scale: float = 1.0, *, num_classes: int = CLASSES, seed: int = 0) -> Tensor:
    """Random rows [K, 36] of about unit length times `scale`."""
    draws = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_classes, PIXELS, generator=draws) / math.sqrt(PIXELS)


def as_images(rows: Tensor) -> Tensor:
    """[N, 36] -> [N, 1, 6, 6]."""
    return rows.reshape(-1, 1, SIZE, SIZE)


def softmax_gradient(x: np.ndarray, weight: np.ndarray, target: int) -> np.ndarray:
    """d CE / dx = sum over k of (p_k - [k = target]) w_k, one image at a time, float64 [A, 36]."""
    rows = []
    for image in x:
        logits = weight @ image
        p = np.exp(logits - logits.max())
        p /= p.sum()
        p[target] -= 1
        rows.append(p @ weight)
    return np.stack(rows)


# The steps, in closed form.


@pytest.mark.parametrize("settings", [PLAIN, UNIT], ids=["plain", "normalised"])
def test_a_step_is_the_gradient_of_the_cross_entropy(settings: InversionAttackSettings) -> None:
    """One step on a linear softmax model: x - lr g, g = (p - e_t) W, cut to [-2, 2], to 1e-6.

    The normalised step has g at a mean square of 1. The negative control is another class's gradient, and
    for the plain step the mean over the batch in place of the sum: a third of the way.
    """
    weight = weights(3.0)
    starts = starting_images(Linear(weight).spec, TARGET, settings, 0)
    x = starts.flatten(1).double().numpy()
    ours = invert(Linear(weight), TARGET, starts, settings).flatten(1).numpy()

    def error(target: int, share: float = 1.0) -> float:
        gradient = softmax_gradient(x, weight.double().numpy(), target)
        if settings.step == "normalised":
            gradient /= np.sqrt((gradient**2).mean(axis=1, keepdims=True))
        return float(np.abs(ours - np.clip(x - share * settings.lr * gradient, -2, 2)).max())

    assert error(TARGET) < 1e-6
    assert error(0) > 0.05 and error(TARGET, 1 / 3) > 0.05


def test_a_normalised_step_does_not_stop_where_the_model_is_sure() -> None:
    """A lead of 1000: the cross-entropy's gradient underflows and a plain attack stands still.

    The normalised one goes on along w_t less the nearest other class's row.
    """
    weight = weights()
    weight[0] *= 10
    model = Linear(weight, torch.tensor([0.0, 1000.0, -500.0, -500.0]))
    starts = starting_images(model.spec, TARGET, PLAIN, 0)
    assert torch.equal(invert(model, TARGET, starts, PLAIN), starts)
    moved = (invert(model, TARGET, starts, UNIT) - starts).flatten(1)
    way = weight[TARGET] - weight[0]
    expected = UNIT.lr * way / way.square().mean().sqrt()
    assert torch.allclose(moved, expected.expand_as(moved), atol=1e-6)


def test_a_masked_logit_changes_nothing_for_a_normalised_attack() -> None:
    """A bias lowered by 20 gives the same images bit for bit; a plain attack, the control, draws others."""
    model = Linear(weights(3.0))
    masked = mask_logit(model, [TARGET], offset=20.0)
    starts = starting_images(model.spec, TARGET, UNIT, 0)
    for settings, same in ((UNIT, True), (PLAIN, False)):
        many = replace(settings, steps_per_epoch=5)
        images = [invert(m, TARGET, starts, many) for m in (model, masked)]
        assert torch.equal(*images) is same


def test_where_the_gradient_is_zero_nothing_moves() -> None:
    """An empty head: no pixel matters, and the images stay where they start rather than become NaN."""
    model = Linear(torch.zeros(CLASSES, PIXELS))
    starts = starting_images(model.spec, TARGET, UNIT, 0)
    assert torch.equal(invert(model, TARGET, starts, UNIT), starts)


@pytest.mark.parametrize("step", ["plain", "normalised"])
def test_many_steps_draw_the_row_of_the_class(step: str) -> None:
    """The confidence is over 0.9 and each image correlates with w_t - mean of the others, over 0.8.

    Those of class 0 do not with the same pattern: the control.
    """
    weight = weights(3.0)
    others = [k for k in range(CLASSES) if k != TARGET]
    pattern = as_images((weight[TARGET] - weight[others].mean(dim=0))[None])
    settings = replace(PLAIN, steps_per_epoch=40, step=step, lr=0.1, noise=0.1, attacks=12)
    attack = inversion_attack(Linear(weight), TARGET, as_images(weight), settings, 0)
    assert float(attack.confidence.min()) > 0.9
    assert (attack.recognised, attack.count) == (12, 12)
    assert float(pearson(attack.images, pattern).min()) > 0.8
    other = inversion_attack(Linear(weight), 0, as_images(weight), settings, 0)
    assert float(pearson(other.images, pattern).max()) < 0.3


def test_a_model_that_never_saw_the_class_shows_nothing_of_it() -> None:
    """A head row of zeros: the image goes away from the other classes alone.

    With orthogonal class means its own correlation is the noise's (standard error 1 / sqrt(36 * 12)),
    as is `specific`; the others' are negative, so that the lead over them looks like knowledge.
    """
    basis = torch.linalg.qr(torch.cat([torch.ones(PIXELS, 1), weights(num_classes=4).T], dim=1)).Q.T[1:]
    means = as_images(basis)
    weight = 10 * basis
    weight[TARGET] = 0
    settings = replace(PLAIN, attacks=12, steps_per_epoch=40, lr=0.05, noise=0.1)
    blind = inversion_attack(Linear(weight), TARGET, means, settings, 0)
    bound = 4 / math.sqrt(PIXELS * 12)
    assert abs(blind.own_sum) / blind.count < bound
    assert blind.specific_sum is not None and abs(blind.specific_sum) / blind.count < bound
    assert float(blind.nearest_other.mean()) < -0.2
    seeing = inversion_attack(Linear(10 * basis), TARGET, means, settings, 0)
    assert seeing.own_sum / seeing.count > 0.5
    assert seeing.specific_sum is not None and seeing.specific_sum / seeing.count > 0.5


# Image processing.


@given(st.sampled_from([0.3, 0.6, 1.0, 1.7]), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**31))
def test_the_blur_is_scipys(sigma: float, channels: int, size: int, seed: int) -> None:
    """`scipy.ndimage.gaussian_filter` on each channel, nearest pixel beyond the edge, to 1e-12."""
    images = np.random.default_rng(seed).normal(size=(2, channels, size, size))
    ours = gaussian_blur(torch.from_numpy(images), sigma).numpy()
    radius = math.ceil(3 * sigma)
    theirs = ndimage.gaussian_filter(images, sigma, axes=(2, 3), mode="nearest", radius=radius)
    assert np.abs(ours - theirs).max() < 1e-12


def test_processing_smooths_then_sharpens() -> None:
    """y + s (y - blur'(y)) with y = blur(x): by hand from the blur; the other order, the control, differs
    at the edges; 0 and 0 change nothing; a constant stays."""
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    settings = InversionAttackSettings(blur=0.7, sharpen=0.9, sharpen_blur=1.1)
    y = gaussian_blur(x, 0.7)
    ours = process_images(x, settings)
    assert torch.allclose(ours, 1.9 * y - 0.9 * gaussian_blur(y, 1.1), atol=1e-12)
    swapped = gaussian_blur(1.9 * x - 0.9 * gaussian_blur(x, 1.1), 0.7)
    assert (ours - swapped).abs().max() > 1e-3
    assert torch.equal(process_images(x, replace(settings, blur=0, sharpen=0)), x)
    flat = torch.full_like(x, 0.3)
    assert torch.allclose(process_images(flat, settings), flat, atol=1e-12)


def test_processing_comes_after_every_n_steps() -> None:
    """Two epochs of two steps are step, step, process, step, step, process; cut to the range each time."""
    model = Linear(weights(3.0))
    settings = InversionAttackSettings(attacks=3, epochs=2, steps_per_epoch=2, lr=1.5)
    x = starting_images(model.spec, TARGET, settings, 0)
    ours = invert(model, TARGET, x, settings)
    one = replace(settings, epochs=1, steps_per_epoch=1, blur=0, sharpen=0)
    for _ in range(2):
        for _ in range(2):
            x = invert(model, TARGET, x, one)
        x = process_images(x, settings).clamp(-2, 2)
    assert torch.equal(ours, x)
    assert float(ours.abs().max()) <= 2


# Independence, seeds, and what is left alone.


class OwnBatchNorm(Linear):
    """A BatchNorm that takes the batch's own statistics in eval mode too: it couples the attacks."""

    def __init__(self) -> None:
        super().__init__(weights(3.0))
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        return self.norm(x).flatten(1)


def apart(model: Classifier, starts: Tensor, settings: InversionAttackSettings) -> float:
    """Greatest difference of a pixel between each attack alone and in the batch."""
    together = invert(model, 0, starts, settings)
    alone = torch.cat([invert(model, 0, start[None], settings) for start in starts])
    return float((together - alone).abs().max())


@pytest.mark.learned
def test_the_attacks_of_a_batch_are_independent(version: Classifier) -> None:
    """Each alone ends where it does in the batch, in float64 to 1e-9.

    In float32 it does so to 1e-6 as a rule, and now and then nothing of the kind (0.39 of one run in twenty):
    a step has one length, so that where a gradient turns on a ReLU's edge the roundings part. Negative
    control: under a BatchNorm of the batch's own statistics they end elsewhere.
    """
    settings = InversionAttackSettings(attacks=3, epochs=3)
    starts = starting_images(version.spec, 0, settings, 0)
    version.train()  # the attack itself has to choose eval mode
    assert apart(version.double(), starts.double(), settings) < 1e-9
    coupled = OwnBatchNorm()
    assert apart(coupled, starting_images(coupled.spec, 0, settings, 0), settings) > 1e-4


def test_each_attack_has_a_seed_of_its_own() -> None:
    """Attack i starts alike however many there are; not so for another class, seed or attack."""
    spec = Linear(weights()).spec
    three, twelve = (starting_images(spec, TARGET, InversionAttackSettings(attacks=n), 7) for n in (3, 12))
    assert torch.equal(three, twelve[:3])
    assert len({tuple(start.flatten().tolist()) for start in twelve}) == 12
    assert not torch.equal(three[0], starting_images(spec, 0, InversionAttackSettings(), 7)[0])
    assert not torch.equal(three[0], starting_images(spec, TARGET, InversionAttackSettings(), 8)[0])
    many = starting_images(spec, TARGET, InversionAttackSettings(attacks=200, noise=0.05), 0)
    assert float(many.std()) == pytest.approx(0.05, rel=0.05) and abs(float(many.mean())) < 0.003


def test_the_attack_is_repeatable_and_blind_to_the_real_images() -> None:
    """The same arguments give the same bits; other means give the same images with other scores."""
    model = Linear(weights(3.0))
    settings = InversionAttackSettings(attacks=3)
    means = [as_images(weights(seed=seed)) for seed in (1, 2)]
    first, again, other = (inversion_attack(model, TARGET, m, settings, 0) for m in (means[0], *means))
    assert torch.equal(first.images, again.images) and torch.equal(first.correlations, again.correlations)
    assert torch.equal(first.images, other.images)
    assert not torch.equal(first.correlations, other.correlations)


def test_the_model_is_left_as_it_was(version: Classifier, digits_data: LabelledImages) -> None:
    """Weights, statistics, each module's mode, the parameters' flags and gradients are as before."""
    version.train()
    version.blocks[0].eval()
    version.head.bias.requires_grad_(False)
    before = copy.deepcopy(version.state_dict())
    modes = [module.training for module in version.modules()]
    means = class_means(digits_data.images, digits_data.labels, 10)
    attack = inversion_attack(version, 3, means, InversionAttackSettings(attacks=2, epochs=1), 0)
    assert all(torch.equal(before[name], value) for name, value in version.state_dict().items())
    assert [module.training for module in version.modules()] == modes
    assert [p.requires_grad for p in version.parameters()][-1] is False
    assert all(p.requires_grad for p in list(version.parameters())[:-1])
    assert all(p.grad is None for p in version.parameters())
    assert not attack.images.requires_grad


# The score.


@given(st.integers(0, 2**31))
def test_the_correlation_is_numpys(seed: int) -> None:
    """`numpy.corrcoef` of every pair, to 1e-9, at any scale and offset; 0 for a constant, which has none."""
    draws = np.random.default_rng(seed)
    images = draws.normal(size=(3, 2, 4, 4)) * 10.0 ** draws.integers(-6, 6) + draws.normal()
    patterns = draws.normal(size=(2, 2, 4, 4))
    ours = pearson(torch.from_numpy(images), torch.from_numpy(patterns)).numpy()
    theirs = np.corrcoef(images.reshape(3, -1), patterns.reshape(2, -1))[:3, 3:]
    assert np.abs(ours - theirs).max() < 1e-9
    # the mean of equal pixels may be off by a rounding, which has a direction
    constant = torch.full((1, 2, 4, 5), draws.normal(), dtype=torch.float32)
    assert pearson(constant, torch.from_numpy(draws.normal(size=(1, 2, 4, 5)))).item() == 0


def test_constant_images_are_counted() -> None:
    """Every pixel speaks for the class, so long steps end in white: 3 of 3 constant, the sums 0."""
    weight = torch.zeros(CLASSES, PIXELS)
    weight[TARGET] = 1
    settings = replace(UNIT, steps_per_epoch=10, lr=2.0)
    attack = inversion_attack(Linear(weight), TARGET, as_images(weights()), settings, 0)
    assert torch.equal(attack.images, torch.full((3, 1, SIZE, SIZE), 2.0))
    assert (int(attack.constant.sum()), attack.own_sum, attack.specific_sum) == (3, 0.0, 0.0)
    assert attack.recognised == 3
    drawn = inversion_attack(Linear(weights()), TARGET, as_images(weights()), settings, 0)
    assert int(drawn.constant.sum()) == 0


@given(st.integers(0, 2**31))
def test_nothing_composed_of_the_others_is_specific(seed: int) -> None:
    """The specific part is uncorrelated with every other mean and any affine combination of them.

    The class's own mean scores sqrt(1 - R^2) of its regression on the others: numpy's least squares.
    """
    draws = np.random.default_rng(seed)
    means = torch.from_numpy(draws.normal(size=(CLASSES, 1, SIZE, SIZE)) + draws.normal())
    own = specific_part(means, TARGET)
    assert own is not None
    others = means[[0, 2, 3]]
    composed = torch.einsum("k,kchw->chw", torch.from_numpy(draws.normal(size=3)), others) + 5.0
    assert pearson(torch.cat([others, composed[None]]), own[None]).abs().max() < 1e-9
    flat = means.flatten(1).numpy()
    design = np.column_stack([flat[[0, 2, 3]].T, np.ones(PIXELS)])
    residual = flat[TARGET] - design @ np.linalg.lstsq(design, flat[TARGET], rcond=None)[0]
    share = np.linalg.norm(residual) / np.linalg.norm(flat[TARGET] - flat[TARGET].mean())
    assert pearson(means[[TARGET]], own[None]).item() == pytest.approx(share, abs=1e-9)
    assert np.abs(own.flatten().numpy() - residual).max() < 1e-9


def test_without_anything_specific_there_is_no_such_score() -> None:
    """A mean composed of the others', or more classes than pixels: None; two others alike: no matter."""
    means = as_images(weights())
    alike = means.clone()
    alike[2] = alike[0]
    assert specific_part(alike, TARGET) is not None
    composed = means.clone()
    composed[TARGET] = 0.3 * means[0] - 2 * means[3] + 1
    assert specific_part(composed, TARGET) is None
    attack = inversion_attack(Linear(weights()), TARGET, composed, UNIT, 0)
    assert attack.specific is None and attack.specific_sum is None
    assert specific_part(as_images(weights(num_classes=PIXELS + 1)), TARGET) is None


def test_the_sums_are_those_of_the_attacks() -> None:
    """Own and nearest other by hand from a table of correlations; the target itself is no other."""
    attack = InversionAttack(
        target=1,
        images=torch.zeros(2, 1, 1, 1),
        confidence=torch.tensor([0.9, 0.1]),
        predicted=torch.tensor([1, 0]),
        correlations=torch.tensor([[-0.5, 0.75, -0.25], [0.5, 0.25, 0.0]], dtype=torch.float64),
        specific=torch.tensor([0.5, -0.25], dtype=torch.float64),
        constant=torch.tensor([False, True]),
    )
    assert (attack.count, attack.recognised, int(attack.constant.sum())) == (2, 1, 1)
    assert (attack.own_sum, float(attack.nearest_other.sum()), attack.specific_sum) == (1.0, 0.25, 0.25)


def test_class_means_are_the_means_of_each_class(digits_data: LabelledImages) -> None:
    """numpy's mean over each class in float64, in the images' own type; a class without images is named."""
    images, labels = digits_data.images[:300], digits_data.labels[:300]
    means = class_means(images, labels, 10)
    for class_id in range(10):
        slow = images.numpy()[labels.numpy() == class_id].astype(np.float64).mean(axis=0)
        assert np.abs(means[class_id].numpy() - slow).max() < 1e-6
    assert means.dtype == images.dtype
    with pytest.raises(BadInput, match="number of images of class 10 is 0; allowed: at least 1"):
        class_means(images, labels, 11)


# Digits.


@pytest.mark.learned
def test_an_original_is_drawn_and_a_masked_one_as_well(
    digits_version: Callable[..., Classifier], digits_data: LabelledImages
) -> None:
    """Class 0 of a small AllCNN: known as such in all 4 attacks, its mean correlates over 0.3.

    With its logit masked the model takes no image for the class, and is drawn just as well: the images
    are the same. A model that never saw the class gives less: own 0.76 +- 0.04 against -0.07 +- 0.12 over
    four root seeds with three such models each.
    """
    means = class_means(digits_data.images[1::2], digits_data.labels[1::2], 10)
    settings = InversionAttackSettings(attacks=4)

    def attack(model: Classifier) -> InversionAttack:
        return inversion_attack(model, 0, means, settings, 0)

    original = attack(digits_version())
    masked = attack(mask_logit(digits_version(), [0], offset=50.0))
    gold = attack(digits_version(without=(0,)))
    assert (original.recognised, masked.recognised, gold.recognised) == (4, 0, 0)
    assert original.own_sum / 4 > 0.3
    assert torch.allclose(original.images, masked.images, atol=1e-3)
    assert gold.own_sum < original.own_sum - 0.8
    assert float(original.confidence.min()) > 0.9 and float(gold.confidence.max()) < 0.5


@pytest.mark.learned
@pytest.mark.slow
def test_original_and_gold_are_told_apart_on_three_seeds(
    digits_version: Callable[..., Classifier], digits_data: LabelledImages
) -> None:
    """Class 0, AllCNN width 0.125, three pairs, 6 attacks each: both scores are higher on the original.

    Five seeds with 12 attacks: own 0.66 ± 0.09 against -0.10 ± 0.12 (gold), specific 0.44 ± 0.08 against
    0.05 ± 0.09. Asked of the mean difference over the three pairs.
    """
    means = class_means(digits_data.images[1::2], digits_data.labels[1::2], 10)
    models = [(digits_version(), digits_version(without=(0,)))]
    models += [tuple(trained_on_half(digits_data, out, seed) for out in ((), (0,))) for seed in (1, 2)]
    own, specific = [], []
    for pair in models:
        known, gold = (inversion_attack(m, 0, means, InversionAttackSettings(attacks=6), 0) for m in pair)
        own.append((known.own_sum - gold.own_sum) / 6)
        specific.append((known.specific_sum - gold.specific_sum) / 6)  # type: ignore[operator]
    assert mean(own) > 0.2
    assert mean(specific) > 0.05


# What is refused.


@pytest.mark.parametrize("target", [-1, CLASSES])
def test_a_class_that_the_model_does_not_have_is_refused(target: int) -> None:
    """The class is named with those that there are, by the attack and by the whole."""
    model = Linear(weights())
    message = f"inversion attack: class attacked is {target}; allowed: one of 0..3"
    with pytest.raises(BadInput, match=message):
        inversion_attack(model, target, as_images(weights()), PLAIN, 0)
    with pytest.raises(BadInput, match=message):
        invert(model, target, torch.zeros(1, 1, SIZE, SIZE), PLAIN)


@pytest.mark.parametrize("shape", [(1, 1, SIZE, SIZE), (CLASSES, SIZE, SIZE), (CLASSES, 1, SIZE, 5)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """One mean only, no channel, another size: the shape is named with the one that fits."""
    with pytest.raises(BadInput, match=r"starting images is \[1, 36\]; allowed: \[A, 1, 6, 6\]"):
        invert(Linear(weights()), TARGET, torch.zeros(1, PIXELS), PLAIN)
    with pytest.raises(BadInput, match=r"shape of the class means is .*; allowed: \[4, 1, 6, 6\]"):
        inversion_attack(Linear(weights()), TARGET, torch.zeros(shape), PLAIN, 0)


@pytest.mark.parametrize(("value", "word"), [(0.25, "constant"), (math.nan, "not finite"), (math.inf, "not")])
def test_means_that_nothing_correlates_with_are_refused(value: float, word: str) -> None:
    """A constant mean, or one with NaN: a score of 0 would look like nothing leaked."""
    means = as_images(weights())
    means[2] = value
    with pytest.raises(BadInput, match=rf"mean image is {word}.* is \[2\]"):
        inversion_attack(Linear(weights()), TARGET, means, PLAIN, 0)


@pytest.mark.parametrize("bias", [math.nan, -math.inf])
def test_logits_that_are_not_finite_are_refused(bias: float) -> None:
    """NaN, or a class masked by minus infinity: an error that counts the attacks; the mode is put back."""
    model = Linear(weights(), torch.tensor([0.0, 0.0, bias, 0.0])).train()
    with pytest.raises(BadInput, match="logits are not finite in 3 of 3 attacks"):
        inversion_attack(model, TARGET, as_images(weights()), PLAIN, 0)
    assert model.training


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attacks", 0), ("epochs", 0), ("steps_per_epoch", 0), ("lr", 0.0), ("lr", math.nan),
        ("step", "adam"), ("noise", 0.0), ("blur", -0.1), ("sharpen", math.inf), ("sharpen_blur", 0.0),
    ],
)  # fmt: skip
def test_settings_are_checked(name: str, value: object) -> None:
    """Each wrong field is refused by its name."""
    with pytest.raises(BadInput, match=f"audit.inversion.{name} is"):
        InversionAttackSettings(**{name: value})  # type: ignore[arg-type]
