"""The stopping rule for requests that name single samples, of which no synthetic image tells anything."""

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.stopping import CheckpointRecord, StoppingSettings, choose, should_stop

COUNT = 20


def records(retain, *, samples):
    """Records with so many of COUNT retain images right, of samples or of a class that never comes back."""
    forget_count = 0 if samples else COUNT
    return [
        CheckpointRecord(10 * (i + 1), right, COUNT, 0, forget_count, 0.0, 0.9, samples=samples)
        for i, right in enumerate(retain)
    ]


def test_retain_accuracy_alone_chooses():
    """As for a class of which no image is ever right: the same step; the reason says what was not judged."""
    retain = [4, 12, 19, 20, 20, 11]
    stopping = StoppingSettings(patience=None)
    choice = choose(records(retain, samples=True), stopping)
    assert choice.step == choose(records(retain, samples=False), stopping).step is not None
    assert "forget not judged: synthetic images say nothing of single samples" in choice.reason
    assert "forget mass" not in choice.reason
    assert should_stop(records(retain, samples=True), stopping) is None


def test_a_model_that_learned_nothing_is_not_chosen():
    """The bound on retain accuracy holds as for classes."""
    refused = choose(records([4, 9], samples=True), StoppingSettings())
    assert refused.step is None and "highest retain accuracy is 45.00 %" in refused.reason


@pytest.mark.parametrize(("counts", "samples"), [((0, 1), True), ((1, 1), True), ((0, 0), False)])
def test_forget_images_belong_to_classes_alone(counts, samples):
    """Counts on samples are an error, and so are 0 of 0 on a class."""
    with pytest.raises(BadInput, match="forget_c"):
        CheckpointRecord(10, 5, COUNT, *counts, 0.0, 0.9, samples=samples)
