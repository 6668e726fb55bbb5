"""audit(): what the service's audit measures, of any modules, without Ray and without a storage location."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import rayunlearn
from rayunlearn.data.datasets import load_dataset
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.methods.trivial import mask_logit
from rayunlearn.models.classifiers import Classifier
from tests.api.tiny import SHORTER, given, original, plain, state
from tests.serving.tiny import same_bits

QUICK = {"relearn.max_steps": 3, "probe_draws": 2}


@functools.cache
def digits(count: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Real digits."""
    data = load_dataset("digits")
    return data.images[:count], data.labels[:count]


def audited(**options: Any) -> pa.Table:
    """The original and one of which a logit is masked."""
    known = {"before": original(), "after": mask_logit(original(), [3], offset=20.0), "data": digits()}
    return rayunlearn.audit(**{**known, "forget": [3], "settings": QUICK, **options})


def figure(table: pa.Table, model: str, measure: str, split: str = "test") -> dict[str, Any]:
    """The one row of a model and a measure."""
    found = [
        row
        for row in table.to_pylist()
        if (row["model"], row["measure"], row["split"]) == (model, measure, split)
    ]
    assert len(found) == 1, found
    return found[0]


def test_it_measures_what_models_know(digits_version: Callable[..., Classifier]) -> None:
    """D_r and D_f as counted by hand, the probe that finds what is masked, relearning and the index."""
    before = state(original())
    gold = digits_version(without=(3,))
    table = audited(golds=[gold, gold], settings={**QUICK, "relearn.max_steps": 60})
    assert same_bits(before, state(original()))
    assert set(table["model"].to_pylist()) == {"before", "after", "gold", "gold 2"}
    images, labels = digits()
    rank = torch.stack([(labels[:i] == labels[i]).sum() for i in range(len(labels))])
    held = rank % 2 == 0
    counts = class_counts(original(), images[held], labels[held], 10)
    for measure, classes in (("retain_accuracy", [c for c in range(10) if c != 3]), ("forget_accuracy", [3])):
        row = figure(table, "before", measure)
        assert (row["sum"], row["count"]) == counts.sums(classes) and row["classes"] == classes
    assert figure(table, "after", "forget_accuracy")["value"] == 0
    assert figure(table, "after", "probe_forget_recall") == {
        **figure(table, "before", "probe_forget_recall"), "model": "after"
    }  # fmt: skip
    index = {model: figure(table, model, "anamnesis_index")["value"] for model in ("after", "gold", "gold 2")}
    assert index["gold"] == index["gold 2"] == 1 > index["after"], index
    assert json.loads(figure(table, "after", "relearn_steps")["parameters"])["max_steps"] == 60
    assert figure(table, "after", "relearn_retain_peak")["count"] == int((labels[held] == 3).sum())


def test_batches_are_as_good_as_tensors() -> None:
    """A loader gives the same table; other draws, for control, another."""
    options = {"measures": ["accuracy", "probe"], "after": plain(classes=10)}
    whole = audited(**options)
    assert whole == audited(**options, data=DataLoader(TensorDataset(*digits()), batch_size=64))
    assert whole != audited(**options, seed=1)
    assert "anamnesis_index" not in whole["measure"].to_pylist()


def test_training_images_of_ones_own() -> None:
    """With them all of `data` is held out, and without gold no index is given."""
    images, labels = digits()
    table = audited(data=(images[:300], labels[:300]), train=(images[300:], labels[300:]))
    row = figure(table, "before", "retain_accuracy")
    assert row["count"] == int((labels[:300] != 3).sum())
    assert "anamnesis_index" not in table["measure"].to_pylist()
    assert figure(table, "after", "relearn_steps") is not None


def test_a_result_knows_what_it_has_forgotten() -> None:
    """It is asked neither of the result nor of its model; of a copy, for control, it is."""
    found = given("digits", *SHORTER, settings={"publish_refused": True})
    for after in (found, found.model):
        table = audited(after=after, forget=None, measures=["accuracy"])
        assert figure(table, "after", "forget_accuracy")["classes"] == [3]
    with pytest.raises(BadInput, match="forget is None; allowed: numbers of the forgotten classes"):
        audited(after=original(), forget=None)


def test_networks_of_ones_own() -> None:
    """Modules that know nothing of this project, with names of their own."""
    images, labels = digits()
    few = labels < 4
    table = rayunlearn.audit(
        before=plain(), after=plain(1), golds=[plain(2)], data=(images[few], labels[few]), forget=[1],
        measures=["accuracy", "probe", "distance"], settings=QUICK,
    )  # fmt: skip
    for model in ("before", "after", "gold"):
        assert figure(table, model, "probe_forget_recall")["count"] > 0


BAD = [
    ({"before": 3}, "before is 3; allowed: a torch.nn.Module"),
    ({"after": None}, "after is None; allowed: a torch.nn.Module"),
    ({"golds": [3]}, "gold is 3; allowed: a torch.nn.Module"),
    ({"golds": [plain()]}, "number of classes of 'gold' is 4; allowed: 10"),
    ({"data": 3}, "data is 'int'; allowed: batches of images"),
    ({"data": []}, "data is 'no batch'; allowed: batches of images"),
    ({"data": [3]}, "a batch of data is 'int'; allowed: batches"),
    ({"data": (torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))}, r"data is \[3, 8, 8\]; allowed: images"),
    ({"data": (torch.zeros(2, 1, 8, 8), torch.zeros(2))}, "data is .*float32.*; allowed: batches"),
    ({"forget": []}, r"forget is \[\]; allowed: numbers of the forgotten classes"),
    ({"forget": [10]}, r"forget is \[10\]; allowed: classes of the model, 0 to 9"),
    ({"measures": "accuracy"}, "measures is 'accuracy'; allowed: a list of names"),
    ({"measures": ["acuracy"]}, "measure is 'acuracy'; allowed: 'accuracy'"),
    ({"measures": ["likelihood_ratio"]}, "measures is 'likelihood_ratio'; allowed: measures that need no"),
    ({"settings": {"relearn.steps": 3}}, "settings: setting is 'relearn.steps'; allowed: 'relearn"),
    ({"seed": None}, "seed is None; allowed: a whole number"),
]


@pytest.mark.parametrize(("wrong", "said"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_input_is_told(wrong: dict[str, Any], said: str) -> None:
    """Each error names the argument, its value and what is allowed."""
    with pytest.raises(BadInput, match=said):
        audited(**wrong)
