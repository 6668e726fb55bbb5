"""Data sets that are code: torchvision's by name, and a function of the operator's."""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.transforms.functional import to_pil_image

from rayunlearn.data.code import TORCHVISION, is_function
from rayunlearn.data.datasets import DATA_VARIABLE, Taken, load_dataset, not_there
from rayunlearn.data.raw import Part
from rayunlearn.data.samples import read_samples
from rayunlearn.errors import BadInput, DataWarning
from rayunlearn.preprocessing import Preprocessing
from tests.data.shards import random_pixels

PIXELS = random_pixels(6)
LABELS = [0, 1, 2, 0, 1, 2]


class Own:
    """A map-style data set."""

    classes = ["cat", "dog", "owl"]

    def __init__(self, images: Any = PIXELS, labels: Any = LABELS) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.labels[index]


def read(source: Any, names: tuple[str, ...] | None = None, how: Preprocessing | None = None) -> Part:
    """What is read of it."""
    return read_samples(source, "training part", "made", names, None, how)


FORMS: dict[str, Any] = {
    "uint8": PIXELS,
    "arrays": [p.permute(1, 2, 0).numpy() for p in PIXELS],
    "Pillow images": [to_pil_image(p) for p in PIXELS],
    "floats of 255ths": PIXELS / 255,
    "doubles": PIXELS.double() / 255,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_gives_its_pixels(form: str) -> None:
    """The same pixels whatever they come as; labels are whole numbers of any kind."""
    for labels in (LABELS, torch.tensor(LABELS), np.array(LABELS, np.uint8)):
        part = read(Own(FORMS[form], labels))
        assert torch.equal(part.pixels[:], PIXELS) and part.labels.tolist() == LABELS
        assert part.class_names == ("cat", "dog", "owl")


def test_a_loader_gives_the_samples_of_its_batches() -> None:
    """In their order, the last batch shorter; the names are those of the set inside."""
    loader = DataLoader(Subset(Own(), range(6)), batch_size=4)  # type: ignore[arg-type]
    part = read(loader)
    assert torch.equal(part.pixels[:], PIXELS) and part.labels.tolist() == LABELS
    assert part.class_names == ("cat", "dog", "owl")
    shuffled = DataLoader(TensorDataset(PIXELS, torch.tensor(LABELS)), batch_size=4, shuffle=True)
    with pytest.raises(BadInput, match="sampler of the training part is 'RandomSampler'"):
        read(shuffled)


def test_labels_go_by_the_names_of_the_lineage() -> None:
    """In another order by name; a set without names by number, which is said; other names are refused."""
    with pytest.warns(DataWarning, match="taken by their names"):
        assert read(Own(), ("owl", "dog", "cat")).labels.tolist() == [2, 1, 0, 2, 1, 0]
    with pytest.warns(DataWarning, match="names no classes"):
        nameless = read(TensorDataset(PIXELS, torch.tensor(LABELS)), ("a", "b", "c"))
    assert nameless.class_names == ("a", "b", "c")
    with pytest.raises(BadInput, match=r"names of classes in the training part is \['owl'\]"):
        read(Own(), ("cat", "dog", "emu"))


NORMALISED = (PIXELS / 255 - 0.5) / 0.25


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Own(NORMALISED), "mean and std are stated to rayunlearn"),
        (Own(PIXELS / 255 * float("nan")), "whole numbers of 255ths"),
        (Own(PIXELS.int()), "torch.int32|int32"),
        (Own(torch.zeros(6, 2, 4, 4, dtype=torch.uint8)), "uint8 \\[2, 4, 4\\]"),
        (Own([to_pil_image(PIXELS[0]).convert("CMYK")] * 6), "mode CMYK"),
        (Own(["a.png"] * 6), "image of sample 0 of the training part is 'str'"),
        (Own([*PIXELS[:5], PIXELS[5][:, :2]]), "shape of sample 5"),
        (Own([*PIXELS[:5], PIXELS[5][:1]]), r"shape of sample 5 of the training part is \[1, 4, 4\]"),
        (Own(labels=[0, 1, 3, 0, 1, 2]), "label of sample 2 of the training part is 3; allowed: .* 0..2"),
        (Own(labels=[0, 1, -1, 0, 1, 2]), "is -1"),
        (Own(labels=[0, 1, 1.5, 0, 1, 2]), "is 1.5"),
        (Own(labels=["cat"] * 6), "is 'cat'"),
        (Own([], []), "number of samples of the training part is 0"),
        (Own(labels=LABELS[:3]), "item 3 of the training part is 'unreadable'; .*IndexError"),
        (3, "the training part is 'int'"),
        ([1, 2], "item 0 of the training part is 'int'; allowed: an image and its label"),
        ([(PIXELS, LABELS)], "labels of batch 0"),
    ],
)
def test_what_is_no_sample_is_refused(source: Any, said: str) -> None:
    """By the number of the sample; the first of all, for control, is read."""
    with pytest.raises(BadInput, match=said):
        read(source)
    assert len(read(Own()).labels) == 6


def test_samples_are_prepared_as_files_are() -> None:
    """The preprocessing that is stated is that of every source."""
    part = read(Own(), how=Preprocessing(channels=1, resize=(8, 6)))
    assert part.pixels.shape == (6, 1, 8, 6)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of the operator's on the path, `own_data`."""
    (tmp_path / "own_data.py").write_text(
        "import torch\n"
        "from tests.data.test_code import LABELS, PIXELS, Own\n"
        "def whole(): return Own()\n"
        "def parts(): return {'train': Own(PIXELS[:3], LABELS[:3]), 'test': Own(PIXELS[3:], LABELS[3:])}\n"
        "def others(): return {'train': Own(), 'val': Own()}\n"
        "def fails(): raise KeyError('gone')\n"
        "def nothing(): return None\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    yield tmp_path
    sys.modules.pop("own_data", None)


def test_an_operators_function_is_a_data_set(module: Path) -> None:
    """Of one part or of two, without any folder of data; whether its module is there shows before."""
    assert not_there("own_data:whole") is None
    assert not_there("own_datum:whole") == "there is no module 'own_datum' for 'own_datum:whole'"
    whole, parts = load_dataset("own_data:whole"), load_dataset("own_data:parts")
    assert whole.official_test_ids is None and whole.class_names == ("cat", "dog", "owl")
    assert parts.official_test_ids is not None and parts.official_test_ids.tolist() == [3, 4, 5]
    assert whole.hash == parts.hash  # of the samples, whatever the parts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_data:fails", "a function that gives a data set .KeyError"),
        ("own_data:nothing", "the training part is 'NoneType'"),
        ("own_data:others", r"what own_data:others gives is \['train', 'val'\]"),
        ("own_data:number", "a function of own_data"),
        ("own_data:absent", "a function of own_data"),
        ("no_such_module:f", "a module that can be imported"),
        ("own_data:f()", "dataset is 'own_data:f"),
        ("os.system", "dataset is 'os.system'"),
    ],
)
def test_what_is_no_function_is_refused(module: Path, name: str, said: str) -> None:
    """By its name and what it gave."""
    with pytest.raises(BadInput, match=said):
        load_dataset(name)


def _fashion(folder: Path) -> tuple[torch.Tensor, list[int]]:
    """Fashion-MNIST's four files with ten images in each part, as torchvision lays them out."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels, labels = random_pixels(20, 1, 28), [*range(10)] * 2
    for part, first in (("train", 0), ("t10k", 10)):
        images = struct.pack(">IIII", 2051, 10, 28, 28) + pixels[first : first + 10].numpy().tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        named = struct.pack(">II", 2049, 10) + bytes(labels[first : first + 10])
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(named)
    return pixels, labels


def test_a_set_of_torchvisions_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts, with torchvision's names; nothing is downloaded where nothing is there."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", lambda *a, **k: pytest.fail("a download"))
    with pytest.raises(BadInput, match="what torchvision.datasets.FashionMNIST reads"):
        load_dataset("torchvision:FashionMNIST")
    pixels, labels = _fashion(tmp_path / "fashionmnist")
    data = load_dataset("torchvision:FashionMNIST")
    assert data.labels.tolist() == labels and data.num_classes == 10
    assert data.class_names is not None and data.class_names[9] == "Ankle boot"
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    raw = (data.images[:] * std + mean) * 255
    assert torch.equal(raw.round().to(torch.uint8), pixels)
    large = Taken(how=Preprocessing(channels=3, resize=32))
    assert load_dataset("torchvision:FashionMNIST", large).images.shape == (20, 3, 32, 32)


def test_every_name_of_the_table_is_one_of_torchvisions() -> None:
    """With the arguments that its class takes; a misspelt name is refused with at most five that are near."""
    import inspect

    for name, parts in TORCHVISION.items():
        taken = inspect.signature(getattr(torchvision.datasets, name).__init__).parameters
        assert "root" in taken
        for given in parts:
            assert set(given) <= set(taken) or "kwargs" in taken, name
    with pytest.raises(BadInput, match="'FashionMNIST'") as caught:
        load_dataset("torchvision:FashonMNIST")
    assert str(caught.value).count("'") <= 2 * (1 + 5)


@pytest.mark.parametrize(
    ("name", "is_one"), [("a.b:c", True), ("a:b.c", False), ("a", False), ("a:b:c", False)]
)
def test_the_form_of_a_function(name: str, is_one: bool) -> None:
    """A dotted module, and one name in it."""
    assert is_function(name) is is_one
