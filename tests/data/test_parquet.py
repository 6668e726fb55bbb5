"""Claims about Parquet folders of images."""

import contextlib
import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayunlearn.data.parquet import count_classes, read_parquet, read_shards, shards_in
from rayunlearn.data.pixels import FORMATS, decode
from rayunlearn.data.raw import Part
from rayunlearn.errors import BadInput, DataWarning
from tests.data.shards import packed, random_pixels, write_shard


def read(folder, **how):
    """The folder's parts."""
    return read_parquet(folder, "made", "train*.parquet and test*.parquet", **how)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["struct", "binary", "large binary"])
@pytest.mark.parametrize(("column", "label_type"), [("image", "int64"), ("img", "uint8")])
def test_pixels_and_labels_are_those_written(shard, channels, form, column, label_type):
    """Grey or RGB, each form of the image column, each name of it: the very pixels, part by part."""
    how = {"form": form, "column": column, "label_type": label_type}
    pixels = random_pixels(5, channels)
    folder = shard("train.parquet", pixels[:3], [0, 1, 1], **how)
    shard("test.parquet", pixels[3:], [1, 0], **how)
    train, test = read(folder)
    assert torch.equal(train.pixels, pixels[:3])
    assert torch.equal(test.pixels, pixels[3:])
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 1], [1, 0])
    assert train.labels.dtype == torch.int64


def test_shards_are_read_by_name_and_others_not_at_all(shard):
    """The order is that of the names, not of writing; a validation shard and the index are not read."""
    pixels = random_pixels(4)
    shard("train-00001-of-00002.parquet", pixels[2:3], [2])
    shard("validation.parquet", pixels[3:], [3])
    shard("data/train.parquet", pixels[3:], [3])
    shard("._train.parquet", pixels[3:], [3])  # hidden: some systems write such
    folder = shard("train-00000-of-00002.parquet", pixels[:2], [0, 1])
    left_out = r"made: .* not read: data/train\.parquet, validation\.parquet$"
    with pytest.warns(DataWarning, match=left_out) as said:
        train, test = read(folder)
    assert len(said) == 1
    assert train.labels.tolist() == [0, 1, 2]
    assert torch.equal(train.pixels, pixels[:3])
    assert test is None


def test_more_rows_than_are_decoded_at_once(shard):
    """Rows keep their order over the batches of a shard; a wrong row is named by its place in all."""
    labels = [i % 7 for i in range(2100)]
    pixels = torch.arange(2100).remainder(251).to(torch.uint8).view(-1, 1, 1, 1)
    folder = shard("train.parquet", pixels, labels)
    train, _ = read(folder)
    assert torch.equal(train.pixels, pixels)
    assert train.labels.tolist() == labels
    labels[2050] = -3
    shard("train.parquet", pixels, labels)
    with pytest.raises(BadInput, match=r"label in row 2050 of train\.parquet is -3"):
        read(folder)


def test_jpeg_is_decoded_as_pillow_does(tmp_path):
    """A JPEG gives the pixels that Pillow gives for it."""
    jpeg = packed(random_pixels(1, size=16)[0], "JPEG")
    write_shard(tmp_path / "train.parquet", [jpeg], [0])
    expected = torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)))).permute(2, 0, 1)
    assert torch.equal(read(tmp_path)[0].pixels[0], expected)


GOOD = packed(random_pixels(1)[0])
WRONG_ROWS = {
    "other size": (packed(random_pixels(1, size=5)[0]), 0, r"image in ROW \[3, 5, 5\]; .*\[3, 4, 4\]"),
    "other channels": (packed(random_pixels(1, 1)[0]), 0, r"image in ROW \[1, 4, 4\]; .*\[3, 4, 4\]"),
    "not square": (packed(random_pixels(1)[0][:, :3]), 0, "image in ROW '4x3'; allowed: square"),
    "alpha": (packed(random_pixels(1, 4)[0]), 0, "image in ROW 'transparent in places'"),
    "other format": (packed(random_pixels(1)[0], "TGA"), 0, r"image in ROW b'\\x00.*bytes of a BMP, GIF"),
    "no image": (b"nothing", 0, "image in ROW b'nothing'; .*bytes of a BMP, GIF, JPEG, PNG, PPM"),
    "truncated": (GOOD[:-30], 0, "image in ROW 'damaged'; allowed: a whole image"),
    "path only": (None, 0, "image in ROW None; .* paths are not followed"),
    "negative label": (GOOD, -1, "label in ROW -1; allowed: a whole number in 0"),
    "label of no class": (GOOD, 10, r"label in ROW 10; allowed: a whole number in 0\.\.9"),
    "no label": (GOOD, None, "label in ROW None"),
}


@pytest.mark.parametrize(("image", "label", "message"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_a_row_that_is_wrong_is_named(tmp_path, image, label, message):
    """Whatever is wrong with a shard's second row: the file, the row, the value and what is allowed."""
    write_shard(tmp_path / "train.parquet", [GOOD], [0])
    write_shard(tmp_path / "test-0.parquet", [GOOD, GOOD], [0, 1])
    assert len(read(tmp_path, num_classes=10)[1].labels) == 2  # the control: nothing is wrong yet
    write_shard(tmp_path / "test-0.parquet", [GOOD, image], [0, label])
    with pytest.raises(BadInput, match=message.replace("ROW", r"row 1 of test-0\.parquet is")):
        read(tmp_path, num_classes=10)


def table(**columns):
    """A table with a good image column, a good label column, and these instead of them."""
    good = {"image": pa.array([GOOD], pa.binary()), "label": pa.array([0], pa.int64())}
    return pa.table({name: column for name, column in (good | columns).items() if column is not None})


WRONG_TABLES = {
    "no label": (table(label=None), r"columns of train\.parquet is \['image'\]; allowed: image \(or img\)"),
    "no image": (table(image=None), r"columns of train\.parquet is \['label'\]"),
    "text for image": (table(image=pa.array(["a.png"])), r"image in train\.parquet is 'string'"),
    "no bytes in struct": (
        table(image=pa.array([{"path": "a"}])),
        r"image in train\.parquet is 'struct<path",
    ),
    "fractions for label": (table(label=pa.array([0.0])), r"label in train\.parquet is 'double'"),
    "truth values for label": (table(label=pa.array([True])), r"label in train\.parquet is 'bool'"),
    "no rows": (table().slice(0, 0), r"number of rows in train\.parquet is 0"),
}


@pytest.mark.parametrize(("content", "message"), WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_a_file_of_another_form_is_named(tmp_path, content, message):
    """Missing columns, other types and no rows are refused with the file's name and what is there."""
    pq.write_table(content, tmp_path / "train.parquet")
    with pytest.raises(BadInput, match=message):
        read(tmp_path)


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    """Bytes that are no Parquet file, and a Parquet file cut short, are refused by name."""
    file = tmp_path / "train.parquet"
    write_shard(file, [GOOD], [0])
    for content in (b"text", file.read_bytes()[:-9]):
        file.write_bytes(content)
        with pytest.raises(BadInput, match=f"file is '{re.escape(str(file))}'; allowed: a readable Parquet"):
            read(tmp_path)


def test_a_folder_without_training_shards_says_what_it_may_hold(tmp_path, shard):
    """Missing, or with a test shard alone."""
    with pytest.raises(BadInput, match=r"absent'; allowed: train\*\.parquet and test\*\.parquet"):
        read(tmp_path / "absent")
    with pytest.raises(BadInput, match=r"allowed: train\*\.parquet"):
        read(shard("test.parquet", random_pixels(1), [0]))


WHOLE_SERIES = {
    "plain": ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
    "a hash each": ("train-00000-of-00002-0a1b.parquet", "train-00001-of-00002-9f8e.parquet"),
    "from one": ("train-00001-of-00002.parquet", "train-00002-of-00002.parquet"),
    "no numbers": ("train.parquet", "train-more.parquet"),
}
BROKEN_SERIES = {
    "one did not arrive": (("train-00000-of-00003.parquet", "train-00002-of-00003.parquet"), "1 is missing"),
    "one did not arrive, with a hash": (("train-00000-of-00002-0a1b.parquet",), "1 is missing"),
    "downloaded twice": (
        (
            "train-00000-of-00002.parquet", "train-00001-of-00002.parquet",
            "train-00001-of-00002 (1).parquet",
        ),
        "1 is there 2 times",
    ),
    "one twice in the place of another": (
        ("train-00000-of-00002.parquet", "train-00000-of-00002 (1).parquet"), "1 is missing, 0 is there 2",
    ),
    "uploaded twice": (
        ("train-00000-of-00001-0a1b.parquet", "train-00000-of-00001-9f8e.parquet"), "0 is there 2 times",
    ),
    "beyond the last": (("train-00000-of-00001.parquet", "train-00007-of-00001.parquet"), "there is no 7"),
    "left of another export": (
        ("train-00000-of-00001.parquet", "train-00000-of-00002.parquet"), r"of 1 or 2",
    ),
    "beside one without": (("train-00000-of-00001.parquet", "train.parquet"), "of 1"),
}  # fmt: skip


@pytest.mark.parametrize(("names", "why"), BROKEN_SERIES.values(), ids=BROKEN_SERIES)
def test_shards_that_are_not_all_of_one_numbering_are_refused(shard, names, why):
    """A shard that is missing would pass for a smaller dataset, one too many would count its rows twice.

    So it is with the shards of a folder of examples, where they are in a series at all.
    """
    for name, pixels in zip(names, random_pixels(len(names)), strict=True):
        folder = shard(name, pixels[None], [0])
    with pytest.raises(BadInput, match=f"shards is .*; allowed: all of one numbering.*{why}"):
        read(folder)
    if "of 1" not in why:
        with pytest.raises(BadInput, match=f"allowed: all of one numbering.*{why}"):
            shards_in(folder, "examples")


@pytest.mark.parametrize("names", WHOLE_SERIES.values(), ids=WHOLE_SERIES)
def test_shards_that_are_all_of_one_numbering_are_read(shard, names):
    """The control: whatever follows the number, and from wherever it is counted."""
    for label, (name, pixels) in enumerate(zip(names, random_pixels(2), strict=True)):
        folder = shard(name, pixels[None], [label])
    assert sorted(read(folder)[0].labels.tolist()) == [0, 1]
    assert [file.name for file in shards_in(folder, "examples")] == sorted(names)


@pytest.mark.parametrize("name", ["training-set", "testing", "train2", "tests", "train-test", "test_train"])
def test_a_name_that_leaves_the_part_open_is_refused(shard, name):
    """It may be of either part or of none: read as training it would teach test images."""
    shard("train.parquet", random_pixels(1), [0])
    with pytest.raises(BadInput, match=f"name of a shard is '{name}.parquet'; allowed: train or test, then"):
        read(shard(f"{name}.parquet", random_pixels(1), [0]))


NAMES, TURNED = ("cat", "dog", "owl"), ("owl", "cat", "dog")


def test_labels_go_by_the_names_of_the_classes(shard):
    """Every label is that of the first shard's numbers, where its own shard numbers otherwise; it is said.

    The control: read by their numbers all of these labels would be wrong.
    """
    pixels, right = random_pixels(9), [0, 1, 2]
    folder = shard("train-00000-of-00002.parquet", pixels[:3], right, names=NAMES)
    shard("train-00001-of-00002.parquet", pixels[3:6], [TURNED.index(NAMES[i]) for i in right], names=TURNED)
    written = [TURNED.index(NAMES[i]) for i in right]
    shard("test.parquet", pixels[6:], written, names=TURNED)
    with pytest.warns(DataWarning, match="in another order; its labels were taken by their names") as said:
        train, test = read(folder)
    assert [str(w.message).split()[1] for w in said] == ["train-00001-of-00002.parquet", "test.parquet"]
    assert (train.labels.tolist(), test.labels.tolist()) == (right * 2, right)
    assert train.class_names == test.class_names == NAMES
    assert all(a != b for a, b in zip(written, right, strict=True))


def test_names_that_are_known_already_count(shard):
    """Of a published dataset or a model: a shard in another order is turned, and may have fewer of them."""
    folder = shard("train.parquet", random_pixels(2), [0, 1], names=TURNED[:2])
    with pytest.warns(DataWarning, match="another order"):
        train, _ = read(folder, num_classes=3, class_names=NAMES)
    assert train.labels.tolist() == [2, 0] and train.class_names == NAMES
    shard("train.parquet", random_pixels(1), [2], names=TURNED[:2])
    with (
        pytest.warns(DataWarning, match="another order"),
        pytest.raises(BadInput, match=r"label in row 0 .* is 2; allowed: a whole number in 0\.\.1"),
    ):
        read(folder, class_names=NAMES)


@pytest.mark.filterwarnings("error::rayunlearn.errors.DataWarning")
def test_shards_whose_names_agree_need_no_word(shard):
    """The control of the warnings; so it is where no shard has names, or the dataset's are known besides."""
    folder = shard("train.parquet", random_pixels(3), [0, 1, 2], names=NAMES)
    shard("test.parquet", random_pixels(3, seed=1), [2, 1, 0], names=NAMES)
    assert read(folder)[1].labels.tolist() == [2, 1, 0]
    shard("test.parquet", random_pixels(3, seed=1), [2, 1, 0])
    assert read(folder, class_names=NAMES)[1].labels.tolist() == [2, 1, 0]
    shard("train.parquet", random_pixels(3), [0, 1, 2])
    assert read(folder)[0].class_names is None


def test_shards_without_names_beside_others_are_told(shard):
    """Their numbers are taken for the others', and no label is beyond these."""
    folder = shard("train.parquet", random_pixels(3), [0, 1, 2], names=NAMES)
    shard("test.parquet", random_pixels(1, seed=1), [2])
    with pytest.warns(DataWarning, match=r"name no classes, beside others that do: test\.parquet"):
        assert read(folder)[1].labels.tolist() == [2]
    shard("test.parquet", random_pixels(1, seed=1), [3])
    with (
        pytest.warns(DataWarning),
        pytest.raises(BadInput, match=r"row 0 of test\.parquet is 3; allowed: .* 0\.\.2"),
    ):
        read(folder)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("cat", "dog", "emu"), r" test\.parquet is \['emu'\]; allowed: .*: cat, dog, owl$"),
        (("cat", "dog", "dog"), "allowed: different texts, in a list"),
        ((), "allowed: different texts, in a list"),
        ((1, 2, 3), "allowed: different texts, in a list"),
    ],
)
def test_names_that_cannot_be_mapped_are_refused(shard, names, said):
    """A class that the other shards have not, and what are no names."""
    folder = shard("train.parquet", random_pixels(3), [0, 1, 2], names=NAMES)
    shard("test.parquet", random_pixels(3, seed=1), [0, 1, 2], names=names)
    with pytest.raises(BadInput, match="names of classes in.*" + said):
        read(folder)


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [
        ({"huggingface": "{"}, True), ({"huggingface": '{"info": {"features": {}}}'}, False),
        ({"huggingface": '{"info": {"features": {"label": {"_type": "Value", "dtype": "int64"}}}}'}, False),
        ({"huggingface": "[]"}, False), ({"pandas": "{}"}, False),
    ],
)  # fmt: skip
def test_metadata_that_name_no_classes(tmp_path, metadata, refused):
    """Other metadata say nothing of classes; those that nobody can read are refused."""
    pq.write_table(table().replace_schema_metadata(metadata), tmp_path / "train.parquet")
    if refused:
        with pytest.raises(BadInput, match="allowed: readable JSON"):
            read(tmp_path)
    else:
        assert read(tmp_path)[0].class_names is None


def test_every_named_class_has_samples(shard):
    """A class that has a name and no image is told by it, though no greater label is there."""
    train, _ = read(shard("train.parquet", random_pixels(2), [0, 1], names=NAMES))
    with pytest.raises(BadInput, match=r"training part is 2; .* 0\.\.2 .*; absent: 2 \(owl\)$"):
        count_classes((train, None), "made")


def test_examples_are_understood_by_the_names_of_a_model(shard):
    """The labels are the model's, whatever their order in the file; without names they are its numbers."""
    folder = shard("a.parquet", random_pixels(2), [0, 1], names=TURNED)
    with pytest.warns(DataWarning, match="another order"):
        named = read_shards([folder / "a.parquet"], "examples", 3, (3, 4, 4), NAMES)
    assert named.labels.tolist() == [2, 0]
    shard("a.parquet", random_pixels(2), [0, 1])
    assert read_shards([folder / "a.parquet"], "examples", 3, (3, 4, 4), NAMES).labels.tolist() == [0, 1]


@given(st.data())
def test_damaged_images_are_images_or_refused(data):
    """Whatever bytes of an image are changed or cut off, nothing but BadInput is raised."""
    content = bytearray(packed(random_pixels(1, size=8)[0], data.draw(st.sampled_from(FORMATS))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(BadInput):
        pixels = decode(content, "row 0", "made")
        assert pixels.ndim == 3 and pixels.dtype == np.uint8


def labelled(*labels):
    """A part with these labels."""
    return Part(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), torch.tensor(labels))


def test_classes_are_counted_over_both_parts():
    """The largest label of either part + 1, where both parts have every class."""
    assert count_classes((labelled(2, 0, 1, 0), None), "made") == 3
    assert count_classes((labelled(2, 0, 1, 0), labelled(0, 1, 2)), "made") == 3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((labelled(0, 3, 1), None), r"training part is 3; .* 0\.\.3 .*; absent: 2$"),
        ((labelled(0, 1), labelled(0, 1, 2)), r"training part is 2; .* 0\.\.2 .*; absent: 2$"),
        ((labelled(0, 1, 2), labelled(0, 2)), r"test part is 2; .* absent: 1$"),
        ((labelled(2**62), None), "absent: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"),
    ],
)
def test_absent_classes_are_named(parts, message):
    """A class without samples in a part is refused, and named; of many the first ten."""
    with pytest.raises(BadInput, match=message):
        count_classes(parts, "made")
