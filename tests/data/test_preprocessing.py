"""Images are prepared as torchvision's transforms prepare them, wherever they come from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from rayunlearn.data.datasets import DATA_VARIABLE, Taken, load_dataset
from rayunlearn.data.geometry import prepared_pixels
from rayunlearn.data.pixels import decode
from rayunlearn.errors import BadInput
from rayunlearn.preprocessing import Preprocessing
from tests.data.shards import packed, write_shard

MODES = transforms.InterpolationMode
THEIRS = {"nearest": MODES.NEAREST, "bilinear": MODES.BILINEAR, "bicubic": MODES.BICUBIC}
SIZES = [(40, 30), (30, 40), (37, 53), (33, 33), (8, 90)]


def noise(height: int, width: int, channels: int = 3) -> Tensor:
    """Pixels [C, H, W] uint8."""
    draw = torch.Generator().manual_seed(height * 100 + width)
    return torch.randint(0, 256, (channels, height, width), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("interpolation", THEIRS)
@pytest.mark.parametrize("resize", [24, 64, (20, 31)])
@pytest.mark.parametrize("size", SIZES)
def test_resize_and_crop_are_torchvisions(
    size: tuple[int, int], resize: int | tuple[int, int], interpolation: str
) -> None:
    """To the bit, smaller and larger, of odd and even rests; another interpolation gives other pixels."""
    crop = (17, 20)
    how = Preprocessing(resize=resize, crop=crop, interpolation=interpolation)  # type: ignore[arg-type]
    found = decode(packed(noise(*size)), "made", "made", how=how)
    image = Image.open(io.BytesIO(packed(noise(*size))))

    def theirs(name: str) -> np.ndarray:
        steps = [transforms.Resize(resize, THEIRS[name]), transforms.CenterCrop(crop)]
        return np.asarray(transforms.Compose(steps)(image)).transpose(2, 0, 1)

    assert np.array_equal(found, theirs(interpolation))
    assert not any(np.array_equal(found, theirs(name)) for name in THEIRS if name != interpolation)
    assert np.array_equal(found, prepared_pixels(noise(*size).numpy(), how, "made", "made"))


@pytest.mark.parametrize(("channels", "has"), [(1, 3), (3, 1), (3, 3), (1, 1)])
def test_channels_are_those_that_are_stated(channels: int, has: int) -> None:
    """Grey is repeated, colours become grey as torchvision has it; without it they stay."""
    image = noise(8, 8, has)
    how = Preprocessing(channels=channels)  # type: ignore[arg-type]
    found = decode(packed(image), "made", "made", how=how)
    theirs = transforms.Grayscale(channels)(transforms.ToPILImage()(image))
    if (channels, has) != (3, 3):
        assert np.array_equal(found, np.asarray(theirs).reshape(8, 8, channels).transpose(2, 0, 1))
    assert found.shape == (channels, 8, 8)
    assert decode(packed(image), "made", "made").shape == (has, 8, 8)


def test_grey_for_a_model_of_colours_is_refused_with_what_helps() -> None:
    """Nothing is repeated without a word; once it is stated the image is taken."""
    grey = packed(noise(8, 8, 1))
    with pytest.raises(BadInput, match=r"\[1, 8, 8\].*data\.preprocessing\.channels=3 repeats grey"):
        decode(grey, "made", "made", (3, 8, 8))
    assert decode(grey, "made", "made", (3, 8, 8), Preprocessing(channels=3)).shape == (3, 8, 8)
    with pytest.raises(BadInput, match=r"channels=1 makes grey of colours"):
        decode(packed(noise(8, 8)), "made", "made", (1, 8, 8))


def test_what_does_not_fit_afterwards_is_refused() -> None:
    """An image below the crop; one that is of another shape than the model's all the same."""
    with pytest.raises(BadInput, match="height and width of the image in made is '8x8'; .* at least 9x4"):
        decode(packed(noise(8, 8)), "made", "made", how=Preprocessing(crop=(9, 4)))
    with pytest.raises(BadInput, match=r"\[3, 6, 6\]; allowed: \[3, 8, 8\]"):
        decode(packed(noise(12, 8)), "made", "made", (3, 8, 8), Preprocessing(crop=6))
    with pytest.raises(BadInput, match="square; data.preprocessing.resize"):
        decode(packed(noise(12, 8)), "made", "made")


@pytest.mark.parametrize(
    "wrong", [{"resize": 0}, {"crop": (0, 3)}, {"channels": 2}, {"interpolation": "area"}]
)
def test_a_statement_that_means_nothing_is_refused(wrong: dict[str, object]) -> None:
    """Sizes below 1, two channels, an interpolation that is not made; the default states nothing."""
    with pytest.raises(BadInput, match=r"data\.preprocessing\."):
        Preprocessing(**wrong)  # type: ignore[arg-type]
    assert Preprocessing().resize is None


def test_a_data_set_is_taken_as_it_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of several sizes become one; mean and std are the stated ones, the hash is of the pixels."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    images = [noise(*size) for size in SIZES]
    write_shard(tmp_path / "p" / "train.parquet", [packed(p) for p in images], [0, 1, 0, 1, 0])
    with pytest.raises(BadInput, match="square"):
        load_dataset("parquet:p")
    how = Preprocessing(resize=(8, 8), interpolation="bicubic")
    plain = load_dataset("parquet:p", Taken(how=how))
    stated = load_dataset("parquet:p", Taken(how=how, mean=(0.5,) * 3, std=(0.25,) * 3))
    raw = torch.stack([torch.tensor(prepared_pixels(p.numpy(), how, "", "")) for p in images])
    assert torch.allclose(stated.images[:], (raw / 255 - 0.5) / 0.25, atol=1e-6)
    assert plain.hash == stated.hash and plain.mean != stated.mean
    other = load_dataset("parquet:p", Taken(how=Preprocessing(resize=(8, 8))))
    assert other.hash != plain.hash  # so a lineage goes on with its own preprocessing alone


def test_grey_data_for_a_model_of_colours_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their channels, with what makes them fit."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    grey = [packed(noise(8, 8 + i, 1)[:, :, :8]) for i in range(4)]
    write_shard(tmp_path / "g" / "train.parquet", grey, [0, 1, 0, 1])
    colours = Taken(mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(BadInput, match="channels of the images is 1; allowed: 3, .*preprocessing.channels"):
        load_dataset("parquet:g", colours)
    fits = Taken(how=Preprocessing(channels=3), mean=colours.mean, std=colours.std)
    assert load_dataset("parquet:g", fits).images.shape == (4, 3, 8, 8)


def test_a_set_that_is_known_by_name_can_be_resized() -> None:
    """The digits at twice their size; as they are their hash is the one that stored results name."""
    how = Preprocessing(resize=16, channels=3)
    found = load_dataset("digits", Taken(how=how, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert found.images.shape == (1797, 3, 16, 16) and float(found.images[:].max()) == 1.0
    assert found.hash != load_dataset("digits").hash


@pytest.mark.parametrize("name", ["digits", "parquet:p"])
def test_what_a_set_has_by_itself_is_not_loaded_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean, std and names that a lineage recorded of the set are the set's; other ones are another set."""
    if name != "digits":
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
        images = [packed(noise(8, 8 + i, 3)[:, :, :8]) for i in range(4)]
        write_shard(tmp_path / "p" / "train.parquet", images, [0, 1, 0, 1], names=("cat", "dog"))
    first = load_dataset(name)
    same = Taken(mean=first.mean, std=first.std, class_names=first.class_names)
    assert load_dataset(name, same) is first
    halved = Taken(mean=first.mean, std=tuple(s / 2 for s in first.std), class_names=first.class_names)
    other = load_dataset(name, halved)
    assert other is not first and torch.allclose(other.images[:], 2 * first.images[:], atol=1e-5)
