"""Images that are read when they are asked for are those that are all in memory, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rayunlearn.data import datasets, pixel_store
from rayunlearn.data.datasets import DATA_VARIABLE, load_dataset
from rayunlearn.data.pixel_store import PixelWriter
from rayunlearn.data.raw import Part, channel_statistics, tell_doubles
from rayunlearn.data.splits import split
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.predictions import predict
from rayunlearn.evaluation.probe import ProbeSettings, linear_probe
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.streamed import StoredPixels, StreamedImages, normalised, selected
from tests.data.shards import packed, random_pixels, write_shard

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PIXELS = random_pixels(40, 3, 8)


def stored(pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> StoredPixels:
    """The same pixels in a file, as a reader puts them there."""
    monkeypatch.setattr(pixel_store, "IN_MEMORY_BYTES", 1000)
    writer = PixelWriter("made")
    for image in pixels:
        writer.add(image.numpy())
    found = writer.pixels()
    assert isinstance(found, StoredPixels) and len(writer) == len(pixels)
    return found


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, StreamedImages]:
    """Images in memory, and the same in two parts of which one lies in a file."""
    lies = stored(PIXELS[:25], monkeypatch)
    whole = normalised(PIXELS.float(), MEAN, STD)
    return whole, StreamedImages([lies, PIXELS[25:]], MEAN, STD)


def test_what_is_asked_for_is_the_same_to_the_bit(both: tuple[torch.Tensor, StreamedImages]) -> None:
    """Slices, indices in any order and twice, masks, what is chosen of a choice, and batches."""
    whole, streamed = both
    ids = torch.tensor([39, 0, 24, 25, 0, 7])
    mask = torch.arange(40) % 3 == 0
    assert streamed.shape == whole.shape and len(streamed) == 40
    assert torch.equal(streamed[:], whole) and torch.equal(streamed[3:30], whole[3:30])
    assert torch.equal(streamed[ids], whole[ids]) and torch.equal(streamed[mask], whole[mask])
    assert torch.equal(streamed.of(mask)[torch.tensor([2, 1])], whole[mask][[2, 1]])
    assert torch.equal(torch.cat(list(streamed.split(7))), whole)
    assert [len(batch) for batch in streamed.split(16)] == [16, 16, 8]
    assert streamed[torch.empty(0, dtype=torch.int64)].shape == (0, 3, 8, 8)
    assert torch.equal(selected(whole, ids), selected(streamed, ids)[:])
    other = StreamedImages([PIXELS[25:], PIXELS[:25]], MEAN, STD)
    assert not torch.equal(other[:], whole)


def test_a_file_that_ends_too_soon_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than read as fewer images."""
    lies = stored(PIXELS, monkeypatch)
    assert torch.equal(lies[:], PIXELS)
    longer = StoredPixels(lies._file, (41, 3, 8, 8))
    with pytest.raises(OSError, match="ends at"):
        longer[40:41]


def test_measures_and_training_take_either(both: tuple[torch.Tensor, StreamedImages]) -> None:
    """Counts, answers, the probe and the weights are those of images in memory, to the bit."""
    whole, streamed = both
    labels = torch.arange(40) % 4
    spec = ClassifierSpec(
        name="allcnn", width=0.125, in_channels=3, image_size=8, num_classes=4, mean=MEAN, std=STD
    )
    model = build_classifier(spec, 0)

    def measured(images: torch.Tensor | StreamedImages) -> tuple[object, ...]:
        counts = class_counts(model, images, labels, 4, batch_size=7)
        answers = predict({"m": model}, images, labels, batch_size=7)["m"].log_probs
        settings = ProbeSettings(train_per_class=6)
        test = selected(images, torch.arange(20))
        probe = linear_probe(model, images, labels, test, labels[:20], [1], settings, 0)
        learner: nn.Module = build_classifier(spec, 1)
        train = TrainSettings(epochs=2, batch_size=16)
        train_classifier(learner, images, labels, train, 0)
        weights = torch.cat([p.flatten() for p in learner.parameters()])
        return counts.correct.tolist(), answers.tolist(), probe, weights.tolist()

    assert measured(whole) == measured(streamed)


def test_statistics_hash_and_split_do_not_see_where_the_pixels_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of Parquet shards loaded whole, and loaded with a small allowance of memory."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    for part, first, last in (("train", 0, 30), ("test", 30, 40)):
        images = [packed(p) for p in PIXELS[first:last]]
        write_shard(tmp_path / "p" / f"{part}.parquet", images, [i % 5 for i in range(first, last)])
    whole = load_dataset("parquet:p")
    datasets._load.cache_clear()
    monkeypatch.setattr(pixel_store, "IN_MEMORY_BYTES", 1000)
    streamed = load_dataset("parquet:p")
    assert isinstance(whole.images, torch.Tensor) and isinstance(streamed.images, StreamedImages)
    assert (whole.hash, whole.mean, whole.std) == (streamed.hash, streamed.mean, streamed.std)
    assert torch.equal(whole.images, streamed.images[:]) and torch.equal(whole.labels, streamed.labels)
    for fraction in (0.3, None):
        first, second = split(whole, fraction, 0), split(streamed, fraction, 0)
        assert torch.equal(first.test_ids, second.test_ids)
    images, _ = streamed.at(first.test_ids)
    assert isinstance(images, StreamedImages) and torch.equal(images[:], whole.images[first.test_ids])


def test_doubles_and_statistics_are_counted_in_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of both parts is refused wherever its pixels lie; for control, parts that differ are not."""
    lies = stored(PIXELS, monkeypatch)
    labels = torch.zeros(40, dtype=torch.int64)
    assert channel_statistics(lies) == channel_statistics(PIXELS)
    other = random_pixels(40, 3, 8, seed=1)
    tell_doubles((Part(lies, labels), Part(other, labels)), "made")
    with pytest.raises(BadInput, match="test images that are training images too is 40"):
        tell_doubles((Part(lies, labels), Part(PIXELS, labels)), "made")


def test_a_full_disk_is_told_before_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the folder and the variable that names another."""
    monkeypatch.setattr(pixel_store, "IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(pixel_store, "_LOOK_EVERY_BYTES", 500)
    monkeypatch.setattr(pixel_store, "_SPARE_BYTES", 2**62)
    writer = PixelWriter("made")

    def fill() -> None:
        for image in PIXELS:
            writer.add(image.numpy())

    with pytest.raises(BadInput, match="free bytes of the temporary folder .*TMPDIR"):
        fill()
