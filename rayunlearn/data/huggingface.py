"""Hugging Face datasets as `save_to_disk` writes them, read without the package `datasets`.

A `Dataset` is a folder with `state.json`, which names its Arrow files in order, and `dataset_info.json`. A
`DatasetDict` is a folder with `dataset_dict.json`, which names its splits, and a folder for each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rayunlearn.data.files import listed
from rayunlearn.data.parquet import read_shards
from rayunlearn.data.raw import Part, Parts, tell
from rayunlearn.errors import BadInput
from rayunlearn.preprocessing import Preprocessing

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
TEST_SPLITS = ("test", "validation", "valid", "val")
"""The first that is there is the test part."""


def read_saved(
    folder: Path,
    name: str,
    needed: str,
    class_names: tuple[str, ...] | None = None,
    how: Preprocessing | None = None,
) -> Parts:
    """The training part and, where there is such a split, the test part.

    Args:
        folder: that `save_to_disk` was given.
        name: of the data set, for messages.
        needed: what the folder may hold, for messages.
        class_names: of the classes 0, 1, ..., where they are known; labels go by them.
        how: the preprocessing that is stated.

    Raises:
        BadInput: it is no such folder, a file of it is missing or unreadable, or a row is no image and label.
    """
    if (folder / STATE).is_file():
        return _part(folder, name, class_names, None, how), None
    if not (folder / SPLITS).is_file():
        raise BadInput("folder", str(folder), needed, where=name)
    splits = _json(folder / SPLITS, name).get("splits")
    if not isinstance(splits, list) or "train" not in splits:
        raise BadInput(f"splits in {SPLITS}", splits, "a list with train in it", where=name)
    tested = next((split for split in TEST_SPLITS if split in splits), None)
    if tested not in (None, TEST_SPLITS[0]):
        tell(f"{name}: the split {tested} was taken for the test part")
    if left := [str(split) for split in splits if split not in ("train", tested)]:
        tell(f"{name}: splits that are of neither part were not read: {listed(left)}")
    train = _part(folder / "train", name, class_names, None, how)
    if tested is None:
        return train, None
    shape = tuple(train.pixels.shape[1:])
    return train, _part(folder / tested, name, class_names or train.class_names, shape, how)


def _part(
    folder: Path,
    name: str,
    class_names: tuple[str, ...] | None,
    shape: tuple[int, ...] | None,
    how: Preprocessing | None,
) -> Part:
    state = _json(folder / STATE, name)
    try:
        files = [folder / entry["filename"] for entry in state["_data_files"]]
        if any(file.resolve().parent != folder.resolve() for file in files):
            raise ValueError("a file elsewhere")
    except (KeyError, TypeError, ValueError) as error:
        allowed = "a list of files in the folder, as save_to_disk writes them"
        raise BadInput(f"_data_files in {STATE}", state.get("_data_files"), allowed, where=name) from error
    if state.get("_indices_files"):
        allowed = "none: save it again by a newer version of datasets, which writes the rows themselves"
        raise BadInput(f"_indices_files in {STATE}", state["_indices_files"], allowed, where=name)
    return read_shards(files, name, None, shape, class_names, how)


def _json(file: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput("file", str(file), "one that is there", where=name) from error
    except (ValueError, RecursionError) as error:
        raise BadInput("file", str(file), f"readable JSON ({error})", where=name) from error
    if not isinstance(found, dict):
        raise BadInput("file", str(file), "a JSON object", where=name)
    return found
