"""Folders of images named by their labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rayunlearn.data.image_folder import is_image_folder, read_image_folder
from rayunlearn.errors import BadInput, DataWarning
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
    """Label 10 comes after 2, whatever comes first by its name."""
    pixels = written(tmp_path, "10/a.png", "2/b.PNG", "2/a.png")
    part = read_image_folder(tmp_path, "examples", 11, SHAPE)
    assert part.labels.tolist() == [2, 2, 10]
    assert torch.equal(part.pixels, pixels[[2, 1, 0]])


FORMATS = {"a.webp": "WEBP", "b.bmp": "BMP", "c.tif": "TIFF", "d.jfif": "PNG", "e": "PNG", "f.txt": "BMP"}


@pytest.mark.filterwarnings("error::rayunlearn.errors.DataWarning")
def test_every_image_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    """By its content: of any format, with any suffix or none, at any depth, behind a link; none hidden."""
    pixels = random_pixels(len(FORMATS) + 3)
    (tmp_path / "given/9/more/still more").mkdir(parents=True)
    for (name, file_format), image in zip(FORMATS.items(), pixels, strict=False):
        how = {"lossless": True} if file_format == "WEBP" else {}
        (tmp_path / f"given/9/{name}").write_bytes(packed(image, file_format, **how))
    (tmp_path / "given/9/more/still more/g.png").write_bytes(packed(pixels[-3]))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/h.png").write_bytes(packed(pixels[-2]))
    (tmp_path / "given/9/x").symlink_to(tmp_path / "linked")
    (tmp_path / "given/9/y").symlink_to(tmp_path / "given")  # a circle
    for hidden in ("given/9/.DS_Store", "given/.cache/9/a.png", "given/9/._a.webp"):
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / hidden).write_bytes(packed(pixels[-1]))
    for folder in (tmp_path / "given", tmp_path):
        if folder == tmp_path:
            (tmp_path / "linked/h.png").unlink()
        part = read_image_folder(folder, "examples", 10, SHAPE)
        assert torch.equal(part.pixels, pixels[: -1 if folder != tmp_path else -2])
        assert set(part.labels.tolist()) == {9}


def test_what_is_left_out_is_counted_and_told(tmp_path: Path) -> None:
    """Files that are no images, broken links, images of no label: how many, and which; others are read."""
    written(tmp_path, "2/a.png", "thumbs/a.png", "b.png")
    (tmp_path / "2/notes.txt").write_text("of 2")
    (tmp_path / "2/gone.png.part").symlink_to(tmp_path / "nothing")
    said = r"not read were images in no folder of a label \(2: b\.png, thumbs/a\.png\) and files that are no "
    with pytest.warns(DataWarning, match=said + r"image \(2: 2/gone\.png\.part, 2/notes\.txt\)$"):
        part = read_image_folder(tmp_path, "examples", 10, SHAPE)
    assert part.labels.tolist() == [2]
    (tmp_path / "2/a.png").unlink()
    with pytest.raises(BadInput, match=r"number of images is 0; allowed: at least 1 .*; images in no folder"):
        read_image_folder(tmp_path, "examples", 10, SHAPE)


def test_a_folder_may_have_the_name_of_a_class(tmp_path: Path) -> None:
    """Where the names are known; where they are not, no image is taken for one of another class."""
    pixels = written(tmp_path, "owl/a.png", "0/b.png", "cat/c.png")
    part = read_image_folder(tmp_path, "examples", 3, SHAPE, ("cat", "dog", "owl"))
    assert part.labels.tolist() == [0, 0, 2]
    assert torch.equal(part.pixels, pixels[[1, 2, 0]])
    assert is_image_folder(tmp_path / "..", ("cat", "dog", "owl"))
    with pytest.warns(DataWarning, match=r"images in no folder of a label \(2: "):
        assert read_image_folder(tmp_path, "examples", 3, SHAPE).labels.tolist() == [0]


@pytest.mark.parametrize(("place", "names"), [("2/1/a.png", None), ("1/a.png", ("1", "0", "2"))])
def test_a_label_that_is_not_the_only_one_is_refused(
    tmp_path: Path, place: str, names: tuple[str, ...] | None
) -> None:
    """Two folders of labels within each other, and a number that is another class's name."""
    written(tmp_path, place)
    with pytest.raises(BadInput, match=f"image is '{place}'; allowed: in folders that name one label; these"):
        read_image_folder(tmp_path, "examples", 3, SHAPE, names)
    assert read_image_folder(tmp_path, "examples", 2, SHAPE).labels.tolist() == [1]  # 2 is no label then


def test_a_folder_of_labels_is_known_as_one(tmp_path: Path) -> None:
    """By a file in a folder that is named by a whole number."""
    (tmp_path / "a").mkdir()
    (tmp_path / "7").write_text("")
    (tmp_path / "3").mkdir()
    assert not is_image_folder(tmp_path)
    (tmp_path / "3/x").write_text("")
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
