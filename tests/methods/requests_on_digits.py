"""Requests on digits for methods that are handed data, and what holds for every method."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.data.mislabelling import Mislabelled, Mislabelling, mislabel
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.methods.unlearning import Handed, Method, Samples, TrainingLog
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.roles import Roles

K = 10


def forget_class(data: LabelledImages, version: Classifier, target: int, *, seed: int = 0) -> Handed:
    """A request to forget one digit from a version trained on every other image."""
    ids = torch.arange(0, len(data.labels), 2)
    roles = Roles(retain=tuple(c for c in range(K) if c != target), target=(target,))
    return _handed(data, version, ids[data.labels[ids] == target], roles, seed)


def forget_samples(data: LabelledImages, version: Classifier, ids: Tensor, *, seed: int = 0) -> Handed:
    """A request to forget single samples, by their indices in the dataset."""
    return _handed(data, version, ids, Roles(retain=tuple(range(K)), target=()), seed)


def with_misled_sevens(
    data: LabelledImages, version: Classifier, *, seed: int = 0, epochs: int = 10
) -> tuple[LabelledImages, Mislabelled, Classifier]:
    """The data with 59 of the 88 training sevens called 2 or 3, what changed, and a model taught that."""
    train = torch.arange(0, len(data.labels), 2)
    wrong = mislabel(data.labels, train, Mislabelling(of=7, to=(2, 3, 7), share=1.0), seed=0)
    taught, misled = replace(data, labels=wrong.labels), build_classifier(version.spec, seed)
    settings = TrainSettings(epochs=epochs)
    train_classifier(misled, taught.images[train], taught.labels[train], settings, seed=seed)
    return taught, wrong, misled


def _handed(data: LabelledImages, version: Classifier, forget: Tensor, roles: Roles, seed: int) -> Handed:
    trained_on = torch.arange(0, len(data.labels), 2)
    retain = trained_on[~torch.isin(trained_on, forget)]

    def samples(ids: Tensor) -> Samples:
        return Samples(images=data.images[ids], labels=data.labels[ids], ids=ids)

    return Handed(
        spec=version.spec,
        weights=version.state_dict(),
        roles=roles,
        seed=seed,
        forget=samples(forget),
        retain=samples(retain),
    )


def with_log(handed: Handed, log: TrainingLog) -> Handed:
    """The same request, with the log of the version's training."""
    return replace(handed, training_log=log)


def accuracies(model: Classifier, data: LabelledImages, target: int) -> tuple[float, float]:
    """Retain and forget accuracy on the images that no model of these tests was trained on."""
    counts = class_counts(model, data.images[1::2], data.labels[1::2], K)
    return counts.accuracy([c for c in range(K) if c != target]), counts.accuracy([target])


def probability(model: Classifier, data: LabelledImages, target: int) -> float:
    """Mean probability of the target class on its own images, those that no model was trained on."""
    images = data.images[1::2][data.labels[1::2] == target]
    with torch.no_grad():
        return float(model(images).softmax(1)[:, target].mean())


def run(method: Method, handed: Handed, settings: Any) -> Classifier:
    """A method's last checkpoint."""
    unlearning = method.begin(handed, settings, "cpu")
    unlearning.advance(1, unlearning.steps)
    return unlearning.checkpoint()


def same(a: Classifier, b: Classifier) -> bool:
    """Whether two models are equal bit for bit, buffers included; both are made in this process."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def check_run(method: Method, handed: Handed, settings: Any, *, stop_after: int) -> None:
    """What holds for every method.

    A run saved after `stop_after` steps and loaded goes on to the same bits, and reports the same; the same
    seed gives the same weights and another seed others; the handed weights and the global random numbers
    are left alone; a checkpoint is a copy in eval mode.
    """
    weights, random = copy.deepcopy(handed.weights), torch.get_rng_state()
    whole, resumed = (method.begin(handed, settings, "cpu") for _ in range(2))
    if stop_after:
        whole.advance(1, stop_after)
    state = whole.state()
    if whole.steps > stop_after:
        whole.advance(stop_after + 1, whole.steps)
    last, report = whole.checkpoint(), whole.report()
    for unlearning in (resumed, whole):  # the second one is set back; no run reaches into the state
        unlearning.load(state)
        if unlearning.steps > stop_after:
            unlearning.advance(stop_after + 1, unlearning.steps)
        assert same(unlearning.checkpoint(), last)
        assert unlearning.report() == report
    assert not last.training and not same(last, handed.model())
    assert not same(last, run(method, replace(handed, seed=handed.seed + 1), settings))
    assert all(torch.equal(handed.weights[name], value) for name, value in weights.items())
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        last.head.bias += 1
    assert not same(last, whole.checkpoint())
