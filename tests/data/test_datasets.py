"""Claims about datasets by name."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from rayunlearn.data import datasets
from rayunlearn.data.datasets import DATA_VARIABLE, content_hash, load_dataset
from rayunlearn.data.raw import MOST_IN_BOTH, Part, tell_doubles
from rayunlearn.data.splits import split
from rayunlearn.errors import BadInput, DataWarning, IntegrityError
from rayunlearn.recipes import DataSettings
from tests.data.shards import random_pixels


def real(name):
    """A mark: skip where the real dataset is not at hand."""
    root = os.environ.get(DATA_VARIABLE)
    there = bool(root) and (Path(root) / name).is_dir()
    return pytest.mark.skipif(not there, reason=f"{DATA_VARIABLE} is unset or has no {name}/")


@pytest.fixture(autouse=True)
def nothing_kept():
    """Each test loads anew."""
    datasets._load.cache_clear()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """`tmp_path` is the folder of all data."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    return tmp_path


def undone(data):
    """The pixels 0..255 of normalised images, float64."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (data.mean, data.std))
    return (data.images.double() * std + mean) * 255


def test_digits_are_scikit_learns_normalised_by_their_own_statistics():
    """Undone, the normalisation gives scikit-learn's pixels / 16; mean and std are theirs to 4 decimals."""
    data = load_dataset("digits")
    raw = torch.from_numpy(load_digits().images) / 16
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == load_digits().target.tolist()
    torch.testing.assert_close(undone(data)[:, 0] / 255, raw, atol=1e-6, rtol=0)
    assert data.mean == (round(raw.mean().item(), 4),)
    assert data.std == (round(raw.std(correction=0).item(), 4),)
    assert data.official_test_ids is None


def test_hash_is_of_raw_content():
    """That of digits is what stored results name; a hash changes with one pixel, one label or the shape."""
    assert load_dataset("digits").hash == "1f6d39a85f9cd5e55e96e54ff0f7a0886f0bef62a00a578c41f9d1db5a16cd6b"
    pixels, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    pixel, label = pixels.clone(), labels.clone()
    pixel[1, 0, 1, 1] = 1
    label[1] = 1
    variants = [(pixels, labels), (pixel, labels), (pixels, label), (pixels.reshape(2, 1, 1, 4), labels)]
    assert len({content_hash(*v) for v in variants}) == 4


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "parquet:made"])
def test_an_unset_variable_is_named(monkeypatch, name):
    """Without the variable the error names it, the dataset's folder and what belongs there."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    inside = name.removeprefix("parquet:")
    with pytest.raises(BadInput, match=f"{DATA_VARIABLE} is None; allowed: a folder with {inside}/, which"):
        load_dataset(name)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("mnist", "missing: train-images"),
        ("cifar10", "cifar-10-batches-py/ or .* or Parquet shards"),
        ("svhn", "train_32x32.mat and .* or Parquet shards"),
        ("parquet:made", r"train\*\.parquet and"),
    ],
)
def test_an_absent_dataset_is_named(here, name, needed):
    """Where the dataset is not there, the error names its folder and what belongs into it."""
    with pytest.raises(BadInput, match=f"folder is '{here}/.*{needed}"):
        load_dataset(name)


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_published_datasets_from_parquet_shards(shard, here, name):
    """The pixels of the shards, training part first, under the declared mean and std, of any number."""
    pixels = random_pixels(7, size=32)
    shard(f"{name}/train-00000-of-00001.parquet", pixels[:5], [0, 9, 3, 3, 1])
    shard(f"{name}/test-00000-of-00001.parquet", pixels[5:], [9, 2])
    data = load_dataset(name)
    torch.testing.assert_close(undone(data), pixels.double(), atol=1e-3, rtol=0)
    assert data.images.is_contiguous()
    assert data.labels.tolist() == [0, 9, 3, 3, 1, 9, 2]
    assert data.official_test_ids.tolist() == [5, 6]
    assert data.num_classes == 10
    assert data.hash == content_hash(pixels, data.labels)


def test_published_datasets_ask_for_their_own_form(shard, here):
    """Without a test part, of another size or with a label of no class, the shards are not CIFAR-10."""
    shard("cifar10/train.parquet", random_pixels(2, size=8), [0, 1])
    with pytest.raises(BadInput, match="cifar10: folder is"):
        load_dataset("cifar10")
    shard("cifar10/test.parquet", random_pixels(2, size=8), [0, 1])
    with pytest.raises(BadInput, match=r"shape of the images is \[3, 8, 8\]"):
        load_dataset("cifar10")
    shard("cifar10/train.parquet", random_pixels(2, size=32), [0, 10])
    with pytest.raises(BadInput, match=r"label in row 1 of train\.parquet is 10"):
        load_dataset("cifar10")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_parquet_folder_is_normalised_by_its_training_part(shard, here, channels):
    """Training images get mean 0 and std 1 in each channel, however dark the test part is."""
    pixels = random_pixels(9, channels)
    pixels[6:] //= 4
    shard("some/folder/train.parquet", pixels[:6], [0, 1, 2, 0, 1, 2])
    shard("some/folder/test.parquet", pixels[6:], [0, 1, 2])
    data = load_dataset("parquet:some/folder")
    train = data.images[:6].double()
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(channels).double(), atol=1e-6, rtol=0)
    spread = train.std((0, 2, 3), correction=0)
    torch.testing.assert_close(spread, torch.ones(channels).double(), atol=1e-6, rtol=0)
    assert data.images[6:].mean() < -0.5
    torch.testing.assert_close(undone(data), pixels.double(), atol=1e-3, rtol=0)
    assert (data.name, data.num_classes, len(data.mean)) == ("parquet:some/folder", 3, channels)
    assert data.official_test_ids.tolist() == [6, 7, 8]


def test_a_parquet_folder_may_lack_a_test_part(shard, here):
    """Then there is no official one, and every image counts for mean and std."""
    shard("made/train.parquet", random_pixels(4), [0, 1, 0, 1])
    data = load_dataset("parquet:made")
    assert data.official_test_ids is None
    assert abs(data.images.mean().item()) < 1e-6


def test_a_parquet_folder_has_all_its_classes(shard, here):
    """A class between 0 and the largest label without an image is named."""
    shard("made/train.parquet", random_pixels(3), [0, 3, 1])
    with pytest.raises(BadInput, match=r"parquet:made: number of classes .* absent: 2$"):
        load_dataset("parquet:made")


def test_a_channel_without_contrast_is_refused(shard, here):
    """Its std is 0, by which nothing can be divided."""
    pixels = random_pixels(2)
    pixels[:, 1] = 7
    shard("made/train.parquet", pixels, [0, 1])
    with pytest.raises(BadInput, match=r"standard deviation of each channel is \(0\.\d+, 0\.0, "):
        load_dataset("parquet:made")


def test_classes_have_the_names_of_their_files(shard, here):
    """And as many as there are names; where the files say none there are none."""
    shard("made/train.parquet", random_pixels(2), [0, 1], names=("cat", "dog"))
    data = load_dataset("parquet:made")
    assert (data.class_names, data.num_classes) == (("cat", "dog"), 2)
    shard("other/train.parquet", random_pixels(2), [0, 1])
    assert load_dataset("parquet:other").class_names is None
    assert load_dataset("digits").class_names == tuple("0123456789")


def test_a_published_dataset_has_its_classes_in_its_own_order(shard, here):
    """A copy that numbers them otherwise in both parts is turned: 3 is the cat. Other names are refused."""
    names = datasets.CIFAR10_NAMES[::-1]
    for part, seed in (("train", 0), ("test", 1)):
        shard(f"cifar10/{part}.parquet", random_pixels(10, size=32, seed=seed), list(range(10)), names=names)
    with pytest.warns(DataWarning, match="another order"):
        data = load_dataset("cifar10")
    assert data.labels.tolist() == list(range(10))[::-1] * 2
    assert data.class_names == datasets.CIFAR10_NAMES and data.class_names[3] == "cat"
    datasets._load.cache_clear()
    shard("cifar10/test.parquet", random_pixels(1, size=32), [0], names=["lorry"])
    with (
        pytest.warns(DataWarning, match="another order"),
        pytest.raises(BadInput, match=r"test\.parquet is \['lorry'\]; allowed: .*: airplane, automobile"),
    ):
        load_dataset("cifar10")


def test_an_official_test_part_is_held_out_unless_told_otherwise(shard, here):
    """By default no official test image is trained on; a fraction that somebody sets is drawn out of all.

    The control: what the default was, half of each class, trains on some of them.
    """
    labels = [i % 2 for i in range(40)]
    shard("made/train.parquet", random_pixels(40), labels)
    shard("made/test.parquet", random_pixels(20, seed=1), labels[:20])
    data = load_dataset("parquet:made")
    official = set(data.official_test_ids.tolist())
    default = DataSettings(dataset="parquet:made").test_fraction
    assert set(split(data, default, 0).test_ids.tolist()) == official
    assert split(data, default, 0).test_fraction is None
    for fraction in (0.5, 0.2):
        drawn = split(data, DataSettings(dataset="parquet:made", test_fraction=fraction).test_fraction, 0)
        assert len(drawn.test_ids) == 60 * fraction and official & set(drawn.train_ids.tolist())
    (here / "made/test.parquet").unlink()
    datasets._load.cache_clear()
    alone = split(load_dataset("parquet:made"), default, 0)
    assert (len(alone.test_ids), alone.test_fraction) == (20, 0.5)


def test_images_that_are_there_twice_are_counted(shard, here):
    """Within a part they are told, with how many have several labels; nothing is taken away."""
    pixels = random_pixels(6)
    pixels[3:5] = pixels[:2]
    shard("made/train.parquet", pixels, [0, 1, 0, 0, 0, 1])
    with pytest.warns(DataWarning, match=r"4 images of the training part are only 2 diff.*; 1 of them h"):
        assert len(load_dataset("parquet:made").labels) == 6


def test_a_part_in_both_places_is_refused(shard, here):
    """Test shards among the training shards: as many images as are in both, and how many may be."""
    shard("made/train.parquet", random_pixels(6), [0, 1, 0, 1, 0, 1])
    shard("made/test.parquet", random_pixels(2), [0, 1])
    with pytest.raises(BadInput, match="that are training images too is 2; allowed: at most 0"):
        load_dataset("parquet:made")


def of_numbers(first, last):
    """A part of images that are a number each."""
    numbers = torch.arange(first, last)
    pixels = torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).view(-1, 1, 1, 2)
    return Part(pixels, torch.zeros(last - first, dtype=torch.int64))


@pytest.mark.parametrize("both", [0, 1, 10, 20, 21])
def test_of_a_published_set_a_handful_may_be_in_both_parts(both, recwarn):
    """At most a share of 0.2 %, and it is told: 10 of 10000 as in Fashion-MNIST; more than 20 are refused."""
    parts = of_numbers(0, 12_000), of_numbers(12_000 - both, 22_000 - both)
    assert MOST_IN_BOTH * 10_000 == 20
    if both > 20:
        with pytest.raises(BadInput, match="training images too is 21; allowed: at most 20"):
            tell_doubles(parts, "made")
        return
    tell_doubles(parts, "made")
    assert [str(w.message) for w in recwarn] == [
        f"made: {n} test images are training images too" for n in [both] if n
    ]


@pytest.mark.parametrize("name", ["digits", *(pytest.param(n, marks=real(n)) for n in ("mnist", "svhn"))])
@pytest.mark.filterwarnings("error::rayunlearn.errors.DataWarning")
def test_real_data_give_no_warning(name):
    """No image twice, none in both parts, no file left out: whoever warns of these warns of everything."""
    assert load_dataset(name).num_classes == 10


@pytest.mark.parametrize("name", ["parquet:", "parquet:/made", "parquet:../made", "parquet:a/../../made"])
def test_a_parquet_folder_is_below_the_data(here, name):
    """No absolute path, none that leaves the folder of all data, and not nothing."""
    with pytest.raises(BadInput, match="allowed: parquet:<folder>"):
        load_dataset(name)


def test_the_last_dataset_is_kept(shard, here):
    """Given again without a look at its files; another dataset takes its place."""
    folder = shard("made/train.parquet", random_pixels(2), [0, 1])
    first = load_dataset("parquet:made")
    (folder / "train.parquet").unlink()
    assert load_dataset("parquet:made") is first
    load_dataset("digits")
    with pytest.raises(BadInput, match="train"):
        load_dataset("parquet:made")


@pytest.mark.parametrize("what", ["images", "labels"])
def test_writing_into_what_is_shared_does_not_go_unnoticed(what):
    """A write through a view makes the next call fail; a write into a copy does not."""
    data = load_dataset("digits")
    copy = getattr(data, what)[torch.arange(9)]
    copy += 1
    assert load_dataset("digits") is data
    getattr(data, what)[3:5] += 1
    with pytest.raises(IntegrityError, match="digits were changed in place"):
        load_dataset("digits")


def test_what_is_kept_can_be_trained_on():
    """Loaded first in inference mode, the images still take part in a backward pass."""
    with torch.inference_mode():
        load_dataset("digits")
    weight = torch.ones(1, requires_grad=True)
    (load_dataset("digits").images * weight).sum().backward()
    assert weight.grad is not None


@real("mnist")
def test_real_mnist_statistics():
    """The real training part has the declared mean and std to 4 decimals; sizes are 60000 and 10000."""
    data = load_dataset("mnist")
    assert len(data.labels) == 70000
    assert data.official_test_ids is not None
    assert data.official_test_ids.tolist() == list(range(60000, 70000))
    train = data.images[:60000]
    assert abs(train.mean().item()) * data.std[0] < 5e-5
    assert abs(train.std().item() - 1) * data.std[0] < 5e-5


@real("cifar10")
@pytest.mark.filterwarnings("error::rayunlearn.errors.DataWarning")
def test_real_cifar10_statistics():
    """The real training part has the declared mean and std; to 3e-4, for it may lack a few images."""
    data = load_dataset("cifar10")
    count = int(data.official_test_ids[0])
    assert data.images.shape[1:] == (3, 32, 32)
    assert 49_900 <= count <= 50_000
    std = torch.tensor(data.std)
    train = data.images[:count]
    assert ((train.mean((0, 2, 3)) * std).abs() < 3e-4).all()
    assert (((train.std((0, 2, 3)) - 1) * std).abs() < 3e-4).all()


@real("svhn")
def test_real_svhn_pixels():
    """Pixels are whole numbers in 0..255 again, and each part has all ten digits, 1 the most."""
    data = load_dataset("svhn")
    assert data.images.shape[1:] == (3, 32, 32)
    pixels = undone(dataclasses.replace(data, images=data.images[::20]))
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)
    assert (pixels.min().round().item(), pixels.max().round().item()) == (0, 255)
    first = int(data.official_test_ids[0])
    for labels in (data.labels[:first], data.labels[first:]):
        counts = labels.bincount(minlength=10)
        assert len(counts) == 10 and counts.min() > 0 and counts.argmax() == 1


def test_unknown_dataset_gets_the_nearest():
    """A misspelt name is refused with the nearest one, and with the form of all others."""
    with pytest.raises(BadInput, match="'digits' .*or parquet:<folder>"):
        load_dataset("digit")
