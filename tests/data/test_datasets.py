"""Claims about datasets."""

import gzip
import os
import stat
import struct

import pytest
import torch
from sklearn.datasets import load_digits

from rayunlearn.data.datasets import DATA_VARIABLE, MNIST_FILES, content_hash, load_dataset
from rayunlearn.errors import BadInput


def idx(array):
    """An idx file's bytes: magic number, dimensions big-endian, uint8 data."""
    head = struct.pack(">BBBB", 0, 0, 8, array.dim()) + struct.pack(f">{array.dim()}I", *array.shape)
    return head + array.numpy().tobytes()


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """A read-only folder in torchvision's layout, 5 training and 3 test images; and the raw arrays."""
    draw = torch.Generator().manual_seed(0)
    arrays = []
    for n in (5, 3):
        arrays.append(torch.randint(0, 256, (n, 28, 28), generator=draw, dtype=torch.uint8))
        arrays.append(torch.randint(0, 10, (n,), generator=draw, dtype=torch.uint8))
    raw = tmp_path / "data" / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in zip(MNIST_FILES, arrays, strict=True):
        (raw / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    raw.chmod(stat.S_IRUSR | stat.S_IXUSR)
    yield raw, arrays
    raw.chmod(stat.S_IRWXU)


def test_digits_are_scikit_learns_normalised_by_their_own_statistics():
    """Undone, the normalisation gives scikit-learn's pixels / 16; mean and std are theirs to 4 decimals."""
    data = load_dataset("digits")
    raw = torch.from_numpy(load_digits().images) / 16
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == load_digits().target.tolist()
    undone = (data.images[:, 0] * data.std[0] + data.mean[0]).double()
    torch.testing.assert_close(undone, raw, atol=1e-6, rtol=0)
    assert data.mean == (round(raw.mean().item(), 4),)
    assert data.std == (round(raw.std(correction=0).item(), 4),)
    assert data.official_test_ids is None


def test_hash_is_of_raw_content():
    """Equal on every load; changes with one pixel, one label or the shape."""
    assert load_dataset("digits").hash == load_dataset("digits").hash
    pixels, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    pixel, label = pixels.clone(), labels.clone()
    pixel[1, 0, 1, 1] = 1
    label[1] = 1
    variants = [(pixels, labels), (pixel, labels), (pixels, label), (pixels.reshape(2, 1, 1, 4), labels)]
    assert len({content_hash(*v) for v in variants}) == 4


def test_mnist_from_a_read_only_folder(tiny_mnist):
    """torchvision's own parser gives the bytes written, training part first; the folder stays as it was."""
    raw, arrays = tiny_mnist
    before = sorted(os.listdir(raw))
    data = load_dataset("mnist")
    pixels = (data.images * 0.3081 + 0.1307) * 255
    torch.testing.assert_close(pixels[:, 0], torch.cat([arrays[0], arrays[2]]).float(), atol=1e-3, rtol=0)
    assert data.labels.tolist() == arrays[1].tolist() + arrays[3].tolist()
    assert data.official_test_ids is not None
    assert data.official_test_ids.tolist() == [5, 6, 7]
    assert sorted(os.listdir(raw)) == before


def test_mnist_already_decompressed(tiny_mnist):
    """Files that torchvision has decompressed already need no .gz beside them, and give the same hash."""
    raw, arrays = tiny_mnist
    packed = load_dataset("mnist").hash
    raw.chmod(stat.S_IRWXU)
    for name, array in zip(MNIST_FILES, arrays, strict=True):
        (raw / name).write_bytes(idx(array))
        (raw / f"{name}.gz").unlink()
    assert load_dataset("mnist").hash == packed


@pytest.mark.parametrize(
    "content", [b"not gzip", gzip.compress(b"\0\0\x08\x03 not idx"), gzip.compress(b"abc" * 999)[:20]]
)
def test_mnist_broken_file_is_refused(tiny_mnist, content):
    """A file that is no gzip, no idx or truncated is BadInput, not a traceback."""
    raw, _ = tiny_mnist
    raw.chmod(stat.S_IRWXU)
    (raw / f"{MNIST_FILES[0]}.gz").write_bytes(content)
    with pytest.raises(BadInput, match="mnist"):
        load_dataset("mnist")


def test_mnist_says_what_to_set(monkeypatch, tmp_path):
    """Without the variable, or with a folder without MNIST, the error names variable and layout."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(BadInput, match=f"{DATA_VARIABLE}.*mnist/MNIST/raw"):
        load_dataset("mnist")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(BadInput, match="missing: train-images"):
        load_dataset("mnist")


@pytest.mark.skipif(not os.environ.get(DATA_VARIABLE), reason=f"{DATA_VARIABLE} is unset")
def test_real_mnist_statistics():
    """The real training part has the declared mean and std to 4 decimals; sizes are 60000 and 10000."""
    data = load_dataset("mnist")
    assert len(data.labels) == 70000
    assert data.official_test_ids is not None
    assert data.official_test_ids.tolist() == list(range(60000, 70000))
    train = data.images[:60000]
    assert abs(train.mean().item()) * data.std[0] < 5e-5
    assert abs(train.std().item() - 1) * data.std[0] < 5e-5


def test_unknown_dataset_gets_the_nearest():
    """A misspelt name is refused with the nearest one."""
    with pytest.raises(BadInput, match="'digits'"):
        load_dataset("digit")
