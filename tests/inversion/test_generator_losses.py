"""The generator's losses against closed forms and slow loops, each beside a wrong reading."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rayunlearn.inversion.deep_inversion import BatchNormStatistics
from rayunlearn.inversion.generator_losses import (
    SquaredBatchNormStatistics,
    augmentation_loss,
    batchnorm_loss,
    diversity_loss,
    entropy_loss,
    total_variation_loss,
)
from rayunlearn.models.classifiers import Classifier

B, K, L = 6, 4, 3
LABELS = torch.tensor([0, 0, 1, 2, 1, 0])


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of a fixed seed, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS = 2 * draw(B, K)


# Eq. 3.


def test_entropy_loss_is_the_cross_entropy_to_the_label_asked_for() -> None:
    """Mean of -log p(y). A confident wrong answer costs most, though the prediction's entropy is 0."""
    p = LOGITS.softmax(dim=1)
    by_hand = -sum(math.log(p[i, y]) for i, y in enumerate(LABELS.tolist())) / B
    assert entropy_loss(LOGITS, LABELS).item() == pytest.approx(by_hand)
    wrong = torch.tensor([[0.0, 100.0]])
    assert entropy_loss(wrong, torch.tensor([0])).item() == pytest.approx(100.0)
    assert torch.special.entr(wrong.softmax(dim=1)).sum().item() < 1e-6


# Eq. 4.


def test_augmentation_loss_is_the_squared_distance_of_probabilities() -> None:
    """Summed over transformations and classes, the mean over images; logits give another value."""
    transformed = draw(L, B, K, seed=1)
    p, q = LOGITS.softmax(dim=1), transformed.softmax(dim=2)
    by_hand = sum(
        (p[b, k] - q[phi, b, k]).item() ** 2 for phi in range(L) for b in range(B) for k in range(K)
    )
    found = augmentation_loss(LOGITS, transformed).item()
    assert found == pytest.approx(by_hand / B)
    of_logits = (LOGITS - transformed).square().sum().item() / B
    assert of_logits != pytest.approx(found, rel=0.5)


def test_augmentation_loss_is_0_for_equal_answers_and_at_most_2_for_each_transformation() -> None:
    """Adding a constant to an image's logits changes nothing; opposite certainties cost 2."""
    assert augmentation_loss(LOGITS, (LOGITS + 3.0).expand(L, B, K)).item() == pytest.approx(0.0)
    sure = torch.tensor([[100.0, 0.0]])
    assert augmentation_loss(sure, -sure.expand(L, 1, 2)).item() == pytest.approx(2.0 * L)


# Eq. 5.


def slow_diversity(z: Tensor, features: Tensor, labels: list[int]) -> float:
    """Class by class and pair by pair, in plain Python."""
    total = 0.0
    for label in set(labels):
        own = [i for i, y in enumerate(labels) if y == label]
        products = []
        for i in own:
            for j in own:
                if i < j:
                    noise = sum((a - b) ** 2 for a, b in zip(z[i].tolist(), z[j].tolist(), strict=True))
                    looks = sum(
                        abs(a - b) for a, b in zip(features[i].tolist(), features[j].tolist(), strict=True)
                    )
                    products.append(noise / z.shape[1] * looks / features.shape[1])
        if products:
            total += math.exp(-sum(products) / len(products))
    return total


def test_diversity_loss_is_the_slow_one() -> None:
    """Classes of three, two and one: the last has no pair and adds nothing."""
    z, features = draw(B, 5, seed=2), draw(B, 7, seed=3)
    found = diversity_loss(z, features, LABELS).item()
    assert found == pytest.approx(slow_diversity(z, features, LABELS.tolist()))
    assert 0 < found < 2
    assert diversity_loss(z, features, torch.arange(B)).item() == 0.0


def test_a_collapsed_batch_costs_more_than_a_spread_one() -> None:
    """Equal features cost 1 a class, exactly; the wider they are spread, the less, and never below 0."""
    z, features = draw(B, 5, seed=2), draw(B, 7, seed=3)
    values = [diversity_loss(z, scale * features, LABELS).item() for scale in (0.0, 0.5, 1.0, 3.0)]
    assert values[0] == 2.0
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < values[1] - 0.1


def test_the_gradient_drives_images_of_a_class_apart() -> None:
    """A step down it widens the distances within classes; between classes nothing is asked."""
    z, features = draw(B, 5, seed=2), (0.1 * draw(B, 7, seed=3)).requires_grad_(True)
    diversity_loss(z, features, LABELS).backward()
    assert features.grad is not None
    with torch.no_grad():
        moved = features - 0.1 * features.grad

    def distance(x: Tensor) -> float:
        return float((x[LABELS == 0][:, None] - x[LABELS == 0]).abs().sum())

    assert distance(moved) > distance(features.detach())
    assert not features.grad[LABELS == 2].any()


# Eq. 6.


def trained_layer(x: Tensor) -> nn.BatchNorm2d:
    """A BatchNorm whose running statistics are those of `x` `[B, C, H, W]`."""
    layer = nn.BatchNorm2d(x.shape[1], momentum=1.0).to(x.dtype)
    layer(x)
    return layer.eval()


def test_batchnorm_loss_is_0_on_data_whose_statistics_match() -> None:
    """Pixels rearranged within their channel match; moved by one standard deviation they do not."""
    x = draw(4, 3, 5, 5)
    layer = trained_layer(x)
    rearranged = x.flip(0, 3)
    assert batchnorm_loss(rearranged, layer).item() == pytest.approx(0.0, abs=1e-20)
    assert batchnorm_loss(x + 1.0, layer).item() == pytest.approx(3.0)


def test_batchnorm_loss_by_hand() -> None:
    """Mean and unbiased variance of each channel in float64; the biased variance gives another value."""
    x, layer = draw(4, 3, 5, 5, seed=1), trained_layer(2 * draw(4, 3, 5, 5) + 1)
    assert layer.running_mean is not None and layer.running_var is not None
    expected, biased = 0.0, 0.0
    for channel in range(3):
        values = x[:, channel].flatten().tolist()
        mean = sum(values) / len(values)
        squares = sum((v - mean) ** 2 for v in values)
        off = (mean - layer.running_mean[channel].item()) ** 2
        expected += off + (squares / (len(values) - 1) - layer.running_var[channel].item()) ** 2
        biased += off + (squares / len(values) - layer.running_var[channel].item()) ** 2
    assert batchnorm_loss(x, layer).item() == pytest.approx(expected)
    assert biased != pytest.approx(expected, rel=1e-4)


@pytest.mark.learned
def test_the_sum_is_over_every_layers_input(version: Classifier) -> None:
    """Eight layers of AllCNN, seen by a second pass; the norms are squared, DeepInversion's are not."""
    x = draw(5, 1, 8, 8).float()
    seen = []
    layers = [m for m in version.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [
        m.register_forward_pre_hook(lambda m, inputs: seen.append(batchnorm_loss(inputs[0], m)))
        for m in layers
    ]
    with torch.no_grad():
        version(x)
    for handle in handles:
        handle.remove()
    assert len(seen) == 8
    squared, plain = SquaredBatchNormStatistics(version), BatchNormStatistics(version)
    with torch.no_grad(), squared, plain:
        version(x)
    total = squared.take().item()
    assert total == pytest.approx(sum(float(term) for term in seen), rel=1e-5)
    assert plain.take().item() != pytest.approx(total, rel=0.1)


# Eq. 7.


def test_total_variation_loss_by_hand() -> None:
    """Squares, each pair of neighbours once, across and down apart; a flat image costs nothing."""
    x = draw(2, 3, 4, 5)
    across = [
        (x[b, c, i, j + 1] - x[b, c, i, j]).item() ** 2
        for b in range(2) for c in range(3) for i in range(4) for j in range(4)
    ]  # fmt: skip
    down = [
        (x[b, c, i + 1, j] - x[b, c, i, j]).item() ** 2
        for b in range(2) for c in range(3) for i in range(3) for j in range(5)
    ]  # fmt: skip
    expected = sum(across) / len(across) + sum(down) / len(down)
    assert total_variation_loss(x).item() == pytest.approx(expected)
    assert total_variation_loss(torch.full((1, 1, 3, 3), 7.0)).item() == 0.0
    assert total_variation_loss(3 * x).item() == pytest.approx(9 * expected)
