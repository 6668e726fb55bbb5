"""What every test runs under: one thread, a quiet local Ray without tokens, patient hypothesis."""

from __future__ import annotations

import copy
import functools
import os
from typing import Protocol

# Before any test imports Ray. Without RAY_AUTH_MODE a local `ray.init()` writes ~/.ray/auth_token and turns
# token authentication on for later clusters; `ray.train.report` waits for the health check (2 s by default).
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
# Bitwise claims hold at equal threads, and Ray gives an actor of one CPU one thread. torch's own setting
# counts for the thread that sets it; tests start more.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from rayunlearn.data.datasets import LabelledImages, load_dataset  # noqa: E402
from rayunlearn.methods.training import TrainSettings, train_classifier  # noqa: E402
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier  # noqa: E402

torch.set_num_threads(1)

# No deadline: CI machines are shared. In CI the examples are the same each time; at a desk they are new.
IN_CI = bool(os.environ.get("CI"))
settings.register_profile("rayunlearn", deadline=None, derandomize=IN_CI, print_blob=True)
settings.load_profile("rayunlearn")


class TrainVersion(Protocol):
    """What the fixture `digits_version` gives."""

    def __call__(self, without: tuple[int, ...] = ()) -> Classifier:
        """A copy of the version trained on all digits but these, in eval mode."""


@pytest.fixture(scope="session")
def digits_data() -> LabelledImages:
    """scikit-learn's digits; tests train on every other one and measure on the rest."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def digits_version(digits_data: LabelledImages) -> TrainVersion:
    """Trains a small AllCNN (width 0.125) on digits `[::2]`, once for each set of left-out classes (3 s)."""

    @functools.cache
    def trained(without: tuple[int, ...]) -> Classifier:
        spec = ClassifierSpec(
            name="allcnn", width=0.125, in_channels=1, image_size=8, num_classes=10,
            mean=digits_data.mean, std=digits_data.std,
        )  # fmt: skip
        images, labels = digits_data.images[::2], digits_data.labels[::2]
        kept = ~torch.isin(labels, torch.tensor(without, dtype=torch.int64))
        model = build_classifier(spec, 0)
        train_classifier(model, images[kept], labels[kept], TrainSettings(epochs=10), seed=0)
        return model.eval()

    return lambda without=(): copy.deepcopy(trained(without))


@pytest.fixture
def version(digits_version: TrainVersion) -> Classifier:
    """A copy of the version trained on all digits: to forget from, to invert, to change at will."""
    return digits_version()
