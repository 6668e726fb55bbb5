"""Baselines that hide a class: forget accuracy 0, everything that knew it still in place."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.anamnesis import RelearnSettings, relearn
from rayunlearn.evaluation.probe import ProbeSettings, linear_probe
from rayunlearn.methods.trivial import (
    DELETE_HEAD_ROW,
    GAUSSIAN_HEAD,
    MASK_LOGIT,
    GaussianHeadSettings,
    TrivialSettings,
    delete_head_row,
    gaussian_head,
    mask_logit,
)
from rayunlearn.methods.unlearning import Handed, Method
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles

K = 10
FORGET = [0, 3]
RETAIN = [1, 2, 4, 5, 6, 7, 8, 9]

ROLES = Roles(retain=tuple(RETAIN), target=(3,), forgotten=(0,))

Baseline = Callable[[Classifier], Classifier]
BASELINES: dict[str, Baseline] = {
    "mask_logit": lambda model: mask_logit(model, FORGET),
    "delete_head_row": lambda model: delete_head_row(model, FORGET),
    "gaussian_head": lambda model: gaussian_head(model, retain=RETAIN, seed=0),
}


@pytest.fixture(scope="module", params=sorted(BASELINES))
def baseline(request: pytest.FixtureRequest, original: Classifier) -> Classifier:
    """Each of the three, made from the original."""
    return BASELINES[request.param](original)


@pytest.mark.learned
def test_the_original_knows_what_is_hidden(original: Classifier, digits: tuple[Tensor, Tensor]) -> None:
    """Over 95 % on the digits it was not trained on, each class over 85 %: there is something to hide."""
    counts = class_counts(original, digits[0][1::2], digits[1][1::2], K)
    assert counts.accuracy(range(K)) > 0.95
    assert min(counts.accuracy([c]) for c in range(K)) > 0.85


@pytest.mark.learned
def test_forget_classes_are_never_predicted(baseline: Classifier, digits: tuple[Tensor, Tensor]) -> None:
    """On all 1797 digits, seen or not, and on noise, no forget class is ever the argmax."""
    counts = class_counts(baseline, *digits, K)
    assert counts.sums(FORGET)[0] == 0
    assert int(counts.predicted[FORGET].sum()) == 0
    noise = 3 * torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    predicted = class_counts(baseline, noise, torch.zeros(500).long(), K).predicted
    assert int(predicted[FORGET].sum()) == 0


@pytest.mark.parametrize("name", ["mask_logit", "delete_head_row"])
def test_retain_predictions_are_the_originals(
    name: str, original: Classifier, digits: tuple[Tensor, Tensor]
) -> None:
    """Where the original says a retain class, masking and deleting say the same; their logits are equal."""
    hidden = BASELINES[name](original)
    with torch.no_grad():
        before, after = original(digits[0]), hidden(digits[0])
    kept = torch.isin(before.argmax(1), torch.tensor(RETAIN))
    assert 0 < int(kept.sum()) < len(kept)
    assert torch.equal(before.argmax(1)[kept], after.argmax(1)[kept])
    assert torch.equal(before[:, RETAIN], after[:, RETAIN])


@pytest.mark.learned
def test_the_gaussian_head_is_a_serious_baseline(original: Classifier, digits: tuple[Tensor, Tensor]) -> None:
    """Its retain accuracy on unseen digits is within one point of the original with masked logits."""
    images, labels = digits[0][1::2], digits[1][1::2]
    masked = class_counts(mask_logit(original, FORGET), images, labels, K).accuracy(RETAIN)
    for seed in range(3):
        hidden = gaussian_head(original, retain=RETAIN, seed=seed)
        assert abs(class_counts(hidden, images, labels, K).accuracy(RETAIN) - masked) < 0.01


def test_features_are_the_originals_bit_for_bit(
    baseline: Classifier, original: Classifier, digits: tuple[Tensor, Tensor]
) -> None:
    """Everything but the head is unchanged, buffers included, and so are the features."""
    with torch.no_grad():
        assert torch.equal(baseline.features(digits[0]), original.features(digits[0]))
    old, new = original.state_dict(), baseline.state_dict()
    assert set(old) == set(new)
    assert {name for name in old if not torch.equal(old[name], new[name])} <= {"head.weight", "head.bias"}
    assert all(bool(value.isfinite().all()) for value in new.values())


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_the_input_model_is_not_changed(name: str, original: Classifier) -> None:
    """A frozen model in train mode keeps weights, flags and mode; the result is another object."""
    model = copy.deepcopy(original).train().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    hidden = BASELINES[name](model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training and not any(p.requires_grad for p in model.parameters())
    assert hidden.head.weight.data_ptr() != model.head.weight.data_ptr()
    assert torch.equal(state, torch.get_rng_state())


def test_a_mask_is_undone_by_adding_it_back(original: Classifier, digits: tuple[Tensor, Tensor]) -> None:
    """Nothing was forgotten: with the constant added back every prediction is the original's again."""
    masked = mask_logit(original, FORGET, offset=64.0)
    with torch.no_grad():
        masked.head.bias[FORGET] += 64.0
        assert torch.equal(masked(digits[0]).argmax(1), original(digits[0]).argmax(1))


def test_a_deleted_row_is_gone(original: Classifier) -> None:
    """The rows are 0 with one bias, 50 below the least: adding a constant gives no class back."""
    deleted = delete_head_row(original, FORGET, offset=50.0)
    assert not deleted.head.weight[FORGET].any()
    assert torch.equal(deleted.head.bias[FORGET], (original.head.bias.min() - 50.0).expand(2))


@pytest.mark.learned
def test_the_gaussian_head_keeps_no_forget_row(original: Classifier) -> None:
    """The same seed gives the same head, another seed another one, and the forget rows are lost.

    Retain rows are the original's again (cosine over 0.95, around the retain rows' mean), forget rows
    are not (under 0.5), and their biases sink below all others.
    """
    first, again, other = (gaussian_head(original, retain=RETAIN, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.head.weight, again.head.weight) and torch.equal(first.head.bias, again.head.bias)
    assert not torch.equal(first.head.weight, other.head.weight)
    old = original.head.weight - original.head.weight[RETAIN].mean(0)
    new = first.head.weight - first.head.weight[RETAIN].mean(0)
    cosine = functional.cosine_similarity(old, new)
    assert cosine[RETAIN].min().item() > 0.95
    assert cosine[FORGET].max().item() < 0.5
    assert first.head.bias[FORGET].max().item() < first.head.bias[RETAIN].min().item()


@pytest.mark.learned
def test_measures_that_see_through_the_baselines(
    baseline: Classifier, original: Classifier, digits: tuple[Tensor, Tensor]
) -> None:
    """A probe finds the hidden classes as in the original, and a few epochs bring them back."""
    x, y = digits
    halves = (x[::2], y[::2], x[1::2], y[1::2])
    found, before = (
        linear_probe(model, *halves, FORGET, ProbeSettings(), 0) for model in (baseline, original)
    )
    assert found == before and found.forget.recall > 0.9
    shown = torch.isin(halves[3], torch.tensor(FORGET))
    target = class_counts(original, halves[2], halves[3], K).accuracy(FORGET)
    settings = RelearnSettings(batch_size=64, alpha=0.1, max_steps=120)
    curve = relearn(baseline, x[::2], y[::2], halves[2][shown], halves[3][shown], target, settings, 0)
    assert curve.correct[0] == 0 and curve.reached is not None


@pytest.mark.parametrize("classes", [[], list(range(K)), [K], [-1]])
def test_wrong_classes_are_refused(classes: list[int], original: Classifier) -> None:
    """None, all, or unknown classes cannot be hidden; nor can none or all be retained."""
    for hide in (mask_logit, delete_head_row):
        with pytest.raises(BadInput, match="classes to hide"):
            hide(original, classes)
    with pytest.raises(BadInput, match="retain|classes to hide"):
        gaussian_head(original, retain=classes, seed=0)


def test_wrong_settings_are_refused(original: Classifier) -> None:
    """An offset that hides nothing or is not finite (its logits would be refused), and no samples."""
    for offset in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(BadInput, match="offset"):
            mask_logit(original, [0], offset=offset)
        with pytest.raises(BadInput, match="offset"):
            delete_head_row(original, [0], offset=offset)
    with pytest.raises(BadInput, match="trivial.gaussian.samples"):
        GaussianHeadSettings(samples=0)


SMALL = GaussianHeadSettings(samples=512, epochs=2)
RUNS: dict[str, tuple[Method, Baseline]] = {
    "mask_logit": (MASK_LOGIT, lambda model: mask_logit(model, FORGET, offset=30.0)),
    "delete_head_row": (DELETE_HEAD_ROW, lambda model: delete_head_row(model, FORGET, offset=30.0)),
    "gaussian_head": (
        GAUSSIAN_HEAD,
        lambda model: gaussian_head(model, retain=RETAIN, seed=5, settings=SMALL),
    ),
}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_run_is_the_function_in_one_step(name: str, original: Classifier) -> None:
    """By the settings, for every class to be gone, one forgotten earlier included; weights are enough.

    A run begun anew and loaded gives the same model; what was handed stays.
    """
    method, edit = RUNS[name]
    handed = Handed(spec=original.spec, weights=original.state_dict(), roles=ROLES, seed=5)
    before = copy.deepcopy(handed.weights)
    settings = TrivialSettings(offset=30.0, gaussian=SMALL)
    run, loaded = (method.begin(handed, settings, "cpu") for _ in range(2))
    assert (run.steps, method.name, method.section, method.fixed_length) == (1, name, "trivial", True)
    assert (method.data_access, method.granularity) == ({"weights"}, {"classes"})
    assert "hides" in method.source
    start = run.checkpoint().state_dict()
    run.advance(1, 1)
    loaded.load(run.state())
    expected = edit(original).state_dict()
    for done in (run, loaded):
        found = done.checkpoint().state_dict()
        assert all(torch.equal(expected[key], value) for key, value in found.items())
    for unchanged in (start, handed.weights):
        assert all(torch.equal(before[key], value) for key, value in unchanged.items())


@pytest.mark.parametrize("offset", [0.0, -1.0, float("inf"), float("nan")])
def test_wrong_settings_of_a_run_are_refused(offset: float) -> None:
    """By the path that a recipe knows them by."""
    with pytest.raises(BadInput, match=r"trivial\.offset is"):
        TrivialSettings(offset=offset)
