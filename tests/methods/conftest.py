"""Names by which tests of methods know the digits and the version to forget from."""

from __future__ import annotations

import pytest
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.models.classifiers import Classifier
from tests.stored.models import DIGITS, stored


@pytest.fixture(scope="session")
def digits(digits_data: LabelledImages) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1797 digits, normalised."""
    return digits_data.images, digits_data.labels


@pytest.fixture(scope="session")
def original() -> Classifier:
    """The stored AllCNN of every other digit, which knows all ten classes; not to be changed."""
    return stored(DIGITS)
