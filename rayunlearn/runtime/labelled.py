"""The one place where the runtime opens a dataset: never in a driver, never in a sealed process."""

from __future__ import annotations

from rayunlearn.data.datasets import LabelledImages, load_dataset
from rayunlearn.data.splits import Split, limited, split
from rayunlearn.recipes import DataSettings


def open_data(data: DataSettings, split_seed: int) -> tuple[LabelledImages, Split]:
    """The dataset of a recipe and its split, within the recipe's limits."""
    dataset = load_dataset(data.dataset)
    parts = split(dataset, data.test_fraction, split_seed)
    limits = {"train_per_class": data.train_per_class, "test_per_class": data.test_per_class}
    return dataset, limited(parts, dataset.labels, **limits)
