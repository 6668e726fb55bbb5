"""Relative paths are from where the user stands, also where workers of a cluster work in another folder.

The head works in a folder that has, for every path, a decoy of the same name.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayunlearn.models.weights import weights_to_bytes
from tests.data.shards import packed, random_pixels, write_shard
from tests.local_ray import Head, started_head
from tests.serving.tiny import ROOT, environment, original
from tests.waiting import HANG_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]

USERS, DECOYS = 9, 8
"""The label of the examples that the user gives, and of those in the decoy."""

DATA = {USERS: [0, 1, 1, 1], DECOYS: [0, 0, 0, 1]}
"""The labels of the dataset beside them."""

READ = """
import json, sys
import ray
from pathlib import Path
from rayunlearn.data.datasets import load_dataset
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.storage.store import Store
from rayunlearn.execution.cluster import connect
from rayunlearn.serving.examples import read_by_task
from rayunlearn.serving.intake import read_requests

shape = {"in_channels": 1, "image_size": 8, "num_classes": 10, "mean": (0.3,), "std": (0.4,)}
spec = ClassifierSpec(name="allcnn", width=0.125, **shape)
(asked,) = read_requests("my.jsonl")
store = Store.open("storage")
connect(sys.argv[1])
put = lambda given: given.put("from-a-worker", b"x")
said = {"worker": ray.get(ray.remote(lambda: str(Path.cwd())).remote())}
said["examples"] = read_by_task(asked.examples, spec, range(10), str).labels.tolist()
said["directly"] = read_by_task("examples", spec, range(10), str).labels.tolist()
ray.get(ray.remote(put).remote(store))
try:
    said["data"] = ray.get(ray.remote(lambda: load_dataset("parquet:mine").labels.tolist()).remote())
except Exception as error:
    said["data"] = str(error.cause)
print(json.dumps(said))
"""


def fill(folder: Path, label: int) -> None:
    """Examples and a dataset of this label, at the paths that the user names."""
    images = [packed(pixels) for pixels in random_pixels(4, channels=1, size=8, seed=label)]
    for number, image in enumerate(images):
        place = folder / "examples" / str(label) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image)
    write_shard(folder / "data" / "mine" / "train.parquet", images, DATA[label])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the user stands, and where the head does."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("user", "node")}
    fill(made["user"], USERS)
    fill(made["node"], DECOYS)
    for folder in made.values():
        (folder / "storage").mkdir()
    wanted = {"request_id": "r1", "kind": "examples", "target": [USERS], "examples": "examples",
              "data_access": ["few_examples", "weights"], "whole_classes": True}  # fmt: skip
    (made["user"] / "my.jsonl").write_text(json.dumps(wanted) + "\n")
    return made


@pytest.fixture(scope="module")
def elsewhere(folders: dict[str, Path]) -> Iterator[Head]:
    """A head among the decoys, without a folder of datasets of its own."""
    with started_head(folders["node"], RAYUNLEARN_DATA=None, PYTHONPATH=str(ROOT)) as started:
        yield started


def drive(head: Head, cwd: Path, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python process that the user starts in a folder, with the address of the head last."""
    active = {k: v for k, v in environment(PYTHONPATH=str(ROOT)).items() if k != "RAYUNLEARN_DATA"}
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=active | variables, capture_output=True, text=True,
        timeout=HANG_S,
    )  # fmt: skip


def read(head: Head, cwd: Path, **variables: str) -> dict[str, object]:
    """What workers read, and where they work."""
    ended = drive(head, cwd, "-c", READ, head.address, **variables)
    assert ended.returncode == 0, ended.stderr[-3000:]
    said: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
    return said


def test_what_workers_read_and_write(elsewhere: Head, folders: dict[str, Path]) -> None:
    """Examples, datasets and the storage location are the user's, though the worker works among decoys."""
    said = read(elsewhere, folders["user"], RAYUNLEARN_DATA="data")
    assert said["worker"] == str(folders["node"])
    assert said["examples"] == said["directly"] == [USERS] * 4
    assert said["data"] == DATA[USERS]
    assert (folders["user"] / "storage" / "from-a-worker").read_bytes() == b"x"
    assert list((folders["node"] / "storage").iterdir()) == []


def test_without_the_variable_no_decoy_is_read(elsewhere: Head, folders: dict[str, Path]) -> None:
    """Negative control: neither side names a folder of datasets, and the message says so."""
    said = read(elsewhere, folders["user"])
    assert "environment variable RAYUNLEARN_DATA is None" in str(said["data"])


def test_a_node_with_another_folder(folders: dict[str, Path]) -> None:
    """A relative one of the node gives way; of two absolute ones that both have the dataset none is read."""
    with started_head(folders["node"], RAYUNLEARN_DATA="data", PYTHONPATH=str(ROOT)) as relative:
        assert read(relative, folders["user"], RAYUNLEARN_DATA="data")["data"] == DATA[USERS]
    theirs = folders["node"] / "data"
    with started_head(folders["node"], RAYUNLEARN_DATA=str(theirs), PYTHONPATH=str(ROOT)) as absolute:
        said = str(read(absolute, folders["user"], RAYUNLEARN_DATA="data")["data"])
        assert f"'{theirs}'; allowed: '{folders['user'] / 'data'}'" in said
        assert read(absolute, folders["user"], RAYUNLEARN_DATA="none")["data"] == DATA[DECOYS]


def test_a_job(elsewhere: Head, folders: dict[str, Path], tmp_path: Path) -> None:
    """Requests, checkpoint and storage by relative paths: the plan is made of the user's files.

    Negative control: with the examples gone from where the user stands the request is rejected by that path.
    """
    user = tmp_path / "user"
    shutil.copytree(folders["user"], user)
    (user / "weights.safetensors").write_bytes(weights_to_bytes(original()[1]))
    words = [ROOT / "jobs" / "sequential_unlearn.py", "--address", elsewhere.address, "--storage", "storage",
             "--requests", "my.jsonl", "--recipe", "digits_few_shot", "--checkpoint", "weights.safetensors",
             "--set", "model.width=0.125", "--dry-run"]  # fmt: skip
    ended = drive(elsewhere, user, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "r1: forget" in ended.stdout
    shutil.rmtree(user / "examples")
    ended = drive(elsewhere, user, *words)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert str(user / "examples") in ended.stdout.replace("\n", "")
