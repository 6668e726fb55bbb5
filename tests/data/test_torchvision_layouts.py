"""Claims about torchvision's layouts; those of CIFAR-10 and SVHN are small files with their own md5 sums."""

import gzip
import hashlib
import os
import pickle
import stat
import struct
import tarfile

import numpy as np
import pytest
import scipy.io
import torch
from torchvision.datasets import CIFAR10, SVHN

from rayunlearn.data.torchvision_layouts import MNIST_FILES, read_cifar10, read_mnist, read_svhn
from rayunlearn.errors import BadInput


def idx(array):
    """An idx file's bytes: magic number, dimensions big-endian, uint8 data."""
    head = struct.pack(">BBBB", 0, 0, 8, array.dim()) + struct.pack(f">{array.dim()}I", *array.shape)
    return head + array.numpy().tobytes()


@pytest.fixture
def tiny_mnist(tmp_path):
    """A read-only folder of 5 training and 3 test images, compressed; and the raw arrays."""
    draw = torch.Generator().manual_seed(0)
    arrays = []
    for n in (5, 3):
        arrays.append(torch.randint(0, 256, (n, 28, 28), generator=draw, dtype=torch.uint8))
        arrays.append(torch.randint(0, 10, (n,), generator=draw, dtype=torch.uint8))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in zip(MNIST_FILES, arrays, strict=True):
        (raw / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    raw.chmod(stat.S_IRUSR | stat.S_IXUSR)
    yield raw, arrays
    raw.chmod(stat.S_IRWXU)


def assert_holds(parts, arrays):
    """The parts are the arrays: training pixels, training labels, test pixels, test labels."""
    for got, expected in zip((*parts[0][:2], *parts[1][:2]), arrays, strict=True):
        assert torch.equal(got, torch.as_tensor(expected).to(got.dtype))
    assert [t.dtype for t in parts[1][:2]] == [torch.uint8, torch.int64]


def test_mnist_from_a_read_only_folder(tiny_mnist, tmp_path):
    """torchvision's own parser gives the bytes written; the folder stays as it was."""
    raw, (train, train_labels, test, test_labels) = tiny_mnist
    before = sorted(os.listdir(raw))
    assert_holds(read_mnist(tmp_path), (train.unsqueeze(1), train_labels, test.unsqueeze(1), test_labels))
    assert sorted(os.listdir(raw)) == before


def test_mnist_already_decompressed(tiny_mnist, tmp_path):
    """Files that torchvision has decompressed already need no .gz beside them, and give the same."""
    raw, arrays = tiny_mnist
    packed = read_mnist(tmp_path)
    raw.chmod(stat.S_IRWXU)
    for name, array in zip(MNIST_FILES, arrays, strict=True):
        (raw / name).write_bytes(idx(array))
        (raw / f"{name}.gz").unlink()
    assert_holds(read_mnist(tmp_path), (*packed[0][:2], *packed[1][:2]))


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"\0\0\x08\x03 not idx"), gzip.compress(b"abc" * 999)[:20]],
    ids=["no gzip", "no idx", "cut short"],  # gzip's bytes hold the time
)
def test_mnist_broken_file_is_refused(tiny_mnist, tmp_path, content):
    """A file that is no gzip, no idx or truncated is BadInput, not a traceback."""
    raw, _ = tiny_mnist
    raw.chmod(stat.S_IRWXU)
    (raw / f"{MNIST_FILES[0]}.gz").write_bytes(content)
    with pytest.raises(BadInput, match="mnist"):
        read_mnist(tmp_path)


def test_mnist_missing_files_are_named(tmp_path):
    """Without its files the error names the folder and each of them."""
    with pytest.raises(BadInput, match="MNIST/raw.* missing: train-images.*, t10k-labels"):
        read_mnist(tmp_path)


class Planted:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def md5(path):
    """As torchvision has it in its tables."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def tiny_cifar10(tmp_path, monkeypatch):
    """A folder with two training batches of 3 and 2 and a test batch of 2; and the raw arrays."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "cifar10"
    batches = folder / CIFAR10.base_folder
    batches.mkdir(parents=True)
    rows, labels = draw.integers(0, 256, (7, 3072), dtype=np.uint8), [3, 9, 0, 1, 1, 2, 0]
    for name, start, end in (("data_batch_1", 0, 3), ("data_batch_2", 3, 5), ("test_batch", 5, 7)):
        content = {"data": rows[start:end], "labels": labels[start:end]}
        (batches / name).write_bytes(pickle.dumps(content))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    sums = [[f.name, md5(f)] for f in sorted(batches.iterdir())]
    monkeypatch.setattr(CIFAR10, "meta", {"filename": sums[0][0], "key": "label_names", "md5": sums[0][1]})
    monkeypatch.setattr(CIFAR10, "train_list", sums[1:3])
    monkeypatch.setattr(CIFAR10, "test_list", sums[3:])
    planes = rows.reshape(7, 3, 32, 32)  # the format: a row is the red plane, the green, the blue
    return folder, (planes[:5], labels[:5], planes[5:], labels[5:])


@pytest.fixture
def tiny_archive(tiny_cifar10, monkeypatch):
    """The same as an archive alone."""
    folder, arrays = tiny_cifar10
    batches = folder / CIFAR10.base_folder
    archive = folder / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(batches, CIFAR10.base_folder)
    batches.rename(folder.parent / "elsewhere")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    return archive, arrays


def test_cifar10_from_its_batches(tiny_cifar10):
    """Batches in their order, planes red, green and blue."""
    folder, arrays = tiny_cifar10
    assert_holds(read_cifar10(folder), arrays)


def test_cifar10_from_its_archive(tiny_archive):
    """The archive gives what its batches give, and nothing is unpacked beside it."""
    archive, arrays = tiny_archive
    assert_holds(read_cifar10(archive.parent), arrays)
    assert [f.name for f in archive.parent.iterdir()] == [archive.name]


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_changed_pickle_is_never_read(tiny_cifar10, tmp_path, name):
    """A batch or the meta file with other bytes is named and refused; the code in it does not run."""
    folder, _ = tiny_cifar10
    marker = tmp_path / "ran"
    planted = pickle.dumps(Planted(marker))
    pickle.loads(planted)
    assert marker.is_dir()  # the control: reading it does run the code
    marker.rmdir()
    (folder / CIFAR10.base_folder / name).write_bytes(planted)
    with pytest.raises(BadInput, match=f"published files; missing, incomplete or changed: {name}$"):
        read_cifar10(folder)
    assert not marker.exists()


def test_a_changed_archive_is_never_unpacked(tiny_archive):
    """One byte more, and the archive is refused by name."""
    archive, _ = tiny_archive
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(BadInput, match=f"changed: {CIFAR10.filename}"):
        read_cifar10(archive.parent)


def test_missing_batches_are_named(tiny_cifar10):
    """Every batch that is not there is named."""
    folder, _ = tiny_cifar10
    (folder / CIFAR10.base_folder / "data_batch_1").unlink()
    (folder / CIFAR10.base_folder / "test_batch").unlink()
    with pytest.raises(BadInput, match="changed: data_batch_1, test_batch"):
        read_cifar10(folder)


@pytest.fixture
def tiny_svhn(tmp_path, monkeypatch):
    """A folder with 4 training and 2 test digits; and the raw arrays, in which the digit is the label."""
    draw = np.random.default_rng(0)
    arrays = []
    for split, labels in (("train", [10, 1, 9, 10]), ("test", [2, 10])):
        pixels = draw.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
        file = tmp_path / f"{split}_32x32.mat"
        content = {"X": pixels.transpose(2, 3, 1, 0), "y": np.array(labels, dtype=np.uint8)[:, None]}
        scipy.io.savemat(file, content)
        monkeypatch.setitem(SVHN.split_list, split, ["", file.name, md5(file)])
        arrays += [pixels, [label % 10 for label in labels]]
    return tmp_path, arrays


def test_svhn_from_its_files(tiny_svhn):
    """Images upright, channels first; the files' label 10 is the digit 0."""
    folder, arrays = tiny_svhn
    assert_holds(read_svhn(folder), arrays)


def test_svhn_changed_or_missing_files_are_named(tiny_svhn):
    """A file with other bytes and one that is not there."""
    folder, _ = tiny_svhn
    train = folder / "train_32x32.mat"
    train.write_bytes(train.read_bytes()[:-1])
    (folder / "test_32x32.mat").unlink()
    with pytest.raises(BadInput, match=r"changed: train_32x32\.mat, test_32x32\.mat"):
        read_svhn(folder)


def test_a_folder_without_the_layout_is_left_to_other_readers(tmp_path):
    """None for a folder with neither layout, so that it is read as Parquet shards."""
    (tmp_path / "train.parquet").touch()
    assert read_cifar10(tmp_path) is None
    assert read_svhn(tmp_path) is None
