"""A lineage keeps to the data that it began with: other samples, or another split, are refused everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rayunlearn.auditing.audit import shadow_candidates
from rayunlearn.auditing.labelled import data_hash, mislabelled, open_data
from rayunlearn.auditing.relearning import RelearnJob, relearn_job
from rayunlearn.auditing.training import classifier_spec, fit, fit_gold, fit_logged, training_job
from rayunlearn.data import datasets
from rayunlearn.data.datasets import DATA_VARIABLE
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.anamnesis import RelearnSettings
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.lineages.requested import data_of
from rayunlearn.methods.few_shot import FewShotSettings
from rayunlearn.mislabelling import Mislabelling
from rayunlearn.models.classifiers import build_classifier
from rayunlearn.recipes import DataSettings
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.generators import train_on_data
from rayunlearn.serving.grants import check_samples, grant
from tests.data.shards import packed, write_shard
from tests.serving.test_dispatch import SEQUENCE, dispatcher, received
from tests.serving.tiny import NOON, memory_store, original, rows, tiny_recipe

NAME = "parquet:pictures"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Parquet folder of 40 images of two classes, in one shard."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    folder = tmp_path / "pictures"
    folder.mkdir()
    shard(folder, "train-b.parquet", seed=1)
    datasets._load.cache_clear()
    return folder


def shard(folder: Path, name: str, *, seed: int, count: int = 40) -> None:
    """Images of noise, labelled 0 and 1 in turns."""
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=draws, dtype=torch.uint8)
    write_shard(folder / name, [packed(image) for image in images], [i % 2 for i in range(count)])


def recorded() -> DataSettings:
    """The data as a lineage records them now."""
    data = DataSettings(dataset=NAME)
    return replace(data, sha256=data_hash(data, 1))


def opened_by(data: DataSettings) -> dict[str, Callable[[], Any]]:
    """All that opens data by index or by label, each as a call."""
    trained = int(open_data(replace(data, sha256=None), 1)[1].train_ids[0])
    roles = Roles(retain=(0, 1), target=(), target_samples=(trained,))
    recipe = tiny_recipe()
    recipe = replace(recipe, data=data, train=replace(recipe.train, epochs=1))
    spec = classifier_spec(replace(data, sha256=None), "allcnn", 0.125)
    weights = dict(build_classifier(spec, 0).state_dict())
    job = replace(training_job(recipe, spec, 0, excluded_samples=(trained,)), split_seed=1)
    relearning = RelearnJob(
        spec=spec, weights=weights, forget=(0,), target_accuracy=0.1, data=data, split_seed=1,
        settings=RelearnSettings(max_steps=1), seed=0,
    )  # fmt: skip
    wrong = replace(data, mislabelling=Mislabelling(of=0, to=(1,), share=0.5))
    few = FewShotSettings()
    few = replace(few, gan=replace(few.gan, epochs=1, batch_size=4))
    return {
        "grant": lambda: grant(data, 1, roles, ["retain", "forget"]),
        "check of samples": lambda: check_samples(data, 1, roles),
        "training": lambda: fit(job),
        "logged training": lambda: fit_logged(job),
        "gold": lambda: fit_gold(job, weights),
        "relearning": lambda: relearn_job(relearning),
        "shadows": lambda: shadow_candidates(data, 1, (0,)),
        "generator": lambda: train_on_data(data, spec, few, 1, 0),
        "mislabelled": lambda: mislabelled(wrong, 1),
        "data": lambda: open_data(data, 1),
    }


@pytest.mark.parametrize("opener", [
    "grant", "check of samples", "training", "logged training", "gold", "relearning", "shadows", "generator",
    "mislabelled", "data",
])  # fmt: skip
def test_a_shard_more_is_refused_by_whoever_opens_data(folder: Path, opener: str) -> None:
    """One that sorts first moves every index; before it was there, for control, each opens the data."""
    data = recorded()
    opened_by(data)[opener]()
    shard(folder, "train-a.parquet", seed=2)
    datasets._load.cache_clear()
    said = f"SHA-256 of the samples of '{NAME}' and their split is .*{data.sha256}"
    with pytest.raises(BadInput, match=said):
        opened_by(data)[opener]()
    opened_by(replace(data, sha256=None))[opener]()


def test_an_index_is_another_image_after_a_shard_more(folder: Path) -> None:
    """What the refusal is for: the same sample, as it was found, was another image."""
    data = DataSettings(dataset=NAME)
    before = open_data(data, 1)[0].images[3].clone()
    shard(folder, "train-a.parquet", seed=2)
    datasets._load.cache_clear()
    assert not torch.allclose(open_data(data, 1)[0].images[3], before, atol=0.1)


@pytest.mark.parametrize(
    "change", [{"test_fraction": 0.25}, {"train_per_class": 3}], ids=str
)
def test_another_split_is_refused(folder: Path, change: dict[str, Any]) -> None:
    """What trains and what tests is part of it; not wrong labels on purpose, nor how many tests count."""
    data = recorded()
    with pytest.raises(BadInput, match="SHA-256"):
        open_data(replace(data, **change), 1)
    with pytest.raises(BadInput, match="SHA-256"):
        open_data(data, 2)
    open_data(replace(data, mislabelling=Mislabelling(of=0, to=(1,), share=0.5)), 1)
    open_data(replace(data, test_per_class=3), 1)


def test_a_hash_is_64_hex_digits() -> None:
    """Others are refused by name; a recipe without one has the hash that it always had."""
    for wrong in ("", "0" * 63, "G" * 64, "0" * 65):
        with pytest.raises(BadInput, match=r"data\.sha256"):
            DataSettings(sha256=wrong)


def test_a_run_on_other_data_fails_and_says_so() -> None:
    """The lineage's hash goes on from version to version; a run that is granted data goes by it."""
    spec, weights = original()
    recipe = tiny_recipe("digits_gkt")
    right = data_hash(recipe.data, split_seed_of(recipe))
    for digest, ends in ((right, "served"), ("0" * 64, "failed")):
        store = memory_store()
        access = ("retain", "weights")
        request = Request(
            request_id="r", target=(0,), method="retrain", data_access=access, received_at=NOON
        )
        received(store, request)
        made = dispatcher(store, replace(SEQUENCE, order=()), recipe=recipe)
        made.scheduler_for("retrain").publish(
            lineage="default", weights=weights, spec=spec, parent=None, request_ids=[], classes_forgotten=(),
            run=None, data_hash=digest,
        )  # fmt: skip
        made.drain([request])
        *_, last = rows(store, "requests")
        assert last["event"] == ends
        chain = versions(LedgerReader(store), "default")
        assert {version.data_hash for version in chain} == {digest} and len(chain) == 1 + (ends == "served")
        if ends == "failed":
            said = "prepare: SHA-256 of the samples of 'digits' and their split is "
            assert last["reason"].startswith(said)
            assert data_of(recipe.data, chain[0]).sha256 == digest


def split_seed_of(recipe: Any) -> int:
    """Of a service whose root seed is 0."""
    return training_job(recipe, original()[0], 0).split_seed
