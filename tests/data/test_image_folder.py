"""Folders of images named by their labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rayunlearn.data.image_folder import is_image_folder, read_image_folder
from rayunlearn.errors import BadInput
from tests.data.shards import packed, random_pixels

SHAPE = (3, 4, 4)


def written(folder: Path, *names: str, channels: int = 3) -> torch.Tensor:
    """Noise under these names, [len(names), channels, 4, 4] uint8."""
    pixels = random_pixels(len(names), channels)
    for name, image in zip(names, pixels, strict=True):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(packed(image))
    return pixels


def test_images_come_in_the_order_of_label_and_name(tmp_path: Path) -> None:
    """Label 10 comes after 2; what is no image or no label is passed over."""
    pixels = written(tmp_path, "10/a.png", "2/b.PNG", "2/a.png", "thumbs/a.png", "2/notes.txt")
    part = read_image_folder(tmp_path, "examples", 11, SHAPE)
    assert part.labels.tolist() == [2, 2, 10]
    assert torch.equal(part.pixels, pixels[[2, 1, 0]])


def test_a_folder_of_labels_is_known_as_one(tmp_path: Path) -> None:
    """By a folder that is named by a whole number."""
    (tmp_path / "a").mkdir()
    (tmp_path / "7").write_text("")
    assert not is_image_folder(tmp_path)
    (tmp_path / "3").mkdir()
    assert is_image_folder(tmp_path)


def test_what_does_not_fit_is_refused_by_its_place(tmp_path: Path) -> None:
    """Shape, label, content and emptiness, each by file or folder, value and what is allowed."""
    written(tmp_path / "shape", "1/a.png", channels=1)
    with pytest.raises(BadInput, match=r"image in 1/a.png is \[1, 4, 4\]; allowed: \[3, 4, 4\]"):
        read_image_folder(tmp_path / "shape", "examples", 10, SHAPE)
    written(tmp_path / "label", "12/a.png")
    with pytest.raises(BadInput, match="folder of a label is '12'; allowed: 0 to 9"):
        read_image_folder(tmp_path / "label", "examples", 10, SHAPE)
    (tmp_path / "text/4").mkdir(parents=True)
    (tmp_path / "text/4/a.png").write_text("no image")
    with pytest.raises(BadInput, match="image in 4/a.png"):
        read_image_folder(tmp_path / "text", "examples", 10, SHAPE)
    (tmp_path / "empty/4").mkdir(parents=True)
    with pytest.raises(BadInput, match="number of images is 0; allowed: at least 1"):
        read_image_folder(tmp_path / "empty", "examples", 10, SHAPE)
