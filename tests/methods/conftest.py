"""The digits, and a small version to forget from that is trained once for all tests of methods."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1797 digits, normalised."""
    bunch = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32).unsqueeze(1)
    return (images - 0.305) / 0.376, torch.tensor(bunch.target)


@pytest.fixture(scope="session")
def original(digits: tuple[Tensor, Tensor]) -> Classifier:
    """A small AllCNN trained on every other digit for ten epochs (about 3 s); it knows all ten classes."""
    images, labels = digits[0][::2], digits[1][::2]
    spec = ClassifierSpec(
        name="allcnn", width=0.125, in_channels=1, image_size=8, num_classes=10, mean=(0.305,), std=(0.376,)
    )
    model = build_classifier(spec, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=150)
    order = torch.Generator().manual_seed(0)
    for _ in range(10):
        for ids in torch.randperm(len(labels), generator=order).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[ids]), labels[ids]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()
