"""Losses against closed forms, slow float64 loops and torch's own, and wrong formulas that must miss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayunlearn.methods.distillation import (
    attention_loss,
    attention_map,
    band_pass_filter,
    equivalent_beta,
    js_divergence,
    kl_divergence,
    lower_to_minimum,
    mask_classes,
)

B, K = 5, 4
Rows = list[list[float]]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of a fixed seed, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_softmax(row: Sequence[float], temperature: float) -> list[float]:
    """exp(z_i / tau) / sum_j exp(z_j / tau), by the definition."""
    powers = [math.exp(z / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def slow_kl(p: Sequence[float], q: Sequence[float]) -> float:
    """Sum of p log(p / q), by the definition."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def slow_divergence(measure: Callable, teacher: Tensor, student: Tensor, temperature: float) -> float:
    """Mean over the batch of a measure of two distributions, in plain Python."""
    pairs = zip(teacher.tolist(), student.tolist(), strict=True)
    values = [measure(slow_softmax(t, temperature), slow_softmax(s, temperature)) for t, s in pairs]
    return sum(values) / len(values)


def slow_js(p: Sequence[float], q: Sequence[float]) -> float:
    """Mean divergence of both from their mixture."""
    mixture = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (slow_kl(p, mixture) + slow_kl(q, mixture)) / 2


TEACHER, STUDENT = draw(B, K), 2 * draw(B, K, seed=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_eq_7(temperature: float) -> None:
    """Sum over classes of t log(t / s), mean over the batch: a loop agrees to 1e-12.

    Flawed variants miss: swapped arguments, a mean over classes, temperature on one side, tau^2.
    """
    expected = slow_divergence(slow_kl, TEACHER, STUDENT, temperature)
    assert kl_divergence(TEACHER, STUDENT, temperature).item() == pytest.approx(expected, rel=1e-12)
    flawed = {
        "swapped": slow_divergence(slow_kl, STUDENT, TEACHER, temperature),
        "mean over classes": expected / K,
        "sum over the batch": expected * B,
    }
    if temperature != 1.0:
        flawed["tau squared"] = expected * temperature**2
        flawed["student at 1"] = kl_divergence(TEACHER, STUDENT * temperature, temperature).item()
    for name, value in flawed.items():
        assert value != pytest.approx(expected, rel=0.02), name


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_kl_is_torchs_own_up_to_its_reduction() -> None:
    """Equal to F.kl_div's "batchmean"; the published code's default, a mean over elements, is that / K."""
    log_s, log_t = STUDENT.log_softmax(1), TEACHER.log_softmax(1)
    ours = kl_divergence(TEACHER, STUDENT).item()
    batchmean = F.kl_div(log_s, log_t, log_target=True, reduction="batchmean").item()
    elements = F.kl_div(log_s, log_t, log_target=True, reduction="mean").item()
    assert ours == pytest.approx(batchmean, rel=1e-12)
    assert ours / K == pytest.approx(elements, rel=1e-12)
    assert ours != pytest.approx(elements, rel=0.5)


def test_kl_against_a_masked_target_is_the_kl_of_the_rest() -> None:
    """A probability of 0 in the target adds 0, not NaN, and its class gets the gradient s_i of eq. 7."""
    target = mask_classes(TEACHER, [0])
    student = STUDENT.clone().requires_grad_()
    value = kl_divergence(target, student)
    p = TEACHER[:, 1:].softmax(1)
    by_hand = (p * (p.log() - STUDENT.log_softmax(1)[:, 1:])).sum(1).mean()
    assert value.item() == pytest.approx(by_hand.item(), rel=1e-12)
    value.backward()
    assert torch.allclose(student.grad[:, 0] * B, STUDENT.softmax(1)[:, 0], atol=1e-12)


def test_kl_gradient_is_the_difference_of_probabilities() -> None:
    """d KL / d s = (s - t) / (B tau), the closed form, so student steps go the right way."""
    student = STUDENT.clone().requires_grad_()
    kl_divergence(TEACHER, student, 2.0).backward()
    expected = ((STUDENT / 2).softmax(1) - (TEACHER / 2).softmax(1)) / (B * 2)
    assert torch.allclose(student.grad, expected, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_js_is_symmetric_and_the_mean_divergence_from_the_mixture(temperature: float) -> None:
    """A loop agrees to 1e-12; swapping changes nothing (it changes KL); the mean KL is another number."""
    expected = slow_divergence(slow_js, TEACHER, STUDENT, temperature)
    ours = js_divergence(TEACHER, STUDENT, temperature).item()
    assert ours == pytest.approx(expected, rel=1e-12)
    assert js_divergence(STUDENT, TEACHER, temperature).item() == pytest.approx(ours, rel=1e-12)
    there, back = kl_divergence(TEACHER, STUDENT).item(), kl_divergence(STUDENT, TEACHER).item()
    assert there != pytest.approx(back, rel=0.01)
    assert ours != pytest.approx((there + back) / 2, rel=0.1)


def test_js_is_at_most_ln_2_and_finite() -> None:
    """Disjoint distributions reach ln 2 (KL is 80 there), with a finite gradient in float32."""
    t = torch.tensor([[80.0, 0.0]])
    s = torch.tensor([[0.0, 80.0]], requires_grad=True)
    value = js_divergence(t, s)
    assert value.item() == pytest.approx(math.log(2), rel=1e-6)
    assert kl_divergence(t, s).item() == pytest.approx(80.0, rel=1e-6)
    value.backward()
    assert bool(s.grad.isfinite().all())


def test_divergences_are_0_for_equal_distributions() -> None:
    """A shift of all logits is the same distribution."""
    for measure in (kl_divergence, js_divergence):
        assert measure(TEACHER, TEACHER + 7.0).item() == pytest.approx(0.0, abs=1e-14)


def test_equivalent_beta_keeps_the_direction() -> None:
    """Mean over elements with beta, and eq. 7 with beta K: one gradient, K times as long."""
    features = draw(B, 3, 2, 2, seed=5)
    weights = draw(12, K, seed=6)

    def gradient(divided_by: float, beta: float) -> Tensor:
        x = features.clone().requires_grad_()
        value = kl_divergence(TEACHER, x.flatten(1) @ weights) / divided_by
        attention = attention_loss([attention_map(draw(B, 3, 2, 2))], [attention_map(x)], squared=True)
        (value + beta * attention).backward()
        return x.grad

    published, eq_9 = gradient(K, 250.0), gradient(1, equivalent_beta(250.0, K))
    assert torch.allclose(K * published, eq_9, rtol=1e-10, atol=0)
    wrong = F.cosine_similarity(published.flatten(), gradient(1, 250.0).flatten(), dim=0)
    assert wrong < 0.999


def slow_attention_map(features: Tensor) -> Rows:
    """Mean over channels of the square, flattened row by row, divided by its norm."""
    rows = []
    for image in features.tolist():
        height, width = len(image[0]), len(image[0][0])
        flat = [
            sum(channel[y][x] ** 2 for channel in image) / len(image)
            for y in range(height)
            for x in range(width)
        ]
        norm = math.sqrt(sum(v * v for v in flat))
        rows.append([v / norm for v in flat])
    return rows


def test_attention_map_is_the_normalised_mean_square() -> None:
    """A loop agrees; the mean of the channels, or of their absolute values, is another map."""
    features = draw(B, 3, 2, 4, seed=2)
    ours = attention_map(features)
    assert ours.shape == (B, 8)
    assert torch.allclose(ours, torch.tensor(slow_attention_map(features), dtype=torch.float64), atol=1e-13)
    for flawed in (features.mean(1), features.abs().mean(1)):
        assert not torch.allclose(ours, F.normalize(flawed.flatten(1), dim=1), atol=0.01)


def test_attention_map_of_a_dead_layer_is_0_with_a_finite_gradient() -> None:
    """Where a ReLU lets nothing through the norm is 0; nothing is divided by it."""
    features = torch.zeros(2, 3, 2, 2, requires_grad=True)
    attention_map(features).sum().backward()
    assert torch.equal(attention_map(features), torch.zeros(2, 4))
    assert bool(features.grad.isfinite().all())


def test_attention_losses_are_eq_8_and_the_published_codes() -> None:
    """Both forms against loops, over layers of unlike size; norm^2 / P_l converts one image's into the other.

    Flawed variants miss: squared norm for the norm, a mean over layers, a sum over the batch.
    """
    shapes = [(3, 4, 4), (5, 2, 2), (2, 1, 3)]
    teacher = [attention_map(draw(B, *s, seed=10 + i)) for i, s in enumerate(shapes)]
    student = [attention_map(draw(B, *s, seed=20 + i)) for i, s in enumerate(shapes)]
    norms = [
        [math.dist(t, s) for t, s in zip(a.tolist(), b.tolist(), strict=True)]
        for a, b in zip(teacher, student, strict=True)
    ]
    sizes = [a.shape[1] for a in teacher]
    eq_8 = sum(sum(layer) / B for layer in norms)
    published = sum(sum(n * n for n in layer) / (B * p) for layer, p in zip(norms, sizes, strict=True))
    assert attention_loss(teacher, student, squared=False).item() == pytest.approx(eq_8, rel=1e-12)
    assert attention_loss(teacher, student, squared=True).item() == pytest.approx(published, rel=1e-12)
    squared_norm = sum(sum(n * n for n in layer) / B for layer in norms)
    for flawed in (squared_norm, eq_8 / len(shapes), eq_8 * B, published):
        assert flawed != pytest.approx(eq_8, rel=0.05)
    for flawed in (squared_norm, published / len(shapes), published * B):
        assert flawed != pytest.approx(published, rel=0.05)


def test_attention_losses_of_one_image_convert() -> None:
    """One image, one layer of P positions: the published form is eq. 8's, squared, / P."""
    t, s = attention_map(draw(1, 3, 4, 4)), attention_map(draw(1, 3, 4, 4, seed=1))
    norm = attention_loss([t], [s], squared=False)
    assert attention_loss([t], [s], squared=True).item() == pytest.approx(norm.item() ** 2 / 16, rel=1e-12)


def test_attention_needs_the_same_layers() -> None:
    """Fewer student layers than teacher layers is an error, not a shorter sum."""
    maps = [attention_map(draw(B, 3, 2, 2))] * 2
    with pytest.raises(ValueError, match="zip"):
        attention_loss(maps, maps[:1], squared=True)


def logits_of(*probabilities: Sequence[float]) -> Tensor:
    """Logits whose softmax is exactly these rows, up to rounding."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_filter_passes_below_epsilon_only() -> None:
    """Strictly below passes; at epsilon and above does not (2^-4 is exact: rows of 16ths)."""
    epsilon = 1 / 16
    rows = torch.tensor([[15.0, 1.0], [15.001, 0.999], [14.999, 1.001]], dtype=torch.float64)
    at = torch.zeros(1, 16, dtype=torch.float64)  # softmax of equal logits is 2^-4 exactly
    assert band_pass_filter(rows.log(), [1], epsilon).tolist()[1:] == [True, False]
    assert at.softmax(1)[0, 3].item() == epsilon
    assert band_pass_filter(at, [3], epsilon).tolist() == [False]
    assert band_pass_filter(at, [3], math.nextafter(epsilon, 1)).tolist() == [True]


def test_filter_asks_every_forget_class() -> None:
    """Eq. 10 is a product: one class at or above epsilon stops the image, whatever their sum.

    `any` in its place would pass rows 1 and 2; a sum below epsilon would stop row 3.
    """
    logits = logits_of(
        [0.005, 0.005, 0.99], [0.5, 0.001, 0.499], [0.001, 0.5, 0.499], [0.009, 0.009, 0.982], [0.5, 0.4, 0.1]
    )
    assert band_pass_filter(logits, [0, 1], 0.01).tolist() == [True, False, False, True, False]
    below = logits.softmax(1)[:, :2] < 0.01
    assert below.any(1).tolist() == [True, True, True, True, False]
    assert (logits.softmax(1)[:, :2].sum(1) < 0.01).tolist() == [False] * 5


def test_filter_is_a_plain_loop_on_random_logits() -> None:
    """200 rows, three forget classes in any order: the same as asking one by one."""
    logits = 2 * draw(200, 6, seed=3)
    for forget in ([4, 0, 2], [0, 2, 4]):
        slow = [all(slow_softmax(row, 1.0)[c] < 0.1 for c in forget) for row in logits.tolist()]
        assert 10 < sum(slow) < 190
        assert band_pass_filter(logits, forget, 0.1).tolist() == slow


def test_masked_classes_have_probability_0_and_the_rest_is_renormalised() -> None:
    """softmax over the kept classes alone, at every temperature in use; exactly 0 in float32."""
    for temperature in (0.5, 1.0, 4.0):
        p = (mask_classes(TEACHER.float(), [1, 3]) / temperature).softmax(1)
        assert torch.equal(p[:, [1, 3]], torch.zeros(B, 2))
        kept = (TEACHER[:, [0, 2]].float() / temperature).softmax(1)
        assert torch.allclose(p[:, [0, 2]], kept)
    assert torch.equal(mask_classes(TEACHER, [1, 3])[:, [0, 2]], TEACHER[:, [0, 2]])


def test_row_minimum_is_each_images_least_other_logit() -> None:
    """A loop agrees; the minimum over all logits, or over the batch, is another row. The input stays."""
    logits = torch.tensor([[-9.0, 3.0, 1.0, 2.0], [5.0, -4.0, 8.0, 6.0]], requires_grad=True)
    lowered = lower_to_minimum(logits, [0, 2])
    assert lowered.tolist() == [[2.0, 3.0, 2.0, 2.0], [-4.0, -4.0, -4.0, 6.0]]
    of_all = torch.where(torch.tensor([True, False, True, False]), logits.amin(1, keepdim=True), logits)
    assert lowered.tolist() != of_all.tolist()
    assert logits.tolist()[0] == [-9.0, 3.0, 1.0, 2.0]


def test_row_minimum_says_nothing_of_the_forget_logits() -> None:
    """No gradient and no value of a forget logit gets through: only the least other logit's, once a place."""
    logits = torch.tensor([[7.0, 3.0, 1.0, 2.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(lower_to_minimum(logits, [0, 2]).sum(), logits)
    assert gradient.tolist() == [[0.0, 1.0, 0.0, 3.0]]
    other = logits.detach().clone()
    other[0, [0, 2]] = torch.tensor([-50.0, 60.0])
    assert torch.equal(lower_to_minimum(logits.detach(), [0, 2]), lower_to_minimum(other, [0, 2]))
