"""Hugging Face datasets as `save_to_disk` lays them out, written here by pyarrow alone.

The layout is that of `datasets` 5.2: Arrow streams with the features in their schema, `state.json`,
`dataset_info.json`, and for several splits `dataset_dict.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from rayunlearn.data import datasets
from rayunlearn.data.datasets import DATA_VARIABLE, Taken, load_dataset
from rayunlearn.data.parquet import read_parquet
from rayunlearn.errors import BadInput, DataWarning
from tests.data.shards import packed, random_pixels, write_shard

PIXELS = random_pixels(8)
NAMES = ("cat", "dog")
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(
    which: Sequence[int], labels: Sequence[int], names: Sequence[str] | None, **columns: str
) -> pa.Table:
    """Images and labels with Hugging Face's metadata."""
    image, label = columns.get("image", "image"), columns.get("label", "label")
    content = [{"bytes": packed(PIXELS[i]), "path": f"{i}.png"} for i in which]
    made = pa.table({image: pa.array(content, STRUCT), label: pa.array(labels, pa.int64())})
    kind: dict[str, Any] = {"dtype": "int64", "_type": "Value"}
    if names is not None:
        kind = {"names": list(names), "_type": "ClassLabel"}
    features = {image: {"_type": "Image"}, label: kind}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save(folder: Path, shards: Sequence[pa.Table]) -> None:
    """As `Dataset.save_to_disk`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{i:05}-of-{len(shards):05}.arrow" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, shard.schema) as writer:
            writer.write_table(shard, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def save_all(folder: Path, splits: dict[str, list[pa.Table]]) -> None:
    """As `DatasetDict.save_to_disk`."""
    for split, shards in splits.items():
        save(folder / split, shards)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data set h."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    return tmp_path / "h"


def test_what_was_saved_is_what_is_read(root: Path) -> None:
    """Rows over shards and batches in their order, with the names; the same as the same rows in Parquet."""
    train = [table([0, 1, 2], [0, 1, 0], NAMES), table([3], [1], NAMES)]
    save_all(root, {"train": train, "test": [table([4, 5], [1, 0], NAMES)]})
    data = load_dataset("huggingface:h")
    assert data.class_names == NAMES and data.labels.tolist() == [0, 1, 0, 1, 1, 0]
    assert data.official_test_ids is not None and data.official_test_ids.tolist() == [4, 5]
    folder, files = root.parent / "p", [packed(p) for p in PIXELS]
    write_shard(folder / "train.parquet", files[:4], [0, 1, 0, 1], names=NAMES)
    write_shard(folder / "test.parquet", files[4:6], [1, 0], names=NAMES)
    assert load_dataset("parquet:p").hash == data.hash


def test_one_split_has_no_test_part(root: Path) -> None:
    """A folder of `Dataset.save_to_disk`; the columns may have other names, where their types tell them."""
    save(root, [table([0, 1], [1, 0], NAMES, image="pic", label="animal")])
    data = load_dataset("huggingface:h")
    assert data.labels.tolist() == [1, 0] and data.official_test_ids is None and data.class_names == NAMES


def test_labels_go_by_the_names(root: Path) -> None:
    """Another order in the test part, and another in the lineage: by name, which is said."""
    save_all(root, {"train": [table([0, 1], [0, 1], NAMES)], "test": [table([2, 3], [0, 1], NAMES[::-1])]})
    with pytest.warns(DataWarning, match="its labels were taken by their names"):
        assert load_dataset("huggingface:h").labels.tolist() == [0, 1, 1, 0]
    with pytest.warns(DataWarning):
        turned = load_dataset("huggingface:h", Taken(class_names=NAMES[::-1]))
    assert turned.labels.tolist() == [1, 0, 0, 1] and turned.class_names == NAMES[::-1]


@pytest.mark.parametrize("suffix", ["file", "stream"])
def test_arrow_shards_stand_beside_parquet(tmp_path: Path, suffix: str) -> None:
    """`train*.arrow` in Arrow's file or stream format is read as Parquet is."""
    made = table([0, 1], [0, 1], NAMES)
    new = pa.ipc.new_file if suffix == "file" else pa.ipc.new_stream
    with pa.OSFile(str(tmp_path / "train.arrow"), "wb") as sink, new(sink, made.schema) as writer:
        writer.write_table(made)
    train, test = read_parquet(tmp_path, "made", "shards")
    assert torch.equal(train.pixels[:], PIXELS[:2]) and train.class_names == NAMES and test is None
    (tmp_path / "train.arrow").write_bytes(b"ARROW1 and nothing")
    with pytest.raises(BadInput, match="a readable Arrow file"):
        read_parquet(tmp_path, "made", "shards")


def _no_state(root: Path) -> None:
    (root / "train" / "state.json").unlink()


def _no_shard(root: Path) -> None:
    (root / "train" / "data-00000-of-00001.arrow").unlink()


def _torn(root: Path) -> None:
    file = root / "train" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-400])


def _elsewhere(root: Path) -> None:
    (root / "train" / "state.json").write_text('{"_data_files": [{"filename": "../../secret.arrow"}]}')


def _no_json(root: Path) -> None:
    (root / "dataset_dict.json").write_text("[1")


def _indices(root: Path) -> None:
    files = [{"filename": "data-00000-of-00001.arrow"}]
    state = {"_data_files": files, "_indices_files": [{"filename": "i"}]}
    (root / "train" / "state.json").write_text(json.dumps(state))


def _no_train(root: Path) -> None:
    (root / "dataset_dict.json").write_text('{"splits": ["test"]}')


def _nothing(root: Path) -> None:
    (root / "dataset_dict.json").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_no_state, "state.json'; allowed: one that is there"),
        (_no_shard, "a readable Arrow file"),
        (_torn, "a readable Arrow file"),
        (_elsewhere, "a list of files in the folder"),
        (_no_json, "readable JSON"),
        (_indices, "_indices_files"),
        (_no_train, "a list with train in it"),
        (_nothing, "what save_to_disk of a Hugging Face data set has written"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(root: Path, change: Any, said: str) -> None:
    """What is missing or torn, by its name; before the change it is read."""
    save_all(root, {"train": [table([0, 1], [0, 1], NAMES)]})
    assert load_dataset("huggingface:h").labels.tolist() == [0, 1]
    change(root)
    datasets._load.cache_clear()
    with pytest.raises(BadInput, match=said):
        load_dataset("huggingface:h")


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        (table([0, 1], [0, 2], NAMES), r"label in row 1 of data-.* is 2; allowed: a whole number in 0..1"),
        (table([0, 1], [0, 0], NAMES), r"absent: 1 \(dog\)"),
        (table([0, 1], [0, -1], None), "is -1"),
        (table([], [], NAMES), "number of rows"),
        (table([0, 1], [0, 1], None, label="y"), "image .or img. and label among them, or one Image and one"),
    ],
)
def test_rows_that_are_no_samples_are_refused(root: Path, shard: pa.Table, said: str) -> None:
    """A label out of range, a class without images, no row, no column of labels."""
    save(root, [shard])
    with pytest.raises(BadInput, match=said):
        load_dataset("huggingface:h")
