"""What the stored models are: small files of networks that know the digits."""

from __future__ import annotations

import pytest

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.models.classifiers import build_classifier
from tests.stored.models import DIGITS, FOLDER, TINY, allcnn_of_digits, stored


@pytest.mark.parametrize("name", [DIGITS, TINY])
def test_a_stored_model_knows_every_class(name: str, digits_data: LabelledImages) -> None:
    """Over 90 % of each class's images `[1::2]`; untrained, the control, it knows a fifth at most."""
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 100_000
    images, labels = digits_data.images[1::2], digits_data.labels[1::2]
    model, untrained = stored(name), build_classifier(allcnn_of_digits(), 0).eval()
    assert not model.training
    assert min(class_counts(model, images, labels, 10).accuracy([c]) for c in range(10)) > 0.9
    assert class_counts(untrained, images, labels, 10).accuracy(range(10)) < 0.2
