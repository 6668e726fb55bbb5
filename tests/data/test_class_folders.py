"""Images in folders of classes, as data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from rayunlearn.data import datasets
from rayunlearn.data.datasets import DATA_VARIABLE, LabelledImages, Taken, load_dataset
from rayunlearn.errors import BadInput, DataWarning
from tests.data.shards import packed, random_pixels

PIXELS = random_pixels(12)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data set f."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    return tmp_path / "f"


def lay(root: Path, files: Mapping[str, int]) -> None:
    """Image files: path -> which of the pixels."""
    for path, number in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(packed(PIXELS[number]))


def load(names: tuple[str, ...] | None = None) -> LabelledImages:
    """The data set f, as its files are now."""
    datasets._load.cache_clear()
    return load_dataset("imagefolder:f", Taken(class_names=names))


def shown(data: LabelledImages) -> list[tuple[int, int]]:
    """Of each sample its label and which of the pixels it is."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    raw = (data.images[:] * std + mean) * 255
    which = [int((raw_image - PIXELS).abs().flatten(1).sum(1).argmin()) for raw_image in raw]
    return list(zip(data.labels.tolist(), which, strict=True))


BOTH = {
    "train/dog/a.png": 0, "train/cat/b.png": 1, "train/cat/deep/c.png": 2, "test/dog/d": 3, "test/cat/e.x": 4
}  # fmt: skip


def test_classes_are_in_the_order_of_their_names(root: Path) -> None:
    """As torchvision numbers them; the test part goes by the same, and each image has its label."""
    lay(root, BOTH)
    data = load()
    assert data.class_names == ("cat", "dog") and data.official_test_ids is not None
    assert shown(data) == [(0, 1), (0, 2), (1, 0), (0, 4), (1, 3)]
    assert data.official_test_ids.tolist() == [3, 4]


def test_a_class_list_gives_the_order(root: Path) -> None:
    """In the folder, or as it is stated; what is stated counts."""
    lay(root, BOTH)
    (root / "classes.txt").write_text("dog\ncat\n\n")
    assert load().class_names == ("dog", "cat") and shown(load())[0] == (0, 0)
    assert load(("cat", "dog")).class_names == ("cat", "dog") and shown(load(("cat", "dog")))[0] == (0, 1)
    assert load().hash != load(("cat", "dog")).hash


def test_numbers_are_in_the_order_of_their_values(root: Path) -> None:
    """10 comes after 9; folders that are numbers go by the names that are known."""
    lay(root, {f"{c}/a.png": c for c in range(11)})
    assert load().class_names == tuple(map(str, range(11)))
    assert [label for label, _ in shown(load())] == list(range(11))
    named = load(tuple("abcdefghijk"))
    assert named.class_names == tuple("abcdefghijk")
    assert [label for label, _ in shown(named)] == list(range(11))


def test_a_validation_folder_is_the_test_part_where_there_is_no_other(root: Path) -> None:
    """This is said; for control, test counts where both are there."""
    lay(root, {"train/a/1.png": 0, "train/b/1.png": 1, "val/a/1.png": 2, "val/b/1.png": 3})
    with pytest.warns(DataWarning, match="the folder val was taken for the test part"):
        assert load().official_test_ids is not None
    lay(root, {"test/a/1.png": 4, "test/b/1.png": 5})
    with pytest.warns(DataWarning, match="neither part were not read: val"):
        assert [which for _, which in shown(load(("a", "b")))] == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("files", "names", "said"),
    [
        ({**BOTH, "test/owl/f.png": 5}, None, r"names of classes in the folders of test is \['owl'\]"),
        (BOTH, ("cat", "owl"), r"names of classes in the folders of train is \['dog'\]; .* cat, owl"),
        ({"train/cat/b.png": 1, "train/dog/c.png": 2, "test/cat/e.png": 4}, None, "absent: 1 \\(dog\\)"),
        (BOTH, ("cat", "dog", "owl"), "absent: 2 \\(owl\\)"),
        ({"a.png": 0}, None, "folder is .*allowed: folders of images named by their classes"),
        ({"train/.hidden/a.png": 0}, None, "allowed: folders of images"),
        ({"0/a.png": 0, "cat/a.png": 1}, ("cat", "dog"), "one for each class, by name or by number"),
    ],
)
def test_class_lists_that_do_not_match_are_refused(
    root: Path, files: Mapping[str, int], names: tuple[str, ...] | None, said: str
) -> None:
    """A class in one part alone, a folder that is of no class, a class without images, no folder at all."""
    lay(root, files)
    with pytest.raises(BadInput, match=said):
        load(names)


def test_damaged_and_empty_is_refused(root: Path) -> None:
    """A file that begins as an image and is none; a part without any image. What is no image is counted."""
    lay(root, BOTH)
    (root / "train/cat/notes.txt").write_text("hello")
    with pytest.warns(DataWarning, match=r"no image \(1: cat/notes.txt\)"):
        load()
    (root / "train/cat/torn.png").write_bytes(packed(PIXELS[6])[:40])
    with pytest.raises(BadInput, match="torn.png is"):
        load(("cat", "dog"))
    for file in (root / "test").rglob("*"):
        if file.is_file():
            file.write_text("hello")
    (root / "train/cat/torn.png").unlink()
    with pytest.warns(DataWarning), pytest.raises(BadInput, match="number of images in test is 0"):
        load(("cat", "dog"))
