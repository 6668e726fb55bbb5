"""Counts per class, against scikit-learn, and what must never become a number."""

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import ClassCounts, class_counts
from rayunlearn.models.modes import evaluating


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


def test_counts_equal_the_confusion_matrix() -> None:
    """Correct, total and predicted are diagonal, row sums and column sums of scikit-learn's matrix."""
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 5, generator=g), torch.randint(0, 4, (200,), generator=g)
    counts = class_counts(Lookup(logits), numbered(200), labels, 5)
    matrix = torch.from_numpy(confusion_matrix(labels, logits.argmax(1), labels=range(5)))
    assert torch.equal(counts.correct, matrix.diagonal())
    assert torch.equal(counts.total, matrix.sum(1))
    assert torch.equal(counts.predicted, matrix.sum(0))
    assert counts.total[4] == 0 and counts.predicted[4] > 0


@pytest.mark.parametrize("batch_size", [1, 7, 200, 1024])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    """The counts do not depend on how the images were split."""
    g = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(50, 3, generator=g), torch.randint(0, 3, (50,), generator=g)
    whole = class_counts(Lookup(logits), numbered(50), labels, 3)
    parts = class_counts(Lookup(logits), numbered(50), labels, 3, batch_size=batch_size)
    for name in ("correct", "total", "predicted"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


def test_pooled_accuracy_divides_once() -> None:
    """9 of 10 and 0 of 2 are 9 of 12; the mean of the two rates (0.45) would be wrong."""
    counts = ClassCounts(torch.tensor([9, 0, 0]), torch.tensor([10, 2, 0]), torch.tensor([12, 0, 0]))
    assert counts.sums([0, 1]) == (9, 12)
    assert counts.accuracy([0, 1]) == 0.75
    assert (counts + counts).sums([0]) == (18, 20)


def test_a_class_without_images_has_no_accuracy() -> None:
    """Class 2 was never shown: an error that names it, though the classes beside it have a figure."""
    counts = ClassCounts(torch.tensor([9, 0, 0]), torch.tensor([10, 2, 0]), torch.tensor([12, 0, 0]))
    with pytest.raises(BadInput, match="images of class 2 is 0"):
        counts.accuracy([0, 2])
    assert counts.sums([0, 2]) == (9, 10)


@pytest.mark.parametrize("classes", [[3], [-1], [0, 0]])
def test_unknown_or_repeated_classes_are_refused(classes: list[int]) -> None:
    """An id that is none, or one counted twice, is an error and not a figure."""
    counts = ClassCounts(torch.ones(3).long(), torch.ones(3).long(), torch.ones(3).long())
    with pytest.raises(BadInput, match="different ids of 0..2"):
        counts.sums(classes)


def test_no_class_has_no_accuracy() -> None:
    """An empty list of classes is refused rather than divided by zero."""
    counts = ClassCounts(torch.ones(3).long(), torch.ones(3).long(), torch.ones(3).long())
    with pytest.raises(BadInput, match="at least one"):
        counts.accuracy([])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_never_counted(value: float) -> None:
    """Two of five rows hold a NaN or an infinity, in different batches: the error counts both."""
    logits = torch.zeros(5, 3)
    logits[1, 0] = logits[4, 2] = value
    with pytest.raises(BadInput, match="the model's logits are not finite for 2 of 5 images"):
        class_counts(Lookup(logits), numbered(5), torch.zeros(5).long(), 3, batch_size=2)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (torch.zeros(4).long(), 3, "number of labels"),
        (torch.full((5,), 3), 3, "range of the labels"),
        (torch.full((5,), -1), 3, "range of the labels"),
        (torch.zeros(5), 3, "integers of shape"),
        (torch.zeros(5).long(), 4, "shape of the logits"),
    ],
)
def test_what_does_not_fit_is_refused(labels: torch.Tensor, num_classes: int, message: str) -> None:
    """Labels of another length, range or type, and a model with another number of classes."""
    with pytest.raises(BadInput, match=message):
        class_counts(Lookup(torch.zeros(5, 3)), numbered(5), labels, num_classes)


def test_every_modules_mode_comes_back_even_after_an_error() -> None:
    """A training model with one frozen part keeps both modes; a plain `train()` would thaw the part."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1)))
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]

    def fail_inside() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_counting_leaves_batchnorm_alone() -> None:
    """A model in train mode is evaluated with its running statistics, which stay as they were."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    class_counts(model, 5 + numbered(6), torch.zeros(6).long(), 2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
