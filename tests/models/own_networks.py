"""Networks as a user brings them, which know nothing of this project: factories for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayunlearn.models.classifiers import AllCNN, ClassifierSpec


class Small(nn.Module):
    """Two stages, names of its own, dropout, and logits in a mapping."""

    def __init__(
        self, num_classes: int = 3, channels: int = 1, wide: int = 6, answer: str = "mapping"
    ) -> None:
        super().__init__()
        self.answer = answer
        self.stem = nn.Sequential(nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU())
        self.features = nn.Sequential(
            nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1), nn.BatchNorm2d(2 * wide), nn.ReLU(inplace=True)
        )
        self.auxiliary = nn.Linear(2 * wide, num_classes)
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(2 * wide, num_classes)

    def forward(self, pictures: Tensor) -> Any:
        """Logits, in the form that was asked for."""
        if pictures.mean() > 1e6:  # what no tracer can follow
            raise ValueError("too bright")
        x = self.features(self.stem(pictures)).mean(dim=(2, 3))
        self.auxiliary(x)
        logits = self.classify(self.dropout(x))
        forms = {"mapping": {"logits": logits}, "object": Answer(logits), "probabilities": logits.softmax(1)}
        return forms.get(self.answer, logits)


@dataclass
class Answer:
    """As some libraries return it."""

    logits: Tensor


class Tokens(nn.Module):
    """A transformer of two blocks without BatchNorm, with a class token."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide = nn.Linear(8, 8)
        self.out = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the class token."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = self.norm(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.out(F.relu(self.wide(x))[:, 0])


class Noisy(nn.Module):
    """Dropout that nobody can switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Other logits each time."""
        return self.out(F.dropout(x.flatten(1), 0.5))


def allcnn(**fields: Any) -> nn.Module:
    """A network that is built in, as if it were none."""
    return AllCNN(ClassifierSpec(name="allcnn", **fields))


def flat(kind: str) -> nn.Module:
    """A network of BatchNorm layers of other dimensions."""
    norms = {"1d": nn.BatchNorm1d(5), "sync": nn.SyncBatchNorm(5), "untracked": None}
    norm = norms[kind] or nn.BatchNorm1d(5, track_running_stats=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), norm, nn.ReLU(), nn.Linear(5, 3))


def one_logit() -> nn.Module:
    """A binary classifier of one output."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))


def no_network() -> int:
    """What is no module."""
    return 3
