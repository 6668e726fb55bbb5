"""Answers against softmax and `class_counts`, one forward pass for each model and batch, what is refused."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn
from torch.overrides import TorchFunctionMode

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.distance import calibration_error, class_membership, divergences
from rayunlearn.evaluation.predictions import Predictions, check_classes, predict


class Lookup(nn.Module):
    """Image i (its one pixel is i) gets row i of a table of logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of the table, [B, K]."""
        return self.logits[x.flatten().long()]


def numbered(n: int) -> torch.Tensor:
    """Images [n, 1, 1, 1] that carry their index."""
    return torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1)


def table(n: int, num_classes: int, seed: int) -> torch.Tensor:
    """Normal logits [n, K] of a fixed seed, three deviations wide."""
    return 3 * torch.randn(n, num_classes, generator=torch.Generator().manual_seed(seed))


def small_model(seed: int) -> nn.Sequential:
    """Images [B, 1, 4, 4] -> logits [B, 3], with BatchNorm and dropout, so that its mode matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))


@contextmanager
def counted(models: dict[str, nn.Module]) -> Iterator[Counter[str]]:
    """Counts the forward passes of each model, by hooks."""
    calls: Counter[str] = Counter()
    hooks = [
        model.register_forward_hook(lambda *_, name=name: calls.update([name]))
        for name, model in models.items()
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def test_log_probs_are_the_softmaxs_in_float64() -> None:
    """SciPy's float64 log-softmax, rounded to float32, within one unit in the last place; argmax as well."""
    logits = table(300, 7, 0)
    answers = predict({"a": Lookup(logits)}, numbered(300), torch.arange(300) % 7, batch_size=64)["a"]
    slow = log_softmax(logits.double().numpy(), axis=1).astype(np.float32)
    assert answers.log_probs.dtype == torch.float32 and answers.num_classes == 7
    np.testing.assert_array_max_ulp(answers.log_probs.numpy(), slow, maxulp=1)
    assert torch.equal(answers.predicted, logits.argmax(dim=1))
    assert torch.equal(answers.labels, torch.arange(300) % 7)


def test_counts_are_class_counts() -> None:
    """What `class_counts` counts of the model in a pass of its own, for every model, and for a part too."""
    labels = torch.arange(200) % 5
    models = {"a": Lookup(table(200, 6, 1)), "b": Lookup(table(200, 6, 2))}
    for name, answers in predict(models, numbered(200), labels, batch_size=33).items():
        for classes in (range(5), (1, 3)):
            kept = torch.isin(labels, torch.tensor(classes))
            expected = class_counts(models[name], numbered(200)[kept], labels[kept], 6)
            found = answers.of(classes).counts()
            for part in ("correct", "total", "predicted"):
                assert torch.equal(getattr(found, part), getattr(expected, part))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_never_changes_a_prediction(dtype: torch.dtype) -> None:
    """Logits 0 and 1e-9 have one log-probability in float32 (-ln 2), and yet the second class is predicted.

    The least number above -ln 2 stands for it. Rounding alone (the negative control) predicts the first.
    """
    logits = torch.tensor([[0.0, 1e-9], [1e-9, 0.0], [0.0, 0.0]], dtype=dtype)
    rounded = logits.double().log_softmax(dim=1).float()
    assert rounded.argmax(dim=1).tolist() == [0, 0, 0]
    answers = predict({"a": Lookup(logits)}, numbered(3), torch.tensor([1, 0, 0]))["a"]
    assert answers.predicted.tolist() == [1, 0, 0] == logits.argmax(dim=1).tolist()
    assert (answers.log_probs - rounded).abs().max() == 2.0**-24


def test_small_probabilities_are_kept() -> None:
    """Logits (lead, 1, 0): log-probabilities (0, 1 - lead, -lead), and the last two differ by 1 at any lead.

    The logarithm of a float32 softmax (the negative control) has nothing left of them at a lead of 110.
    """
    for lead in (60.0, 110.0):
        logits = torch.tensor([[lead, 1.0, 0.0]])
        answers = predict({"a": Lookup(logits)}, numbered(1), torch.tensor([0]))["a"].log_probs[0]
        assert float(answers[1] - answers[2]) == 1.0 and float(answers[1]) == 1 - lead
    assert logits.softmax(dim=1).log()[0, 1].isinf()


def test_half_precision_logits_are_widened_first() -> None:
    """A bfloat16 model's answers are the softmax of its logits, not of a softmax in bfloat16."""
    logits = table(50, 4, 3).bfloat16()
    answers = predict({"a": Lookup(logits)}, numbered(50), torch.zeros(50).long())["a"]
    assert torch.allclose(answers.log_probs, logits.double().log_softmax(dim=1).float(), rtol=1e-6)
    assert not torch.allclose(answers.log_probs, logits.log_softmax(dim=1).float(), rtol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1024])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    """The answers do not depend on how the images were split, in eval mode."""
    models = {"a": small_model(0), "b": small_model(1)}
    images = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = predict(models, images, torch.arange(50) % 3)
    parts = predict(models, images, torch.arange(50) % 3, batch_size=batch_size)
    assert list(parts) == ["a", "b"]
    for name in models:
        assert torch.allclose(whole[name].log_probs, parts[name].log_probs, atol=1e-5)


def test_one_forward_pass_for_each_model_and_batch() -> None:
    """10 images in batches of 4 are three passes of each of three models, whatever is asked afterwards."""
    models: dict[str, nn.Module] = {name: Lookup(table(10, 3, i)) for i, name in enumerate("abc")}
    with counted(models) as calls:
        predict(models, numbered(10), torch.arange(10) % 3, batch_size=4)
    assert calls == {"a": 3, "b": 3, "c": 3}


def test_all_measures_of_10_000_images_take_one_pass() -> None:
    """Ten batches, three models, every measure: ten forward passes a model, none of them by a measure.

    Measuring one accuracy by `class_counts` alone (the control) takes ten more.
    """
    n, labels = 10_000, torch.arange(10_000) % 10
    models: dict[str, nn.Module] = {
        name: Lookup(table(n, 10, i)) for i, name in enumerate(("unlearned", "gold", "original"))
    }
    with counted(models) as calls:
        answers = predict(models, numbered(n), labels)
        retain, forget = list(range(1, 10)), [0]
        for mine in answers.values():
            mine.counts().accuracy(retain)
            calibration_error(mine.of(retain))
            for part in (retain, forget):
                assert divergences(mine.of(part), answers["gold"].of(part)).count == 1000 * len(part)
            class_membership(mine.of(forget), answers["gold"].of(forget), retain)
        assert calls == {"unlearned": 10, "gold": 10, "original": 10}
        class_counts(models["gold"], numbered(n), labels, 10)
        assert calls["gold"] == 20


def test_a_batch_is_moved_once_for_all_models_of_a_device() -> None:
    """Three models on one device, three batches: three batches are moved, not nine."""
    moved = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
            if func is torch.Tensor.to and args[0].dim() == 4:
                moved.append(len(args[0]))
            return func(*args, **(kwargs or {}))

    models = {name: Lookup(table(10, 3, i)) for i, name in enumerate("abc")}
    with Watch():
        predict(models, numbered(10), torch.arange(10) % 3, batch_size=4)
    assert moved == [4, 4, 2]


def test_a_model_that_changes_its_input_in_place_disturbs_nobody() -> None:
    """The model after it sees the images as they were, and so does the caller.

    Without a copy of the batch the second model's answers would be those for images without negatives.
    """
    images = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    before, labels, model = images.clone(), torch.arange(20) % 3, small_model(1)
    rude = nn.Sequential(nn.ReLU(inplace=True), small_model(2))
    alone = predict({"b": model}, images, labels)["b"]
    together = predict({"a": rude, "b": model}, images, labels)["b"]
    assert torch.equal(images, before)
    assert torch.equal(alone.log_probs, together.log_probs)
    disturbed = predict({"b": model}, images.relu(), labels)["b"]
    assert not torch.equal(alone.log_probs, disturbed.log_probs)


def test_models_are_left_as_they_were() -> None:
    """Modes of every part, BatchNorm statistics and gradients' flags stay, after an error as well.

    A model under two names, and one that is in train mode with a frozen part, included.
    """
    model = small_model(0).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = 5 + torch.randn(12, 1, 4, 4), torch.arange(12) % 3
    answers = predict({"a": model, "again": model}, images, labels, batch_size=5)
    assert torch.equal(answers["a"].log_probs, answers["again"].log_probs)
    assert not answers["a"].log_probs.requires_grad
    images[3] = math.nan
    with pytest.raises(BadInput, match="not finite"):
        predict({"a": model}, images, labels)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled() and all(p.requires_grad for p in model.parameters())


def test_labels_are_the_answers_own() -> None:
    """Labels of any integer type become int64, and changing the caller's afterwards changes no answer."""
    for dtype in (torch.int64, torch.uint8):
        labels = torch.tensor([0, 1, 2], dtype=dtype)
        answers = predict({"a": Lookup(table(3, 3, 0))}, numbered(3), labels)["a"]
        labels[0] = 2
        assert answers.labels.dtype == torch.int64 and answers.labels.tolist() == [0, 1, 2]


def test_of_keeps_the_images_of_the_classes_in_their_order() -> None:
    """Classes 2 and 0 of labels 0 1 2 0: images 0, 2 and 3, the number of classes as before."""
    log_probs = table(4, 3, 0).log_softmax(dim=1)
    part = Predictions(log_probs, torch.tensor([0, 1, 2, 0])).of([2, 0])
    assert part.labels.tolist() == [0, 2, 0] and part.num_classes == 3
    assert torch.equal(part.log_probs, log_probs[[0, 2, 3]])


def test_of_names_a_class_without_images() -> None:
    """Class 1 was never shown: an error that names it, though class 0 beside it has images."""
    answers = Predictions(table(2, 3, 0).log_softmax(dim=1), torch.tensor([0, 2]))
    with pytest.raises(BadInput, match=r"Predictions.of: number of images of class 1 is 0; allowed: at"):
        answers.of([0, 1])


@pytest.mark.parametrize("classes", [[], [3], [-1], [0, 0]])
def test_unknown_repeated_or_no_classes_are_refused(classes: list[int]) -> None:
    """An id that is none, one given twice, or none at all is an error and not a part."""
    message = rf"classes is \[{', '.join(map(str, classes))}\]; allowed: at least one of 0\.\.2, each once"
    with pytest.raises(BadInput, match=message):
        check_classes(classes, 3, "here")
    with pytest.raises(BadInput, match=message):
        Predictions(table(3, 3, 0).log_softmax(dim=1), torch.arange(3)).of(classes)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_name_the_model_and_count_the_images(value: float) -> None:
    """Two of five rows of the second model hold one, in different batches; the first model is sound."""
    logits = torch.zeros(5, 3)
    logits[1, 0] = logits[4, 2] = value
    with pytest.raises(BadInput, match="the logits of model 'gold' are not finite for 2 of 5 images"):
        predict(
            {"a": Lookup(torch.zeros(5, 3)), "gold": Lookup(logits)},
            numbered(5), torch.zeros(5).long(), batch_size=2,
        )  # fmt: skip


def test_models_with_different_numbers_of_classes_are_both_named() -> None:
    """Three and four classes: the error has both names and both numbers."""
    models = {"gold": Lookup(torch.zeros(5, 3)), "unlearned": Lookup(torch.zeros(5, 4))}
    message = "number of classes of model 'unlearned' is 4; allowed: 3, that of model 'gold'"
    with pytest.raises(BadInput, match=message):
        predict(models, numbered(5), torch.zeros(5).long())


class Fixed(nn.Module):
    """Answers every batch with logits of one shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(self.shape)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (5, 3, 1), (5, 0)])
def test_logits_of_another_shape_name_the_model(shape: tuple[int, ...]) -> None:
    """One number an image, too few rows, a third axis, no class: said of which model, with the shape."""
    message = r"shape of the logits of model 'odd' is \[.*\]; allowed: \[5, K\]"
    with pytest.raises(BadInput, match=message) as caught:
        predict({"a": Fixed(5, 3), "odd": Fixed(*shape)}, numbered(5), torch.zeros(5).long())
    assert caught.value.value == list(shape)


@pytest.mark.parametrize(
    ("names", "n", "labels", "batch_size", "message"),
    [
        ("", 5, torch.zeros(5).long(), 2, r"predict: models is \[\]; allowed: at least one"),
        ("a", 0, torch.zeros(0).long(), 2, "predict: number of images is 0; allowed: at least 1"),
        ("a", 5, torch.zeros(5).long(), 0, "predict: batch_size is 0; allowed: a whole number > 0"),
        ("a", 5, torch.zeros(4).long(), 2, "predict: number of labels is 4; allowed: 5, one an image"),
        ("a", 5, torch.full((5,), 3), 2, r"predict: range of the labels is \[3, 3\]; allowed: 0..2"),
        ("a", 5, torch.zeros(5), 2, "predict: labels is 'torch.float32 .*integers of shape"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    names: str, n: int, labels: torch.Tensor, batch_size: int, message: str
) -> None:
    """No model, no images, no batch size, labels of another length, range or type."""
    models = {name: Lookup(torch.zeros(5, 3)) for name in names}
    with pytest.raises(BadInput, match=message):
        predict(models, numbered(n), labels, batch_size=batch_size)


LOG_HALF = torch.full((2, 2), -math.log(2))


@pytest.mark.parametrize(
    ("log_probs", "labels", "message"),
    [
        (LOG_HALF.double(), torch.zeros(2).long(), r"log_probs is 'torch.float64 \[2, 2\] on cpu'"),
        (LOG_HALF[0], torch.zeros(2).long(), r"log_probs is .*allowed: torch.float32 \[N, K\] on cpu"),
        (LOG_HALF, torch.zeros(2), r"labels is 'torch.float32 .*allowed: torch.int64 \[N\]"),
        (LOG_HALF, torch.zeros(3).long(), "number of labels is 3; allowed: 2"),
        (LOG_HALF, torch.tensor([0, 2]), r"range of the labels is \[0, 2\]"),
        (LOG_HALF.exp(), torch.zeros(2).long(), "probabilities do not sum to 1 is 2; allowed: 0"),
        (LOG_HALF + torch.tensor([[0.0], [0.001]]), torch.zeros(2).long(), "do not sum to 1 is 1"),
        (LOG_HALF * torch.tensor([[1.0], [math.nan]]), torch.zeros(2).long(), "do not sum to 1 is 1"),
        (LOG_HALF * torch.tensor([[1.0], [math.inf]]), torch.zeros(2).long(), "do not sum to 1 is 1"),
    ],
)
def test_what_is_no_prediction_is_refused(
    log_probs: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    """Other types and shapes, labels that do not fit, logits or probabilities given for their logarithms."""
    with pytest.raises(BadInput, match=message):
        Predictions(log_probs, labels)


def test_a_probability_of_0_is_a_prediction() -> None:
    """Minus infinity is the logarithm of 0: allowed in a row that sums to 1, and so is no image at all."""
    answers = Predictions(torch.tensor([[0.0, -math.inf]]), torch.tensor([1]))
    assert answers.predicted.tolist() == [0]
    none = Predictions(torch.zeros(0, 2), torch.zeros(0).long())
    assert none.counts().total.tolist() == [0, 0]
