"""Preprocessing from Hugging Face's and timm's files, and the flags that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.cli.class_list import class_names, names_beside
from rayunlearn.cli.model_flags import ModelFlags
from rayunlearn.cli.preprocessor_file import read_preprocessor
from rayunlearn.errors import BadInput
from rayunlearn.preprocessing import Preprocessing
from rayunlearn.recipes import Recipe
from rayunlearn.settings import override

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMALISED: dict[str, Any] = {"do_normalize": True, "image_mean": MEAN, "image_std": STD}
VIT = {
    **NORMALISED, "do_resize": True, "size": {"height": 224, "width": 224}, "resample": 2, "do_rescale": True,
    "rescale_factor": 1 / 255, "image_processor_type": "ViTImageProcessor",
}  # fmt: skip
CLIP = {
    **NORMALISED, "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "do_convert_rgb": True,
}  # fmt: skip
CONVNEXT = {
    **NORMALISED, "do_resize": True, "size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3,
    "image_processor_type": "ConvNextImageProcessorFast",
}  # fmt: skip
TIMM = {
    "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
    "mean": MEAN, "std": STD,
}  # fmt: skip


def written(folder: Path, said: object, name: str = "preprocessor_config.json") -> Path:
    """The file."""
    (folder / name).write_text(said if isinstance(said, str) else json.dumps(said))
    return folder / name


@pytest.mark.parametrize(
    ("said", "how"),
    [
        (VIT, Preprocessing(resize=(224, 224))),
        ({**VIT, "size": 224}, Preprocessing(resize=(224, 224))),
        (CLIP, Preprocessing(resize=224, crop=(224, 224), interpolation="bicubic", channels=3)),
        (
            {**CLIP, "crop_size": 200},
            Preprocessing(resize=224, crop=(200, 200), interpolation="bicubic", channels=3),
        ),
        (CONVNEXT, Preprocessing(resize=256, crop=224, interpolation="bicubic")),
        (
            {**CONVNEXT, "size": {"shortest_edge": 384}},
            Preprocessing(resize=(384, 384), interpolation="bicubic"),
        ),
        ({**VIT, "do_resize": False, "resample": 0}, Preprocessing(interpolation="nearest")),
        (TIMM, Preprocessing(resize=248, crop=(224, 224), interpolation="bicubic", channels=3)),
        (
            {"architecture": "x", "pretrained_cfg": {**TIMM, "crop_mode": "squash", "crop_pct": 1.0}},
            Preprocessing(resize=(224, 224), crop=(224, 224), interpolation="bicubic", channels=3),
        ),
    ],
)  # fmt: skip
def test_a_file_says_what_its_library_does(tmp_path: Path, said: dict[str, Any], how: Preprocessing) -> None:
    """Size, crop, interpolation and channels; mean and std beside."""
    found = read_preprocessor(written(tmp_path, said))
    assert found.preprocessing == how
    assert (found.mean, found.std) == (tuple(MEAN), tuple(STD))


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({**VIT, "resample": 1}, r"resample is 1; allowed: 0 \(nearest\)"),
        ({**VIT, "do_pad": True}, "do_pad is True"),
        ({**VIT, "rescale_factor": 1 / 127.5}, "do_rescale"),
        ({**VIT, "do_rescale": False}, "do_rescale is"),
        ({**VIT, "size": {"longest_edge": 3}}, "size is .*shortest_edge"),
        ({**VIT, "size": 224, "image_processor_type": "New"}, "one number means either"),
        ({**VIT, "image_mean": "0.5"}, "image_mean is '0.5'"),
        ({**CLIP, "crop_size": {"shortest_edge": 224}}, "crop_size"),
        ({**TIMM, "interpolation": "random"}, "interpolation is 'random'"),
        ({**TIMM, "crop_mode": "border"}, "crop_mode is 'border'"),
        ({**TIMM, "input_size": [3, 224]}, "input_size"),
        ({**TIMM, "crop_pct": -1}, "crop_pct is -1"),
        ({"a": 1}, "a preprocessor_config.json of Hugging Face, or a config of timm"),
        ("[1]", "a JSON object"),
        ("{", "a JSON object"),
    ],
)
def test_what_is_not_done_here_is_refused(tmp_path: Path, said: object, error: str) -> None:
    """By its name: an image prepared otherwise than in the training is worse than an error."""
    with pytest.raises(BadInput, match=error):
        read_preprocessor(written(tmp_path, said))
    with pytest.raises(BadInput, match="--preprocessing is .*a readable file"):
        read_preprocessor(tmp_path / "nowhere.json")


def recipe(**flags: Any) -> Recipe:
    """A recipe with what these flags say."""
    return override(Recipe(name="made"), ModelFlags(**flags).assignments())


def test_the_flag_states_all_of_a_model_at_once(tmp_path: Path) -> None:
    """Shape, mean and std of a model that is stated; of data that one is trained on mean and std."""
    path = written(tmp_path, CLIP)
    given = recipe(preprocessing=path, classes=3)
    task = given.model.task
    assert task is not None and task.input.shape == (3, 224, 224) and task.input.mean == tuple(MEAN)
    assert given.data.preprocessing == read_preprocessor(path).preprocessing and given.data.mean is None
    trained = recipe(preprocessing=path)
    assert trained.model.task is None and trained.data.mean == tuple(MEAN) and trained.data.std == tuple(STD)
    assert recipe(preprocessing=path, classes=3).config_hash != recipe().config_hash


@pytest.mark.parametrize(
    ("said", "flags", "error"),
    [
        (CLIP, {"mean": "0.5,0.5,0.5"}, "--mean is .*none beside --preprocessing"),
        ({**VIT, "do_normalize": False}, {}, "a file that states mean and std"),
        ({**VIT, "do_resize": False}, {"classes": 3}, "--input is None; allowed: stated"),
    ],
)
def test_nothing_is_stated_twice_or_not_at_all(
    tmp_path: Path, said: dict[str, Any], flags: dict[str, Any], error: str
) -> None:
    """What the file does not say is asked for; what it says is not taken from a flag as well."""
    with pytest.raises(BadInput, match=error):
        recipe(preprocessing=written(tmp_path, said), **flags)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "cat\ndog\n\nowl\n"),
        ("names.json", '["cat", "dog", "owl"]'),
        ("names.json", '{"0": "cat", "2": "owl", "1": "dog"}'),
        ("names.json", '{"cat": 0, "owl": 2, "dog": 1}'),
        ("config.json", '{"id2label": {"0": "cat", "1": "dog", "2": "owl"}, "x": 1}'),
        ("config.json", '{"pretrained_cfg": {"label_names": ["cat", "dog", "owl"]}}'),
    ],
)
def test_names_of_classes_come_from_a_file_or_the_flag(tmp_path: Path, name: str, content: str) -> None:
    """In the order of their numbers."""
    assert class_names(str(written(tmp_path, content, name))) == ["cat", "dog", "owl"]
    assert class_names("cat, dog,owl") == class_names('["cat","dog","owl"]') == ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"0": "cat", "2": "owl"}', r"numbers of classes in names.json is \['1', '2'\]"),
        ('{"0": ""}', "texts in a list"),
        ("{", "a JSON object"),
        ("[1]", "texts in a list"),
        ("[1", "a JSON list of texts"),
    ],
)
def test_a_file_of_no_names_is_refused(tmp_path: Path, content: str, said: str) -> None:
    """A gap in the numbers, a name that is no text, no JSON; and a file that is not there."""
    with pytest.raises(BadInput, match=said):
        class_names(str(written(tmp_path, content, "names.json")))
    with pytest.raises(BadInput, match="a file that is there"):
        class_names("nowhere.txt")


def test_the_models_own_config_names_its_classes(tmp_path: Path) -> None:
    """Beside the checkpoint, where its number fits and a person named them; the flag counts more."""
    checkpoint = tmp_path / "model.safetensors"
    stated = {"checkpoint": checkpoint, "input": "1,8,8", "mean": "0.5", "std": "0.5"}
    assert recipe(**stated, classes=2).model.class_names is None
    written(tmp_path, {"id2label": {"0": "cat", "1": "dog"}}, "config.json")
    assert recipe(**stated, classes=2).model.class_names == ("cat", "dog")
    assert recipe(**stated, classes=3).model.class_names is None
    assert recipe(**stated, classes=2, class_names="a,b").model.class_names == ("a", "b")
    assert recipe(class_names="a,b").data.class_names == ("a", "b")  # of data, where no model is stated
    written(tmp_path, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "config.json")
    assert names_beside(checkpoint) is None
