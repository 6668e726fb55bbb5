"""EUBO and RKL as requests on digits; the mathematics is tested in tests/methods/test_last_layer.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.inversion.similarity import features_of
from rayunlearn.methods.last_layer import LastLayerEdit, LastLayerSettings
from rayunlearn.methods.unlearning import Method
from rayunlearn.methods.variational import EUBO, RKL
from rayunlearn.methods.variational_objectives import UnlearnSettings
from rayunlearn.models.classifiers import Classifier
from tests.methods.requests_on_digits import (
    accuracies,
    check_run,
    forget_class,
    forget_samples,
    run,
    with_misled_sevens,
)

SETTINGS = LastLayerSettings()
QUICK = LastLayerSettings(unlearn=UnlearnSettings(steps=5, samples=8, lr=0.05))
BOTH = pytest.mark.parametrize("method", [EUBO, RKL], ids=lambda method: method.name)


@pytest.mark.learned
def test_eubo_forgets_a_class_and_keeps_the_rest(version: Classifier, digits_data: LabelledImages) -> None:
    """At the default lambda: the class from over 95 % to under 5, the others lose under 5 points."""
    before = accuracies(version, digits_data, 3)
    retain, forget = accuracies(run(EUBO, forget_class(digits_data, version, 3), SETTINGS), digits_data, 3)
    assert before[1] > 0.95 and forget < 0.05 and retain > before[0] - 0.05


@pytest.mark.learned
def test_rkl_keeps_the_rest_and_forgets_little(version: Classifier, digits_data: LabelledImages) -> None:
    """As in the paper (98 and 76 % on MNIST): D_r within 2 points, and most of the class is still there.

    Five originals with two seeds each: D_e 95 +- 2 %, 1 point below the original's, and once above it.
    """
    before = accuracies(version, digits_data, 3)
    retain, forget = accuracies(run(RKL, forget_class(digits_data, version, 3), SETTINGS), digits_data, 3)
    assert retain > before[0] - 0.02 and forget > 0.7


@pytest.mark.learned
def test_three_samples_of_a_class(version: Classifier, digits_data: LabelledImages) -> None:
    """Few-shot: the others are retained, so D is all of D. EUBO forgets the class and hurts D_r more than
    with all of D_e; RKL keeps D_r.

    Five originals with two seeds each: D_r of EUBO 0.88 +- 0.06, with all of D_e 0.96 +- 0.03, of RKL 0.98 +-
    0.01. The paper's RKL keeps the class as well; here it does in nine of ten runs, and in one D_e is 0.01.
    """
    known = (digits_data.labels[::2] == 0).nonzero()[:3, 0] * 2
    handed = forget_samples(digits_data, version, known)
    full = accuracies(run(EUBO, forget_class(digits_data, version, 0), SETTINGS), digits_data, 0)
    few = accuracies(run(EUBO, handed, SETTINGS), digits_data, 0)
    assert few[1] < 0.05 and few[0] < full[0]
    assert accuracies(run(RKL, handed, SETTINGS), digits_data, 0)[0] > 0.9


@pytest.mark.learned
def test_mislabelled_samples_lose_their_labels(version: Classifier, digits_data: LabelledImages) -> None:
    """Of 88 sevens 59 are called 2 or 3, and the version knows it. EUBO takes these labels away, but gives no
    right ones (the paper: 0 % on D_e, D_r ruined); RKL leaves them as they are, and D_r far above EUBO's.

    Three root seeds with two each: 98 +- 2 % are as taught, after RKL 98 +- 2 %, after EUBO none; of test
    sevens EUBO answers 2 +- 4 % right. D_r is 72 +- 2 % by EUBO, 97 +- 1 % by RKL, and 86 % in one of 31
    runs. A version of ten epochs knows 54 to 86 % of the wrong labels only.
    """
    taught, wrong, misled = with_misled_sevens(digits_data, version, epochs=30)
    handed = forget_samples(taught, misled.eval(), wrong.changed_ids)

    def as_taught(model: Classifier) -> float:
        with torch.no_grad():
            answers = model(taught.images[wrong.changed_ids]).argmax(dim=1)
        return float((answers == taught.labels[wrong.changed_ids]).double().mean())

    eubo, rkl = (run(method, handed, SETTINGS) for method in (EUBO, RKL))
    assert as_taught(misled) > 0.8, "the version has not learned the wrong labels"
    assert as_taught(eubo) < 0.1
    assert accuracies(eubo, digits_data, 7)[1] < 0.3
    assert accuracies(rkl, digits_data, 7)[0] > accuracies(eubo, digits_data, 7)[0]
    assert as_taught(rkl) > 0.5


@BOTH
def test_it_is_the_edit_of_the_last_layer(
    method: Method, version: Classifier, digits_data: LabelledImages
) -> None:
    """On features of retain and forget data, of which the latter are D_e; the body stays bit for bit."""
    handed = forget_class(digits_data, version, 3, seed=4)
    train = torch.arange(0, len(digits_data.labels), 2)
    erased = digits_data.labels[train] == 3
    ids = torch.cat([train[~erased], train[erased]])
    labels = digits_data.labels[ids]
    change = LastLayerEdit(
        features=features_of(version, digits_data.images[ids]), labels=labels, erased=labels == 3,
        method=method.name, settings=QUICK, seed=4,
    )  # fmt: skip
    unlearned = run(method, handed, QUICK)
    assert torch.allclose(unlearned.head.weight, change(version).head.weight, atol=1e-5)
    before = version.state_dict()
    changed = {name for name, value in unlearned.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


@BOTH
@pytest.mark.parametrize("stop_after", [0, 1])
def test_what_holds_for_every_method(
    method: Method, stop_after: int, version: Classifier, digits_data: LabelledImages
) -> None:
    """See `check_run`; the stop is before or after the one step."""
    check_run(method, forget_class(digits_data, version, 3), QUICK, stop_after=stop_after)


@BOTH
@pytest.mark.parametrize("part", ["forget", "retain"])
def test_it_needs_both_parts_of_the_data(
    method: Method, part: str, version: Classifier, digits_data: LabelledImages
) -> None:
    """The posterior is of all of D, and the likelihood that of what is to be forgotten."""
    handed = replace(forget_class(digits_data, version, 3), **{part: None})
    with pytest.raises(BadInput, match=f"{part} of what '{method.name}' is handed"):
        method.begin(handed, QUICK, "cpu")


def test_gpytorch_is_not_asked_for() -> None:
    """The registry imports where there is none: the extra is for the moons alone."""
    blocked = "import sys; sys.modules['gpytorch'] = None; import rayunlearn.methods.registry"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
