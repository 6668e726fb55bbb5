"""What a job knows of its data's classes: shown at its start, and the same for as long as a lineage lives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rayunlearn.auditing.training import task_of
from rayunlearn.data.datasets import DATA_VARIABLE
from rayunlearn.execution.remote import caught
from rayunlearn.recipes import DataSettings
from rayunlearn.scheduling.requests import parse_requests
from rayunlearn.serving.service import Place, Service
from rayunlearn.storage.store import Store
from rayunlearn.task import Task
from rayunlearn.unlearning.progress import Quiet
from tests.data.shards import packed, random_pixels, write_shard
from tests.serving.tiny import NOON, memory_store, tiny_context, tiny_recipe

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
NAMES = ("cat", "dog", "owl")


class Said(Quiet):
    """What a job said at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)


def began(store: Store, data: str) -> tuple[Service, list[str]]:
    """A service of a dataset, and what it said."""
    said = Said()
    recipe = tiny_recipe("digits", f"data.dataset={data}")
    return Service(tiny_context(store, recipe, progress=said), Place()), said.lines


def described_here(
    data: DataSettings, split_seed: int, say: Callable[[str], None]
) -> tuple[Task, str]:
    """`describe` in this process: the cluster's have another folder of data."""
    task, texts = caught(lambda: task_of(data))
    for text in texts:
        say(text)
    return task, "0" * 64


def test_what_is_to_be_known_of_data_is_said_when_a_job_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was turned, what was left out, what the classes are called, each once."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr("rayunlearn.serving.originals.describe", described_here)
    for part, names in (("train", NAMES), ("test", NAMES[::-1])):
        images = [packed(image) for image in random_pixels(6, 1, size=8, seed=len(part))]
        write_shard(tmp_path / f"made/{part}.parquet", images, [0, 1, 2] * 2, names=names)
    (tmp_path / "made/validation.parquet").write_bytes(b"")
    _, said = began(memory_store(), "parquet:made")
    assert said == [
        "parquet:made: Parquet files that are of neither part were not read: validation.parquet",
        "parquet:made: test.parquet has its classes in another order; its labels were taken by their names",
        "classes of parquet:made: 0 cat, 1 dog, 2 owl",
    ]


def test_a_lineage_goes_on_only_with_classes_in_its_own_order() -> None:
    """Data written anew in another order would give every label another meaning; the same go on."""
    store = memory_store()
    service, said = began(store, "digits")
    assert said == []  # classes that are called by their numbers are not told
    service.context.ledger.append(
        "versions",
        [
            {
                "version": "v0", "lineage": "default", "path": "models/v0", "request_ids": [],
                "classes_forgotten": [], "model": json.dumps(service.spec.to_dict()), "event": "published",
                "created_at": NOON, "at": NOON,
            }
        ],
    )  # fmt: skip
    entries = parse_requests('{"request_id": "b", "target": [1]}', "requests.jsonl")
    assert [r.request_id for r in service.take_in(entries, record=False).pending] == ["b"]
    service, _ = began(store, "digits")
    service.spec = replace(service.spec, class_names=tuple("9876543210"))
    intake = service.take_in(entries, record=False)
    (refused,) = intake.rejected
    assert intake.pending == () and "classes of data.dataset 'digits' is ['9', '8', " in refused.reason
    assert "['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'], as the original of lineage" in refused.reason
