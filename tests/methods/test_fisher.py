"""Fisher forgetting: the diagonal, the noise, and what it does to a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.methods.fisher import METHOD, FisherSettings, add_noise, fisher_diagonal, noise_variance
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier
from tests.methods.requests_on_digits import accuracies, check_run, forget_class, forget_samples, run, same

FEW = FisherSettings(max_samples=64)


@pytest.fixture
def tiny() -> Classifier:
    """Five channels and three classes, in float64, with statistics that are not the initial ones."""
    spec = ClassifierSpec(
        name="allcnn", width=0.03, in_channels=1, image_size=8, num_classes=3, mean=(0.0,), std=(1.0,)
    )
    model = build_classifier(spec, 0)
    model(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    return model.double().eval()


IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def slow_fisher(model: Classifier, images: Tensor, *, flaw: str = "") -> dict[str, Tensor]:
    """One image and one label at a time, each with a backward pass of its own."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image in images:
        probabilities = model(image[None]).softmax(1)[0].detach()
        labels = [int(probabilities.argmax())] if flaw == "own answer alone" else range(len(probabilities))
        for label in labels:
            model.zero_grad()
            model(image[None]).log_softmax(1)[0, label].backward()
            weight = 1.0 if flaw == "labels weighted alike" else probabilities[label]
            for name, p in model.named_parameters():
                total[name] += weight * p.grad**2 / len(images)
    return total


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_the_diagonal_is_that_of_a_loop(chunk_size: int, tiny: Classifier) -> None:
    """Per image and label, weighted by the softmax, to 1e-12; flawed weights and batch gradients miss it."""
    ours, slow = fisher_diagonal(tiny, IMAGES, chunk_size), slow_fisher(tiny, IMAGES)
    assert ours.keys() == slow.keys()
    for name, value in slow.items():
        assert torch.allclose(ours[name], value, rtol=1e-9, atol=1e-14), name
    for flaw in ("own answer alone", "labels weighted alike"):
        flawed = slow_fisher(tiny, IMAGES, flaw=flaw)
        assert not torch.allclose(ours["head.weight"], flawed["head.weight"], rtol=0.05)


def test_the_diagonal_of_the_heads_bias_has_a_closed_form(tiny: Classifier) -> None:
    """d log p(y) / d b_k = [y = k] - p_k, so F_k = mean of p_k (1 - p_k)."""
    p = tiny(IMAGES).softmax(1).detach()
    ours = fisher_diagonal(tiny, IMAGES, 2)["head.bias"]
    assert torch.allclose(ours, (p * (1 - p)).mean(0), rtol=1e-10)


def test_the_diagonal_is_taken_in_eval_mode(tiny: Classifier) -> None:
    """A model in train mode gives the same, stays in train mode, and its statistics do not move."""
    expected = fisher_diagonal(tiny, IMAGES, 5)
    buffers = [b.clone() for b in tiny.buffers()]
    ours = fisher_diagonal(tiny.train(), IMAGES, 5)
    assert tiny.training and all(torch.equal(ours[name], value) for name, value in expected.items())
    assert all(torch.equal(a, b) for a, b in zip(buffers, tiny.buffers(), strict=True))


def test_the_variance_by_hand(tiny: Classifier) -> None:
    """Inverse and limits, the mean over input channels, ten times for vectors and the head."""
    fisher = {name: torch.full_like(p, 0.5) for name, p in tiny.named_parameters()}
    fisher["blocks.1.0.weight"][:, 0], fisher["blocks.1.0.weight"][:, 1:] = 0.25, 0.0  # three inputs
    fisher["blocks.0.1.weight"][:] = 0.0
    fisher["head.weight"][0], fisher["head.bias"][0] = 0.0, 0.0
    assert fisher["blocks.1.0.weight"].shape[1] == 3
    variance = noise_variance(tiny, fisher, 1e-6)
    assert all(variance[name].shape == p.shape for name, p in tiny.named_parameters())

    def every(value: Tensor, expected: float) -> bool:
        return bool(torch.allclose(value, torch.full_like(value, expected), rtol=1e-6))

    assert every(variance["blocks.0.0.weight"], 2e-6)
    assert every(variance["blocks.1.0.weight"], (4 + 1000 + 1000) / 3 * 1e-6)
    assert every(variance["blocks.0.1.weight"], 10 * 1000e-6)
    assert every(variance["blocks.0.1.bias"], 10 * 2e-6)
    for name in ("head.weight", "head.bias"):
        assert every(variance[name][0], 10 * 100e-6)
        assert every(variance[name][1:], 10 * 2e-6)


def test_the_head_is_found_by_structure() -> None:
    """A body with as many channels as there are classes is not taken for a head."""
    spec = ClassifierSpec(
        name="allcnn", width=3 / 96, in_channels=1, image_size=8, num_classes=3, mean=(0.0,), std=(1.0,)
    )
    model = build_classifier(spec, 0)
    assert model.blocks[0][0].weight.shape[0] == 3
    fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    assert float(noise_variance(model, fisher, 1.0)["blocks.0.0.weight"].max()) == pytest.approx(1e3)


def test_the_noise_has_the_variance_and_mean_asked_for(tiny: Classifier) -> None:
    """Over 400 seeds, in units of its standard deviation: mean 0, variance 1 within 5 standard errors.

    Rows of a class to forget have mean 0 and variance 1e-3 instead, whatever they were. The given model
    stays.
    """
    before = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    variance = noise_variance(tiny, fisher_diagonal(tiny, IMAGES, 5), 1e-4)
    noisy = [dict(add_noise(tiny, variance, [1], seed).named_parameters()) for seed in range(400)]
    for name, parameter in tiny.named_parameters():
        assert torch.equal(parameter, before[name])
        drawn = torch.stack([(n[name].detach() - before[name]) / variance[name].sqrt() for n in noisy])
        kept = drawn[:, [0, 2]] if name.startswith("head.") else drawn
        assert abs(float(kept.mean())) < 5 / kept.numel() ** 0.5, name
        assert abs(float(kept.var()) - 1) < 5 * (2 / kept.numel()) ** 0.5, name
    rows = torch.stack([n["head.weight"][1].detach() for n in noisy])
    assert abs(float(rows.mean())) < 5 * (1e-3 / rows.numel()) ** 0.5
    assert float(rows.var()) == pytest.approx(1e-3, rel=5 * (2 / rows.numel()) ** 0.5)


def test_without_noise_nothing_changes_but_the_forgotten_row(
    version: Classifier, digits_data: LabelledImages
) -> None:
    """alpha = 0: for samples the weights are the original's bits, for a class all but the head's row."""
    still = replace(FEW, alpha=0.0)
    samples = run(METHOD, forget_samples(digits_data, version, torch.tensor([0, 2])), still)
    assert same(samples, version)
    unlearned = run(METHOD, forget_class(digits_data, version, 3), still)
    for name, value in version.state_dict().items():
        changed = unlearned.state_dict()[name] != value
        if name.startswith("head."):
            assert [bool(row.any()) for row in changed] == [row == 3 for row in range(10)]
        else:
            assert not changed.any(), name


@pytest.mark.learned
def test_more_noise_does_more_harm(version: Classifier, digits_data: LabelledImages) -> None:
    """At 1e-8 retain accuracy stays within a point; at 1e-3 nothing is recognised any more."""
    handed = forget_class(digits_data, version, 0)
    before = accuracies(version, digits_data, 0)[0]
    little, much = (run(METHOD, handed, replace(FEW, alpha=alpha)) for alpha in (1e-8, 1e-3))
    assert abs(accuracies(little, digits_data, 0)[0] - before) < 0.01
    assert max(accuracies(much, digits_data, 0)) < 0.4


def test_samples_are_drawn_at_random(version: Classifier, digits_data: LabelledImages) -> None:
    """As many as asked for, by the seed and not the first ones; more than there are is all of them."""
    handed = forget_class(digits_data, version, 0)
    assert handed.retain is not None
    first_40, first_10 = (
        replace(handed, retain=replace(r, images=r.images[:n], labels=r.labels[:n], ids=r.ids[:n]))
        for r, n in ((handed.retain, 40), (handed.retain, 10))
    )
    everything = run(METHOD, first_40, FisherSettings())
    assert same(run(METHOD, first_40, FisherSettings(max_samples=99)), everything)
    some = run(METHOD, first_40, FisherSettings(max_samples=10))
    assert not same(some, everything) and not same(some, run(METHOD, first_10, FisherSettings()))


def test_labels_and_images_to_forget_are_not_read(version: Classifier, digits_data: LabelledImages) -> None:
    """All labels are weighted by the model's own answers: any labels give the same weights."""
    handed = forget_class(digits_data, version, 0)
    assert handed.retain is not None
    blank = replace(handed.retain, labels=torch.full_like(handed.retain.labels, 99))
    assert same(run(METHOD, handed, FEW), run(METHOD, replace(handed, forget=None, retain=blank), FEW))


@pytest.mark.parametrize("stop_after", [0, 1])
def test_what_holds_for_every_method(
    stop_after: int, version: Classifier, digits_data: LabelledImages
) -> None:
    """See `check_run`; the stop is before or after the one step."""
    settings = FisherSettings(max_samples=32)
    check_run(METHOD, forget_class(digits_data, version, 3), settings, stop_after=stop_after)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", -1e-6), ("alpha", float("nan")), ("alpha", float("inf")), ("alpha", "1e-6"),
        ("max_samples", 0), ("max_samples", 1.5), ("chunk_size", 0), ("chunk_size", None),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(field: str, value: object) -> None:
    """Each by its name in the recipe."""
    with pytest.raises(BadInput, match=f"fisher.{field}"):
        FisherSettings(**{field: value})  # type: ignore[arg-type]
