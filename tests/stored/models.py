"""Small trained models that tests start from, read from files: no test of them hangs on a training.

`python -m tests.stored.models` trains them and writes the files anew.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from rayunlearn.data.datasets import LabelledImages, load_dataset
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier, version_model
from rayunlearn.models.weights import load_weights_file, weights_to_bytes

FOLDER = Path(__file__).parent
DIGITS, TINY = "digits-allcnn", "tiny-original"


@functools.cache
def allcnn_of_digits() -> ClassifierSpec:
    """AllCNN, width 0.125, for scikit-learn's digits."""
    data = load_dataset("digits")
    return ClassifierSpec(
        name="allcnn", width=0.125, in_channels=1, image_size=8, num_classes=10, mean=data.mean, std=data.std
    )


def stored(name: str) -> Classifier:
    """The model of a file, in eval mode."""
    return version_model(allcnn_of_digits(), load_weights_file(FOLDER / f"{name}.safetensors"))


def trained_on_half(data: LabelledImages, without: tuple[int, ...] = (), seed: int = 0) -> Classifier:
    """Trained for ten epochs on every other digit that is of none of these classes (3 s)."""
    images, labels = data.images[::2], data.labels[::2]
    kept = ~torch.isin(labels, torch.tensor(without, dtype=torch.int64))
    model = build_classifier(allcnn_of_digits(), seed)
    train_classifier(model, images[kept], labels[kept], TrainSettings(epochs=10), seed=seed)
    return model.eval()


def write() -> None:
    """Train each model and write its file."""
    from rayunlearn.auditing.training import fit
    from tests.serving.tiny import original_job

    torch.set_num_threads(1)

    for name, model in ((DIGITS, trained_on_half(load_dataset("digits"))), (TINY, fit(original_job()))):
        path = FOLDER / f"{name}.safetensors"
        path.write_bytes(weights_to_bytes(model.state_dict()))
        print(f"{path}: {path.stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    write()
